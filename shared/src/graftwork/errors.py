"""The exception types for what a user can mend. Imports nothing heavy."""

from __future__ import annotations


class GraftError(ValueError):
    """Bad input: one message that names the file, field or layer, and the remedy.

    Command lines print the message without a traceback and exit with code 2.
    """


class NotFiniteError(GraftError):
    """A loss, gradient or score is no number any more: a training diverged."""
