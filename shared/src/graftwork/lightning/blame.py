"""What is wrong with a command line or config, in one line that names the file and the field."""

from __future__ import annotations

import re
from typing import Any

from jsonargparse import ArgumentError

from graftwork.lightning.configs import config_values

_DENIED = re.compile(r"Importing '([^']+)' is not allowed.*?to allow it\.", re.DOTALL)


def blame(parser: Any, args: list[str], error: ArgumentError) -> str:
    """The parser's error, led by the config file that causes it, or by the command line.

    Args:
        parser: a verb's parser.
        args: the verb's arguments.
        error: what parsing all of them raised.
    """
    for _, file in config_values(args):
        try:
            parser.parse_args(["--config", file])
        except ArgumentError as own:
            return f"config {file}: {readable(own)}"
    return f"command line: {readable(error)}"


def readable(error: Exception) -> str:
    """The parser's message on one line; a refused class is named as such."""
    text = str(error)
    if denied := _DENIED.search(text):
        field = re.search(r'[Kk]ey "([^"]+)"', text)
        where = f"{field[1]}: " if field else ""
        return f"{where}{denied[1]} is not among the classes that a config may name; it was not imported"
    return " ".join(text.split())
