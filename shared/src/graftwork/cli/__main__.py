"""`python -m graftwork.cli`."""

import sys

from graftwork.cli import main

sys.exit(main())
