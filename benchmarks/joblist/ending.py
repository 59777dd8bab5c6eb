"""How a command that runs jobs ends: by its own code, or by a line about bad input or an interrupt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from graftwork.errors import GraftError


def ended(verb: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """The exit code: the verb's own, 2 for bad input, 130 when interrupted."""
    try:
        return verb(args)
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the jobs at work are lost, the same command goes on", file=sys.stderr)
        return 130
