"""Arguments of the verbs that need no torch: bad ones are a GraftError, like all else that a user can mend."""

from __future__ import annotations

import argparse
from typing import NoReturn

from graftwork.errors import GraftError


class Parser(argparse.ArgumentParser):
    """An argument parser of one verb."""

    def __init__(self, verb: str, summary: str) -> None:
        super().__init__(prog=f"maritime {verb}", description=summary, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise it, with where to look."""
        raise GraftError(f"{message}; see {self.prog} --help")


def names(value: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in value.split(",") if name.strip()]
