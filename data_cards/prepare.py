"""Rebuild a data set's files from a clone of the public repository that holds it, and check every voxel.

    python data_cards/prepare.py openkbp --from CLONE --to FOLDER
    python data_cards/prepare.py openkbp --check FOLDER

What is changed on the way is told in the set's card beside this file. Each file's decoded content (shape,
affine, voxel values; see `graftwork_medseg.domain.content`) must have the hash that `hashes/SET.json` lists; a file
that differs is named and not written, and `dataset.json` is written last, so a folder with one is complete.
Nothing is downloaded: cloning is yours to do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from graftwork.errors import GraftError
from graftwork_medseg.domain.content import content_hash
from graftwork_medseg.files import publish
from graftwork_medseg.images.nifti import Array, open_image, read_voxels

HASHES = Path(__file__).parent / "hashes"
SHOWN = 10  # differing files that an error names


@dataclass(frozen=True)
class Volume:
    """One file to write: its path in the folder, voxels in their final type, affine, and what partial.json
    says of the case (openkbp's images alone)."""

    path: str
    voxels: Array
    affine: Array
    facts: dict[str, Any] | None = None


# ---- OpenKBP: index lists to volumes ----

SIDE = 128
ORGANS = (
    "Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible",
)  # fmt: skip
PARTS = {"train": "train-pats", "validation": "valid-pats", "test": "test-pats"}


def read_list(file: Path, values: bool) -> tuple[Array, Array]:
    """An upstream CSV, ",data" and lines "index,value" (masks: "index,"): indices and values (masks: ones).

    Raises GraftError for a missing file, another header, or a line without an index below 128^3.
    """
    if not file.is_file():
        raise GraftError(f"{file}: missing in the clone; is it complete, with large files?")
    lines = file.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].strip() != ",data":
        raise GraftError(f"{file}: the first line must be ',data'; is this open-kbp's layout?")
    pairs = [line.partition(",") for line in lines[1:] if line.strip()]
    try:
        index = np.array([int(a) for a, _, _ in pairs], dtype=np.int64)
        data = np.array([float(b) if values else 1.0 for _, _, b in pairs])
    except ValueError as error:
        raise GraftError(f"{file}: not lines of 'index,value': {error}") from error
    if len(index) and not (index.min() >= 0 and index.max() < SIDE**3):
        raise GraftError(f"{file}: holds an index outside 0 to {SIDE**3 - 1}")
    if not np.isfinite(data).all():
        raise GraftError(f"{file}: holds a value that is not a number")
    return index, data


def to_ras(flat: Array) -> Array:
    """128^3 values in upstream's order, flat, to a volume in RAS+ order.

    Upstream does not say which way its axes run. Swapping the first two and reversing all three puts patient
    1's organs where they belong and brings every checked voxel of its CSV files to its place.
    """
    return np.ascontiguousarray(flat.reshape((SIDE,) * 3).transpose(1, 0, 2)[::-1, ::-1, ::-1])


def from_ras(volume: Array) -> Array:
    """The inverse of `to_ras`: flat values in upstream's order."""
    return np.ascontiguousarray(volume[::-1, ::-1, ::-1].transpose(1, 0, 2)).reshape(-1)


def patient(folder: Path, part: str) -> Iterator[Volume]:
    """The CT (int16, Hounsfield-like) and the labels (uint8) of one upstream patient folder."""
    index, values = read_list(folder / "ct.csv", values=True)
    stored = np.zeros(SIDE**3)
    stored[index] = values
    stored = np.clip(np.rint(stored), 0, 4095)
    label = np.zeros(SIDE**3, np.uint8)
    annotated = [o for o in ORGANS if (folder / f"{o}.csv").is_file()]
    for value, organ in enumerate(ORGANS, 1):  # in this order: where masks overlap the higher wins
        if organ in annotated:
            label[read_list(folder / f"{organ}.csv", values=False)[0]] = value
    spacing = voxel_size(folder / "voxel_dimensions.csv")
    affine = np.diag([spacing[1], spacing[0], spacing[2], 1.0])
    affine[:3, 3] = -(SIDE - 1) / 2 * np.diag(affine)[:3]  # upstream has no origin
    counts = {o: int((label == v).sum()) for v, o in enumerate(ORGANS, 1) if o in annotated}
    facts = {
        "annotated": annotated,
        "not_annotated": [o for o in ORGANS if o not in annotated],
        "voxels": counts,
        "spacing_mm": [round(float(s), 3) for s in (spacing[1], spacing[0], spacing[2])],
        "ct_coverage": round(float((stored[label > 0] > 0).mean()), 4) if label.any() else 1.0,
        "upstream_part": part,
    }
    name = f"{folder.name}.nii.gz"
    yield Volume(f"images/{name}", to_ras(stored - 1000).astype(np.int16), affine, facts)
    yield Volume(f"labels/{name}", to_ras(label), affine)


