"""The workspace's own tools: what pip reports, and the seed of the generated cases."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.environment import ROOT, fetched
from tools.wheels import sibling_closure


@pytest.mark.parametrize(
    ("line", "bytes_"),
    [
        ("Downloading torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl (554.6 MB)", 554_600_000),
        ("  Downloading idna-3.20-py3-none-any.whl.metadata (7.7 kB)", 7_700),
        ("  Downloading empty-1-py3-none-any.whl (912 bytes)", 912),
    ],
)
def test_downloads_are_counted(line: str, bytes_: int) -> None:
    assert fetched(line) == {"downloaded": bytes_}


def test_local_files_are_no_downloads(tmp_path: Path) -> None:
    wheel = tmp_path / "thing-1-py3-none-any.whl"
    wheel.write_bytes(b"x" * 321)
    assert fetched(f"Processing {wheel} (from other>=1)") == {"local": 321}
    assert fetched("  Using cached idna-3.20-py3-none-any.whl (71 kB)") == {"local": 71_000}


@pytest.mark.parametrize("line", ["Collecting torch", "Installing collected packages: (3 MB)", ""])
def test_other_lines_count_nothing(line: str) -> None:
    assert not fetched(line)


def test_an_app_brings_its_siblings_and_the_core_none() -> None:
    wheels = {name: Path(name) for name in ("graftwork", "graftwork-runs", "graftwork-medseg")}
    assert sibling_closure("graftwork-medseg", wheels) == {"graftwork", "graftwork-runs"}
    assert sibling_closure("graftwork", wheels) == set()


def seed_of_a_run(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(Path(__file__)), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"generated cases: seed (\d+)", done.stdout)
    assert found, done.stdout
    return found[1]


def test_every_run_draws_and_prints_a_fresh_seed() -> None:
    assert seed_of_a_run() != seed_of_a_run()
    assert seed_of_a_run("--hypothesis-seed=7") == "7"
