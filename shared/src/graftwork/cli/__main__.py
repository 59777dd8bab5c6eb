"""`python -m graftwork.cli`, and the installed `graftwork`."""

import os
import sys

from graftwork.cli import main


def enter() -> None:
    """Run the command line and end the process with its exit code."""
    code = main()
    if code == 130:
        # An interrupt that fell into an import leaves libraries half-made, whose farewell would end in
        # the signal itself.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    enter()
