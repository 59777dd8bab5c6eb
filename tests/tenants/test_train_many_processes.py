"""No process of a shared run is left alone: one that dies ends the others, whichever it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

CODE = """
import os, sys, time
from graftwork.lightning.many import processes as many
many._GRACE = 0.2
started = many._RANK in os.environ
if started and sys.argv[2] == "lost":
    print("no such place", file=sys.stderr)
    sys.exit(3)
with many.processes(2):
    if started:
        print(os.getpid(), file=open(sys.argv[2], "w"), flush=True)
        time.sleep(100)
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.1)
    print(many.first(), flush=True)
    os._exit(7)
"""


def run(folder: Path, word: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(CODE)
    paths = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, str(script), "train-many", word],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=200,
    )


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_first_says_who_was_lost_and_ends(tmp_path: Path) -> None:
    done = run(tmp_path, "lost")
    assert done.returncode == 1
    assert "process 1 ended with 3: no such place" in done.stderr


def test_the_others_end_with_the_first(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    done = run(tmp_path, str(file))
    assert done.returncode == 7, done.stderr[-2000:]
    assert done.stdout == "True\n"
    pid, ends = int(file.read_text()), time.monotonic() + 20
    while runs(pid) and time.monotonic() < ends:
        time.sleep(0.2)
    assert not runs(pid)
