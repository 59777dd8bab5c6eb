"""Mutants of every method's file are caught by that method's tests: some in `make test`, all in `make thorough`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from method_mutants import KINDS, mutants
from thorough import some_of

from graftwork.cards import cards

IDS = [c["id"] for c in cards()]
HUNT = Path(__file__).with_name("hunt_mutants.py")
FAILED = int(pytest.ExitCode.TESTS_FAILED)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method_id", IDS)
def test_every_mutant_is_caught(
    method_id: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    made = some_of(mutants(method_id), lambda m: m.kind)
    assert {m.kind for m in made} == set(KINDS), "a kind of mutation is missing"
    entries: list[dict[str, str | None]] = [{"module": None, "source": None}]
    entries += [{"module": m.module, "source": m.source} for m in made]
    file = tmp_path / "mutants.json"
    file.write_text(json.dumps(entries), encoding="utf8")
    done = subprocess.run(
        [sys.executable, str(HUNT), method_id, str(file)],
        capture_output=True,
        text=True,
        cwd=HUNT.parents[2],
    )
    assert done.returncode == 0, done.stderr
    control, *codes = [json.loads(line) for line in done.stdout.splitlines()]
    assert control == 0, f"the tests fail on the unchanged method (pytest's exit code {control})"
    assert len(codes) == len(made)
    report = [f"{m.kind}: {m.what}: {code}" for m, code in zip(made, codes, strict=True)]
    survivors = [line for line, code in zip(report, codes, strict=True) if code != FAILED]
    print(f"{method_id}: {len(made)} mutants, {len(survivors)} survivors", *survivors, sep="\n  ")
    numbers = {"methods": 1, "made": len(made), "survivors": len(survivors)}
    record_property("figures", ("mutants of the methods", numbers))
    assert not survivors
