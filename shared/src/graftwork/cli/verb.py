"""What every verb's module offers: `arguments(parser)` and `run(options) -> exit code`."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Protocol, cast

from graftwork.cli import PROG, VERBS


class Verb(Protocol):
    """A module of this folder; it imports nothing heavy at its top."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, options: argparse.Namespace) -> int | None:
        """Do the work; `None` means exit code 0."""


def load(verb: str) -> Verb:
    """The module of a verb."""
    return cast(Verb, import_module(f"graftwork.cli.{verb.replace('-', '_')}"))


def parser_of(verb: str, module: Verb) -> argparse.ArgumentParser:
    """The parser of a verb's options. `--verbose` is common: it shows where a failed run failed."""
    parser = argparse.ArgumentParser(
        prog=f"{PROG} {verb}", description=VERBS[verb], allow_abbrev=False
    )
    module.arguments(parser)
    parser.add_argument("--verbose", action="store_true", help="show the traceback of a failed run")
    return parser
