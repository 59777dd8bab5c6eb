"""The command that measures a record again, as a record keeps it: without where files of this machine lie."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Sequence


def command_of(
    module: str, arguments: Sequence[str], leave_out: Collection[str] = ("--out",)
) -> str:
    """`python -m module arguments`, without the options `leave_out` and the value of each."""
    kept = list(arguments)
    for name in leave_out:
        if name in kept:
            at = kept.index(name)
            del kept[at : at + 2]
    return shlex.join(["python", "-m", module, *kept])


def words_of(options: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Options by name and value, defaults too, as one would type them."""
    words = []
    for name in names:
        value = getattr(options, name)
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words
