"""What a person types, made into what the parser reads: `--data PATH`, and `--resume` of a run folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

FOLDER_DATA = "graftwork_medseg.data.FolderData"
CONFIG = "config.yaml"  # of a run folder
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def expand(args: Sequence[str], classes: Iterable[str]) -> list[str]:
    """The verb's arguments with short forms written out.

    Args:
        args: the verb and its arguments.
        classes: names of data modules, which `--data` may hold too.
    """
    return _resumed(_data_folders(list(args), {*classes}))


def is_folder(value: str, classes: Iterable[str]) -> bool:
    """Whether a value of `--data` means a folder of cases: one that exists, or neither class, dotted path nor file."""
    if Path(value).is_dir():
        return True
    odd = not value or value[0] in "{-" or value == "null"
    return not (odd or value in classes or _DOTTED.fullmatch(value) or Path(value).is_file())


def _data_folders(args: list[str], classes: set[str]) -> list[str]:
    out: list[str] = []
    words = iter(args)
    for word in words:
        name, joined, value = word.partition("=")
        if name != "--data":
            out.append(word)
            continue
        if not joined:
            following = next(words, None)
            if following is None:
                out.append(word)
                break
            value = following
        if is_folder(value, classes):
            out += [f"--data={FOLDER_DATA}", f"--data.path={value}"]
        else:
            out += [word] if joined else [word, value]
    return out


def _resumed(args: list[str]) -> list[str]:
    """Start from the run folder's own config, so that a stopped run goes on without its options typed again."""
    if "--resume" not in args or any(re.match(r"(-c|--config)(=|$)", a) for a in args):
        return args
    folder = next((a.partition("=")[2] for a in args if a.startswith("--run_dir=")), None)
    if folder is None and "--run_dir" in args[:-1]:
        folder = args[args.index("--run_dir") + 1]
    if folder is None or not (Path(folder) / CONFIG).is_file():
        return args
    return [args[0], f"--config={Path(folder) / CONFIG}", *args[1:]]
