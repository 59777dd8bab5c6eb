"""Running the command line in tests."""

from __future__ import annotations

import subprocess
import sys

import pytest

from graftwork.cli import main

COMMAND = [sys.executable, "-m", "graftwork.cli"]


def own_process(*args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter of its own."""
    return subprocess.run(
        [*COMMAND, *args], capture_output=True, text=True, timeout=timeout, check=False
    )


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one message of a call that must end with exit code 2."""
    assert main(args) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "Traceback" not in shown.err
    assert shown.err.startswith("graftwork: error: ")
    return shown.err
