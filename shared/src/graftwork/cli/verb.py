"""What every verb's module offers: `arguments(parser)` and `run(options) -> exit code`.

A package adds a verb by an entry point of the group `graftwork.verbs`, the verb's name and such a module, which also
has its line in `--help` as `SUMMARY`. The core's own verbs come first: none is replaced.
"""

from __future__ import annotations

import argparse
from importlib import import_module, metadata
from typing import Protocol, cast

from graftwork.cli import PROG, VERBS
from graftwork.errors import GraftError

GROUP = "graftwork.verbs"


class Verb(Protocol):
    """A module of this folder; it imports nothing heavy at its top."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, options: argparse.Namespace) -> int | None:
        """Do the work; `None` means exit code 0."""


def load(verb: str) -> Verb:
    """The module of a verb.

    Raises:
        GraftError: a package's module cannot be imported, or is no verb.
    """
    if verb in VERBS:
        return cast(Verb, import_module(f"graftwork.cli.{verb.replace('-', '_')}"))
    point = added()[verb]
    try:
        module = point.load()
    except (ImportError, AttributeError) as e:
        raise GraftError(f"{verb}: {point.value} cannot be imported ({e}); install it again") from e
    for name in ("SUMMARY", "arguments", "run"):
        if not hasattr(module, name):
            raise GraftError(f"{verb}: {point.value} has no {name}, which a verb's module needs")
    return cast(Verb, module)


def added() -> dict[str, metadata.EntryPoint]:
    """The verbs of installed packages, by name."""
    found = metadata.entry_points(group=GROUP)
    return {p.name: p for p in sorted(found, key=lambda p: p.name) if p.name not in VERBS}


def all_verbs() -> dict[str, str]:
    """Every verb with its line; one whose module is broken says so, and the others work."""
    lines = dict(VERBS)
    for verb in added():
        try:
            lines[verb] = str(getattr(load(verb), "SUMMARY", ""))
        except GraftError as e:
            lines[verb] = str(e).partition(": ")[2]
    return lines


def parser_of(verb: str, module: Verb) -> argparse.ArgumentParser:
    """The parser of a verb's options. `--verbose` is common: it shows where a failed run failed."""
    text = VERBS.get(verb) or str(getattr(module, "SUMMARY", ""))
    parser = argparse.ArgumentParser(prog=f"{PROG} {verb}", description=text, allow_abbrev=False)
    module.arguments(parser)
    parser.add_argument("--verbose", action="store_true", help="show the traceback of a failed run")
    return parser
