"""prepare.py: a clone in upstream's layout becomes the manifest's files, voxel by voxel, or is refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_cards import prepare
from graftwork.errors import GraftError

SETS = ("openkbp", "hippocampus", "synthseg")


def save(path: Path, array: Any, affine: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def read(path: Path) -> tuple[Any, Any]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


# ---- prepared folders, made up ----


def made_up(name: str, folder: Path) -> dict[str, Any]:
    """A small prepared folder; its manifest."""
    rng = np.random.default_rng(0)
    if name == "openkbp":
        for k, patient in enumerate(("pt_3", "pt_12")):
            spacing = np.array([3.906, 3.906, 2.5 + k])
            affine = np.diag([*spacing, 1.0])
            affine[:3, 3] = -63.5 * spacing
            ct = np.full((128, 128, 128), -1000, np.int16)
            ct[40:50, 30:37, 20:80] = rng.integers(-1000, 3096, (10, 7, 60))
            label = np.zeros(ct.shape, np.uint8)
            for value in (1, 2, 5, 7 - k):
                label[41 + value, 31:35, 30 : 40 + value] = value
            save(folder / "images" / f"{patient}.nii.gz", ct, affine)
            save(folder / "labels" / f"{patient}.nii.gz", label, affine)
    elif name == "hippocampus":
        for k, subject in enumerate(("hippocampus_001", "hippocampus_099")):
            image = rng.normal(size=(9, 12, 7)).astype(np.float32)
            stored = image if k else (100 * np.abs(image)).astype(np.uint8)
            save(folder / "imagesTr" / f"{subject}.nii.gz", stored, np.eye(4))
            save(folder / "labelsTr" / f"{subject}.nii.gz", (image > 1).astype(np.uint8), np.eye(4))
    else:
        affine = np.array([[-1.0, 0, 0, 78.5], [0, 0, 1, -111.25], [0, -1, 0, 94], [0, 0, 0, 1]])
        label = rng.integers(1, 60, (11, 9, 13)).astype(np.int16)
        label[3:5, 2:4] = 0
        save(folder / "labels" / "training_seg_04.nii.gz", label, affine)
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.nii.gz"))
    return {
        "repository": "https://example.org/clone",
        "commit": "0" * 40,
        "dataset": {"name": name},
        "files": {path: prepare.hash_file(folder / path) for path in files},
    }


# ---- clones in upstream's layout, by the inverse of what prepare does ----


def clone_openkbp(folder: Path, clone: Path, paths: list[str]) -> None:
    for path in (p for p in paths if p.startswith("images/")):
        name = Path(path).name.removesuffix(".nii.gz")
        ct, affine = read(folder / path)
        label, _ = read(folder / "labels" / f"{name}.nii.gz")
        part = ("train-pats", "valid-pats", "test-pats")[int(name[3:]) % 3]
        home = clone / "provided-data" / part / name
        home.mkdir(parents=True)
        stored = prepare.from_ras(ct).astype(int) + 1000
        lines = [f"{i},{stored[i]}.0" for i in np.flatnonzero(stored)]
        (home / "ct.csv").write_text("\n".join([",data", *lines]) + "\n")
        flat = prepare.from_ras(label)
        for value, organ in enumerate(prepare.ORGANS, 1):
            if (flat == value).any():
                inside = [f"{i}," for i in np.flatnonzero(flat == value)]
                (home / f"{organ}.csv").write_text("\n".join([",data", *inside]) + "\n")
        sizes = np.linalg.norm(affine[:3, :3], axis=0).round(3)
        (home / "voxel_dimensions.csv").write_text("".join(f"{s:.18e}\n" for s in sizes))


def clone_hippocampus(folder: Path, clone: Path, paths: list[str]) -> None:
    for path in paths:
        array, affine = read(folder / path)
        kind = "labels" if path.startswith("labels") else "images"
        stored = array.astype(np.float32) if kind == "labels" else array
        save(clone / "data" / "TrainingSet" / kind / Path(path).name, stored, affine)


def clone_synthseg(folder: Path, clone: Path, paths: list[str]) -> None:
    for path in paths:
        array, affine = read(folder / path)
        before = np.array([5, 3, 8])
        wide = np.pad(array.astype(np.int32), [(b, 6) for b in before])
        affine = np.array(affine)
        affine[:3, 3] -= affine[:3, :3] @ before
        save(clone / "data" / "training_label_maps" / Path(path).name, wide, affine)


CLONES = dict(zip(SETS, (clone_openkbp, clone_hippocampus, clone_synthseg), strict=True))


@pytest.fixture(params=SETS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path, dict[str, Any]]:
    """Set name, prepared folder, clone and manifest."""
    prepared, clone = tmp_path / "prepared", tmp_path / "clone"
    manifest = made_up(request.param, prepared)
    CLONES[request.param](prepared, clone, list(manifest["files"]))
    return request.param, prepared, clone, manifest


def test_a_clone_becomes_the_same_files(case: Any, tmp_path: Path) -> None:
    name, prepared, clone, manifest = case
    out, said = tmp_path / "out", []
    prepare.prepare(name, clone, out, said.append, manifest)
    for path in manifest["files"]:
        (a, affine), (b, other) = read(prepared / path), read(out / path)
        assert a.dtype == b.dtype and np.array_equal(a, b) and np.array_equal(affine, other)
    assert json.loads((out / "dataset.json").read_text()) == {"name": name}
    assert "every hash as the manifest says" in said[-1]
    prepare.check(name, out, manifest, said.append)
    if name == "openkbp":
        facts = json.loads((out / "partial.json").read_text())
        assert facts["pt_3"]["annotated"] == ["Brainstem", "SpinalCord", "Esophagus", "Mandible"]
        assert facts["pt_12"]["not_annotated"] == ["RightParotid", "LeftParotid", "Mandible"]
        assert facts["pt_3"]["voxels"]["Brainstem"] == 44
        assert facts["pt_12"]["spacing_mm"] == [3.906, 3.906, 3.5]
        assert facts["pt_3"]["upstream_part"] == "train"


def test_a_changed_voxel_is_named_and_the_folder_stays_incomplete(
    case: Any, tmp_path: Path
) -> None:
    name, _, clone, manifest = case
    files = sorted(p for p in clone.rglob("*") if p.name in ("ct.csv", "training_seg_04.nii.gz")
                   or ("images" in str(p.parent) and p.is_file()))  # fmt: skip
    if name == "openkbp":
        lines = files[0].read_text().splitlines()
        index, _, value = lines[7].partition(",")
        lines[7] = f"{index},{float(value) + 1}"
        files[0].write_text("\n".join(lines))
        expected = f"images/{files[0].parent.name}.nii.gz"
    else:
        array, affine = read(files[0])
        array = np.array(array)
        array[tuple(n // 2 for n in array.shape)] += 1
        save(files[0], array, affine)
        expected = next(p for p in manifest["files"] if p.endswith(files[0].name) and p[0] in "il")
    with pytest.raises(GraftError, match="content differs") as error:
        prepare.prepare(name, clone, tmp_path / "out", print, manifest)
    assert expected in str(error.value)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert not (tmp_path / "out" / expected).exists()


def test_a_file_that_the_clone_lacks_is_named(case: Any, tmp_path: Path) -> None:
    name, _, clone, manifest = case
    file = sorted(p for p in clone.rglob("*") if p.suffix in (".csv", ".gz"))[-1]
    if name == "openkbp":
        file = next(clone.rglob("ct.csv"))
    file.unlink()
    with pytest.raises(GraftError, match=f"{file.name}: missing in the clone"):
        prepare.prepare(name, clone, tmp_path / "out", print, manifest)


def test_a_prepared_folder_is_checked(case: Any) -> None:
    name, prepared, _, manifest = case
    path = next(iter(manifest["files"]))
    array, affine = read(prepared / path)
    save(prepared / path, array, affine + np.diag([0.01, 0, 0, 0]))
    with pytest.raises(GraftError, match=f"not as {name}'s manifest says: {path}$"):
        prepare.check(name, prepared, manifest, print)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index,data\n1,2\n", "first line must be ',data'"),
        (",data\n1,two\n", "not lines of 'index,value'"),
        (f",data\n{128**3},1.0\n", "outside 0 to 2097151"),
        (",data\n5,nan\n", "not a number"),
    ],
)
def test_a_damaged_list_is_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "ct.csv"
    file.write_text(content)
    with pytest.raises(GraftError, match=message) as error:
        prepare.read_list(file, values=True)
    assert str(file) in str(error.value)


@given(st.tuples(*[st.integers(0, 127)] * 3))
def test_the_axes_turn_back_and_forth(where: tuple[int, int, int]) -> None:
    i, j, k = where
    flat = np.zeros(128**3, np.uint8)
    flat[(i * 128 + j) * 128 + k] = 1
    volume = prepare.to_ras(flat)
    assert np.argwhere(volume).tolist() == [[127 - j, 127 - i, 127 - k]]
    assert np.array_equal(prepare.from_ras(volume), flat)


def test_where_masks_overlap_the_higher_label_wins(tmp_path: Path) -> None:
    home = tmp_path / "pt_1"
    home.mkdir()
    (home / "ct.csv").write_text(",data\n7,5000.4\n9,3.5\n")
    (home / "voxel_dimensions.csv").write_text("4.0\n3.0\n2.0\n")
    (home / "Larynx.csv").write_text(",data\n7,\n9,\n")
    (home / "SpinalCord.csv").write_text(",data\n9,\n8,\n")
    image, label = prepare.patient(home, "train")
    assert prepare.from_ras(label.voxels)[6:10].tolist() == [0, 6, 2, 6]
    assert prepare.from_ras(image.voxels)[6:10].tolist() == [-1000, 3095, -1000, -996]
    assert image.affine.tolist() == label.affine.tolist()
    assert np.diag(image.affine).tolist() == [3.0, 4.0, 2.0, 1.0]
    assert image.facts is not None and image.facts["ct_coverage"] == pytest.approx(0.6667)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "SET 'nonsense': choose one of openkbp, hippocampus, synthseg"),
        (["openkbp"], "give --from CLONE and --to FOLDER"),
        (
            ["openkbp", "--from", "nowhere", "--to", "out"],
            "no such folder; clone https://github.com",
        ),
        (["openkbp", "--from", ".", "--to", "."], "is not an empty folder"),
        (["openkbp", "--from", ".", "--to", "out"], "give a clone of open-kbp"),
        (["synthseg", "--from", ".", "--to", "out"], "missing in the clone"),
        (["hippocampus", "--check", "."], "not as hippocampus's manifest says: imagesTr/"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").write_text("here")
    assert prepare.main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and message in printed and printed.count("\n") == 1


def test_another_commit_is_told(case: Any, tmp_path: Path) -> None:
    name, _, clone, manifest = case
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", "-C", str(clone), *command], check=True)
    said: list[str] = []
    prepare.prepare(name, clone, tmp_path / "out", said.append, manifest)
    assert said[0].startswith("note: the clone is at ") and "the card names 0000" in said[0]


@pytest.mark.parametrize("name", SETS)
def test_the_committed_manifests_are_whole(name: str) -> None:
    manifest = prepare.manifest_of(name)
    count = {"openkbp": 492, "hippocampus": 400, "synthseg": 16}[name]
    assert len(manifest["files"]) == count and len(manifest["commit"]) == 40
    assert all(len(h) == 64 for h in manifest["files"].values())
    card = (prepare.HASHES.parent / f"{name}.md").read_text(encoding="utf-8")
    assert manifest["repository"] in card and manifest["commit"] in card
    listed = manifest["dataset"].get("training", [])
    assert {c["image"].removeprefix("./") for c in listed} <= set(manifest["files"])


@pytest.mark.parametrize("name", SETS)
def test_real_files_survive_the_way_through_a_clone(name: str, tmp_path: Path) -> None:
    root = os.environ.get("GRAFTWORK_DATA")
    if not root:
        pytest.skip(
            "GRAFTWORK_DATA is unset: it names the folder that holds the prepared data sets"
        )
    folder, manifest = Path(root) / name, prepare.manifest_of(name)
    some = {"openkbp": ("pt_1.", "pt_131."), "hippocampus": ("_001.", "_003."),
            "synthseg": ("seg_03.",)}[name]  # fmt: skip
    manifest["files"] = {
        path: h for path, h in manifest["files"].items() if any(s in path for s in some)
    }
    assert len(manifest["files"]) == {"openkbp": 4, "hippocampus": 4, "synthseg": 1}[name]
    CLONES[name](folder, tmp_path / "clone", list(manifest["files"]))
    prepare.prepare(name, tmp_path / "clone", tmp_path / "out", print, manifest)
    if name == "openkbp":
        wanted = json.loads((folder / "partial.json").read_text())["pt_131"]
        found = json.loads((tmp_path / "out" / "partial.json").read_text())["pt_131"]
        wanted["upstream_part"] = found["upstream_part"]  # the clone above invents it
        assert found == wanted