def voxel_size(file: Path) -> list[float]:
    """Three numbers of mm, one a line. Raises GraftError otherwise."""
    try:
        sizes = [float(line) for line in file.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise GraftError(
            f"{file}: three lines with a voxel size in mm are needed: {error}"
        ) from error
    if len(sizes) != 3 or not all(0 < s < 100 for s in sizes):
        raise GraftError(f"{file}: three positive voxel sizes in mm are needed, not {sizes}")
    return sizes


def openkbp(clone: Path, wanted: set[str]) -> Iterator[Volume]:
    """The wanted patients of a clone of open-kbp."""
    root = clone / "provided-data"
    if not any((root / p).is_dir() for p in PARTS.values()):
        raise GraftError(
            f"{root}: has none of {', '.join(PARTS.values())}; give a clone of open-kbp"
        )
    names = {Path(path).name.removesuffix(".nii.gz") for path in wanted}
    for name in sorted(names, key=lambda n: int(n.removeprefix("pt_"))):
        found = [
            (p, root / folder / name)
            for p, folder in PARTS.items()
            if (root / folder / name).is_dir()
        ]
        if not found:
            raise GraftError(f"{root}: patient {name} is in none of {', '.join(PARTS.values())}")
        part, folder = found[0]
        yield from patient(folder, part)


# ---- hippocampus and synthseg: NIfTI to NIfTI ----


def hippocampus(clone: Path, wanted: set[str]) -> Iterator[Volume]:
    """The wanted pairs of the Decathlon's Task04 in a clone of its mirror; labels become uint8."""
    root = clone / "data" / "TrainingSet"
    for path in sorted(wanted):
        kind, name = path.split("/")
        image, file = load(root / {"imagesTr": "images", "labelsTr": "labels"}[kind] / name)
        stored = np.asarray(file.dataobj)
        yield Volume(path, image.astype(np.uint8) if kind == "labelsTr" else stored, file.affine)


def synthseg(clone: Path, wanted: set[str]) -> Iterator[Volume]:
    """The wanted label maps of a clone of SynthSeg, cut to the box of what is not 0; int16."""
    for path in sorted(wanted):
        voxels, file = load(clone / "data" / "training_label_maps" / Path(path).name)
        where = np.argwhere(voxels != 0)
        if not len(where):
            raise GraftError(f"{path}: the label map of the clone is empty")
        low, high = where.min(0), where.max(0) + 1
        affine = np.array(file.affine, dtype=np.float64)
        affine[:3, 3] += affine[:3, :3] @ low
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        yield Volume(path, voxels[box].astype(np.int16), affine)


def load(file: Path) -> tuple[Array, Any]:
    """Voxels and image of a clone's NIfTI file. Raises GraftError as the reader does."""
    if not file.is_file():
        raise GraftError(
            f"{file}: missing in the clone; check that it is the card's repository and commit, with "
            "large files"
        )
    image = open_image(file)
    return read_voxels(image, file), image


SETS: dict[str, Callable[[Path, set[str]], Iterator[Volume]]] = {
    "openkbp": openkbp,
    "hippocampus": hippocampus,
    "synthseg": synthseg,
}


# ---- writing and checking ----


def manifest_of(name: str) -> dict[str, Any]:
    """`hashes/NAME.json`: repository, commit, dataset.json, and the hash of each file's content.

    Raises GraftError for an unknown set.
    """
    file = HASHES / f"{name}.json"
    if name not in SETS or not file.is_file():
        raise GraftError(f"SET {name!r}: choose one of {', '.join(SETS)}")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def prepare(
    name: str, clone: Path, folder: Path, say: Callable[[str], None], manifest: dict[str, Any]
) -> None:
    """Rebuild `manifest`'s files of set `name` into `folder`.

    Raises GraftError: no such clone, a folder that is not empty, a file that the clone lacks or that is not
    in upstream's layout, or content that differs from the manifest (all such files are named).
    """
    if not clone.is_dir():
        raise GraftError(f"--from {clone}: no such folder; clone {manifest['repository']} there")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GraftError(f"--to {folder}: is not an empty folder; give a new one")
    commit = commit_of(clone)
    if commit not in (None, manifest["commit"]):
        say(f"note: the clone is at {commit[:12]}, the card names {manifest['commit'][:12]}")
    wanted: dict[str, str] = manifest["files"]
    partial: dict[str, Any] = {}
    wrong: list[str] = []
    done: set[str] = set()
    for volume in SETS[name](clone, set(wanted)):
        done.add(volume.path)
        if content_hash(volume.voxels, as_stored(volume.affine)) != wanted[volume.path]:
            wrong.append(volume.path)
            continue
        write(folder / volume.path, volume)
        if volume.facts is not None:
            partial[Path(volume.path).name.removesuffix(".nii.gz")] = volume.facts
        if len(done) % 50 == 0:
            say(f"{len(done)} of {len(wanted)} files")
    wrong += sorted(set(wanted) - done)
    refuse(wrong, f"{clone}: content differs from {name}'s manifest, so the folder is not complete")
    if partial:
        write_json(folder / "partial.json", partial)
    write_json(folder / "dataset.json", manifest["dataset"])
    say(f"{folder}: {len(wanted)} files, every hash as the manifest says")


def check(name: str, folder: Path, manifest: dict[str, Any], say: Callable[[str], None]) -> None:
    """Compare a prepared folder with the manifest. Raises GraftError that names files that differ."""
    wrong = []
    for path, wanted in manifest["files"].items():
        file = folder / path
        if not file.is_file() or hash_file(file) != wanted:
            wrong.append(path)
    refuse(wrong, f"{folder}: missing or not as {name}'s manifest says")
    say(f"{folder}: {len(manifest['files'])} files, every hash as the manifest says")


def hash_file(file: Path) -> str:
    """The content hash of a NIfTI file."""
    image = open_image(file)
    return content_hash(read_voxels(image, file), image.affine)


def refuse(wrong: list[str], what: str) -> None:
    """Raise GraftError that names the first files of `wrong`, if there are any."""
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise GraftError(f"{what}: {', '.join(wrong[:SHOWN])}{more}")


def as_stored(affine: Array) -> Array:
    """An affine as a NIfTI header keeps it, in single precision."""
    return np.asarray(affine, np.float32).astype(np.float64)


def write(file: Path, volume: Volume) -> None:
    """Write a NIfTI file, atomically, with sform and qform."""
    image = nib.Nifti1Image(volume.voxels, volume.affine)
    image.header.set_xyzt_units("mm")
    with publish(file) as temporary:
        nib.save(image, temporary)


def write_json(file: Path, content: Any) -> None:
    """Write JSON, atomically."""
    with publish(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def commit_of(clone: Path) -> str | None:
    """The commit that a clone is at; None where git cannot tell (an unpacked archive)."""
    try:
        out = subprocess.run(
            ["git", "-C", str(clone), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None if out.returncode == 0 and (clone / ".git").exists() else None


def main(argv: list[str] | None = None) -> int:
    """The command: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="data_cards/prepare.py", description=__doc__)
    parser.add_argument("set", metavar="SET", help=", ".join(SETS))
    parser.add_argument("--from", dest="clone", type=Path, help="clone of the public repository")
    parser.add_argument("--to", dest="folder", type=Path, help="folder to write")
    parser.add_argument("--check", type=Path, help="instead: check a prepared folder")
    args = parser.parse_args(argv)

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        manifest = manifest_of(args.set)
        if args.check is not None:
            check(args.set, args.check, manifest, say)
        elif args.clone is None or args.folder is None:
            raise GraftError("give --from CLONE and --to FOLDER, or --check FOLDER")
        else:
            prepare(args.set, args.clone, args.folder, say, manifest)
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
