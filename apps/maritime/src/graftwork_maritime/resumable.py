"""JSONL that a stopped run leaves whole, and that the next run goes on with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from graftwork.errors import GraftError


def write(out: str | Path | None, count: int, line: Callable[[int], str]) -> int:
    """Write lines 0 to `count` - 1, or those that the file still lacks, and return how many were written.

    Args:
        out: a file, or None for standard output.
        line: the text of a line without its end; a pure function of its number.

    Raises:
        GraftError: the file holds other lines than this command writes, or more, or cannot be written.
    """
    if out is None:
        for number in range(count):
            print(line(number), file=sys.stdout)
        return count
    path = Path(out)
    try:
        done = _finished(path, line, count)
        with path.open("a", encoding="utf8", newline="\n") as opened:
            for number in range(done, count):
                opened.write(line(number) + "\n")
                opened.flush()
    except OSError as error:
        raise GraftError(f"{path}: {error.strerror}; choose another --out") from None
    return count - done


def _finished(path: Path, line: Callable[[int], str], count: int) -> int:
    """Lines that are there; what a stopped run left of the last one is cut off."""
    if not path.exists():
        return 0
    size = done = 0
    ends: list[bytes] = []
    with path.open("rb") as opened:
        for raw in opened:
            if not raw.endswith(b"\n"):
                break
            size, done = size + len(raw), done + 1
            ends = [ends[0] if ends else raw, raw]
    if done > count:
        raise GraftError(
            f"{path} holds {done} lines already, more than {count}; raise --count or choose another --out"
        )
    for number, raw in zip((0, done - 1), ends, strict=False):
        if raw.rstrip(b"\n") != line(number).encode():
            raise GraftError(
                f"{path} line {number + 1} is not what this command writes; use its settings or another --out"
            )
    with path.open("rb+") as opened:
        opened.truncate(size)
    return done
