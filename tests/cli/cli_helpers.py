"""Running the command line in tests."""

from __future__ import annotations

import subprocess
import sys

import pytest

from graftwork.cli import main

COMMAND = [sys.executable, "-m", "graftwork.cli"]
#: what a light verb may load beside the standard library and graftwork's own packages
LIGHT = {"yaml", "_yaml"}


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


def loaded_by(code: str, *args: str, env: dict[str, str] | None = None) -> set[str]:
    """Top packages outside the standard library, ours and `LIGHT` that a program loads, which must end well.

    How long a light verb takes hangs on what it loads; `benchmarks/import_cost.py` has the seconds.
    """
    program = (
        "import sys; before = set(sys.modules); sys.argv = ['', *sys.argv[1:]]\n"
        f"{code}\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print('loaded', *sorted(new - sys.stdlib_module_names), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0 and done.stdout, done.stderr
    [line] = done.stderr.splitlines()
    foreign = {name for name in line.split()[1:] if "cython" not in name}  # yaml's compiled part
    return {name for name in foreign if not name.startswith("graftwork")} - LIGHT


def before_torch(module: str, *args: str, env: dict[str, str] | None = None) -> list[str]:
    """The lines that `python -m module` prints before it looks for torch; then it is stopped."""
    program = (
        "import runpy, sys\n"
        "class Spy:\n"
        "    @staticmethod\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'torch':\n"
        "            print('torch is looked for', flush=True)\n"
        "sys.meta_path.insert(0, Spy)\n"
        "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
    )
    lines = []
    with subprocess.Popen(
        [sys.executable, "-c", program, module, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "torch is looked for\n":
                process.kill()
                return lines
            lines.append(line)
    raise AssertionError(f"{module} never looked for torch")
