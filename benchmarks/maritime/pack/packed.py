"""Results and grafts in a few files of a size that a machine gives back."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from benchmarks.joblist import parts
from benchmarks.joblist.failures import FAILED
from benchmarks.maritime.pack.jobs import CONTAMINATION, HEADLINE, LIVE, SLOTS
from graftwork.errors import GraftError

ARCHIVE = "maritime-pack.tar.gz"
MIB = 2**20
RESULTS = ("*.json", "*.jsonl", "*.error.txt")
TENSORS = "*.safetensors"


def grafts(out: Path) -> set[Path]:
    """Folders of trained weights that are in `out`."""
    tops = (out / HEADLINE / "grafts", out / SLOTS / "trained", out / LIVE)
    return {file.parent for top in tops for file in top.rglob(TENSORS)}


def pack(
    out: Path, before: Collection[Path], to: Path, mebibytes: int, files: int, say: Callable[[str], None]
) -> None:  # fmt: skip
    """Write all results, and of the grafts that are new those that have room, as parts and their list.

    Args:
        before: the folders of grafts that were there at the start.
        files: how many parts at most.
    """
    room = files * mebibytes * MIB
    with tempfile.TemporaryDirectory(dir=out if out.is_dir() else None) as temporary:
        archive = Path(temporary) / ARCHIVE
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            for part in (HEADLINE, SLOTS, CONTAMINATION, LIVE, FAILED):
                for path in sorted(p for glob in RESULTS for p in (out / part).glob(glob)):
                    tar.add(path, path.relative_to(out).as_posix())
            notes = ((HEADLINE, "grafts"), (SLOTS, "trained"))
            for path in sorted(p for n in notes for p in (out / Path(*n)).glob("*.json")):
                tar.add(path, path.relative_to(out).as_posix())
            left = []
            for folder in sorted(grafts(out) - set(before), key=lambda f: (_size(f), str(f))):
                # float32 hardly shrinks: what is not packed yet counts in full
                if archive.stat().st_size + _size(folder) + MIB > room:
                    left.append(folder.relative_to(out).as_posix())
                else:
                    tar.add(folder, folder.relative_to(out).as_posix())
                    tar.fileobj.flush()  # type: ignore[union-attr]
        if left:
            say(f"no room for {', '.join(left)}")
        for path in parts.pack([archive], to, mebibytes * MIB):
            say(f"{path}: {path.stat().st_size / MIB:.1f} MiB")


def join(source: Path, out: Path, say: Callable[[str], None]) -> None:
    """Put parts together and unpack them into `out`.

    Raises GraftError for a part that is missing or damaged, or a path that leads out of the folder.
    """
    with tempfile.TemporaryDirectory() as temporary:
        [archive] = parts.join(source, Path(temporary))
        out.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(out, filter="data")
                say(f"{out}: {sum(m.isfile() for m in tar)} files")
        except tarfile.TarError as error:
            raise GraftError(f"{source}: cannot be unpacked ({error}); pack it again") from None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
