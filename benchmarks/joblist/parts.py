"""Files in parts, for a machine that can be given only so much at once; parts and files are checked by their hashes.

The parts are slices of all files one behind the other; `parts.json` lists the files and the parts with their sizes and
SHA-256. Joining needs all of them, in whatever order they came.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from graftwork.errors import GraftError
from graftwork_runs.files import digest, write_atomic

LIST = "parts.json"
BLOCK = 2**20


def pack(sources: Sequence[Path], to: Path, size: int) -> list[Path]:
    """Write files and folders as parts of at most `size` bytes, and their list; the paths written.

    Raises:
        GraftError: nothing to pack, two things of one name, a size below 1, a target that is not empty.
    """
    if size < 1:
        raise GraftError(f"--mebibytes: a part must have at least one byte, not {size}")
    files = dict(_listed(sources))
    if not files:
        raise GraftError("pack: nothing to pack")
    if to.exists() and any(to.iterdir()):
        raise GraftError(f"--to {to}: is not empty; name a folder of its own")
    to.mkdir(parents=True, exist_ok=True)
    stream, parts = _Stream(list(files.values())), list[Path]()
    left = sum(path.stat().st_size for path in files.values())
    while left > 0:
        parts.append(to / f"part-{len(parts):03d}")
        with open(parts[-1], "wb") as out:
            stream.copy(min(size, left), out)
        left -= size
    text = {
        "files": [_fact(name, path) for name, path in files.items()],
        "parts": [_fact(path.name, path) for path in parts],
    }
    return [*parts, write_atomic(to / LIST, json.dumps(text, indent=1) + "\n")]


def join(source: Path, to: Path) -> list[Path]:
    """Put the files of `pack` together; the paths written.

    Raises:
        GraftError: a part that is missing or damaged, by name, or a file that does not have its hash.
    """
    listed = _list(source)
    wrong = [p["name"] for p in listed["parts"] if not _is(source / p["name"], p)]
    if wrong:
        raise GraftError(f"{source}: missing or damaged: {', '.join(wrong)}; send these again")
    done = []
    stream = _Stream([source / p["name"] for p in listed["parts"]])
    for fact in listed["files"]:
        target = to / fact["name"]
        if to.resolve() not in target.resolve().parents:
            raise GraftError(f"{source / LIST}: {fact['name']!r} leads out of the folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.tmp")
        with open(part, "wb") as out:
            stream.copy(fact["bytes"], out)
        if not _is(part, fact):
            part.unlink()
            raise GraftError(f"{fact['name']}: does not have its hash; pack it again")
        part.replace(target)
        done.append(target)
    return done


class _Stream:
    """Several files read as one."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.blocks = self._blocks(files)
        self.rest = b""

    @staticmethod
    def _blocks(files: Sequence[Path]) -> Iterator[bytes]:
        for file in files:
            with open(file, "rb") as source:
                while block := source.read(BLOCK):
                    yield block

    def copy(self, count: int, out: BinaryIO) -> None:
        while count > 0:
            block = self.rest or next(self.blocks, b"")
            if not block:
                return
            out.write(block[:count])
            self.rest = block[count:]
            count -= min(count, len(block))


def _listed(sources: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    seen = set()
    for source in sources:
        inside = (
            sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
        )
        for path in inside:
            if not path.is_file():
                raise GraftError(f"{path}: missing; it was to be packed")
            name = path.relative_to(source.parent).as_posix()
            if name in seen:
                raise GraftError(f"pack: two files would be called {name}")
            seen.add(name)
            yield name, path


def _fact(name: str, path: Path) -> dict[str, Any]:
    return {"name": name, "bytes": path.stat().st_size, "sha256": digest(path)}


def _is(path: Path, fact: Mapping[str, Any]) -> bool:
    return (
        path.is_file() and path.stat().st_size == fact["bytes"] and digest(path) == fact["sha256"]
    )


def _list(source: Path) -> dict[str, Any]:
    try:
        listed = json.loads((source / LIST).read_text(encoding="utf-8"))
        for fact in (*listed["files"], *listed["parts"]):
            fact["name"], fact["bytes"], fact["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraftError(
            f"{source / LIST}: is no list of parts ({error!r}); send it again"
        ) from None
    return dict(listed)
