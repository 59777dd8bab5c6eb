"""`python -m graftwork.cli`."""

import os
import sys

from graftwork.cli import main

code = main()
if code == 130:
    # An interrupt that fell into an import leaves libraries half-made, whose farewell would end in the signal itself.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
