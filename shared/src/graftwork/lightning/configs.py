"""Configs shipped inside an app's package: list, copy, find by name. Imports nothing heavy.

A config file is data from strangers: it is size-limited and checked for YAML tags and alias bombs
here, before any parser that could build objects from it sees it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from graftwork.errors import GraftError

if TYPE_CHECKING:
    from graftwork.lightning.app import App

MAX_BYTES = 1_000_000
MAX_NODES = 100_000


def names(app: App) -> list[str]:
    """Names of the shipped configs, sorted."""
    return sorted(p.stem for p in _folder(app).glob("*.yaml"))


def path(app: App, name: str) -> Path:
    """Path of one shipped config.

    Raises:
        GraftError: no such config.
    """
    if name not in names(app):
        raise GraftError(f"{app.name} ships no config {name!r}; there are {names(app)}")
    return _folder(app) / f"{name}.yaml"


def light(app: App, args: list[str]) -> int | None:
    """`config list` and `config copy NAME [FILE]`; `None` for `config validate`, which needs the parser.

    Raises:
        GraftError: unknown action or name, or a file that is already there.
    """
    match args:
        case ["list"]:
            for name in names(app):
                print(f"{name:<16}{_headline(path(app, name))}")
        case ["copy", name, *target] if len(target) <= 1:
            copy(path(app, name), Path(target[0] if target else f"{name}.yaml"))
        case ["validate", *_]:
            return None
        case _:
            raise GraftError(
                "use: config list | config copy NAME [FILE] | config validate FILE [--verb VERB]"
            )
    return 0


def copy(source: Path, target: Path) -> None:
    """Copy a shipped config to a new file.

    Raises:
        GraftError: `target` exists or cannot be written.
    """
    try:
        with target.open("x", encoding="utf8") as out:
            out.write(source.read_text(encoding="utf8"))
    except FileExistsError:
        raise GraftError(
            f"{target} exists already; give another name: config copy NAME FILE"
        ) from None
    except OSError as error:
        raise GraftError(f"cannot write {target}: {error.strerror}") from None
    print(target)


def resolve_names(app: App, args: list[str]) -> list[str]:
    """Replace a shipped config's name after `-c`/`--config` by its path; check every config file named."""
    out = list(args)
    for i, value in config_values(args):
        if not os.path.exists(value) and value in names(app):
            value = str(path(app, value))
            out[i] = f"--config={value}" if args[i].startswith("--config=") else value
        check(value)
    return out


def check(file: str | Path) -> dict[str, Any]:
    """Read a config file as plain data.

    Raises:
        GraftError: missing, unreadable, too large, not YAML, YAML tags, alias bomb, or no mapping.
    """
    file = Path(file)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise GraftError(f"config {file}: larger than {MAX_BYTES} bytes")
        text = file.read_text(encoding="utf8")
    except OSError as error:
        raise GraftError(f"config {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise GraftError(f"config {file}: not UTF-8 text") from None
    try:
        if _nodes(yaml.compose(text, Loader=yaml.SafeLoader)) > MAX_NODES:
            raise GraftError(f"config {file}: aliases expand to more than {MAX_NODES} values")
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, GraftError):
            raise
        reason = " ".join(str(error).split())
        raise GraftError(f"config {file}: not plain YAML: {reason}") from None
    if not isinstance(data, dict):
        raise GraftError(f"config {file}: expected `key: value` lines, found {type(data).__name__}")
    if place := _dict_kwargs(data):
        raise GraftError(f"config {file}: {place}: dict_kwargs would pass unchecked; use init_args")
    return data


def _dict_kwargs(value: Any, place: str = "") -> str:
    """Where the key `dict_kwargs` stands, or the empty string."""
    if isinstance(value, dict):
        if "dict_kwargs" in value:
            return f"{place}.dict_kwargs".lstrip(".")
        pairs: Any = value.items()
    else:
        pairs = enumerate(value) if isinstance(value, list) else ()
    return next((found for k, v in pairs if (found := _dict_kwargs(v, f"{place}.{k}"))), "")


def _folder(app: App) -> Path:
    folder = resources.files(app.configs)
    if not isinstance(folder, Path):
        # a namespace package answers with a MultiplexedPath; its first folder is the real one
        folder = Path(str(next(iter(folder.iterdir())))).parent
    return folder


def _headline(file: Path) -> str:
    first = file.read_text(encoding="utf8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def config_values(args: list[str]) -> Iterator[tuple[int, str]]:
    """(position, value) of every `-c` and `--config` in a verb's arguments."""
    for i, arg in enumerate(args):
        if arg in ("-c", "--config") and i + 1 < len(args):
            yield i + 1, args[i + 1]
        elif arg.startswith("--config="):
            yield i, arg.removeprefix("--config=")


def _nodes(root: yaml.Node | None) -> int:
    """Number of values after every alias is expanded; a node that holds itself counts as too many."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_nodes:
            return MAX_NODES + 1
        open_nodes.add(id(node))
        total = 1
        if isinstance(node, yaml.SequenceNode):
            total += sum(map(size, node.value))
        elif isinstance(node, yaml.MappingNode):
            total += sum(size(k) + size(v) for k, v in node.value)
        open_nodes.discard(id(node))
        sizes[id(node)] = total
        return total

    return size(root) if root is not None else 0
