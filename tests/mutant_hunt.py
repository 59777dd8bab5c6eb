"""Mutants of a source are caught: each makes a test fail that passes on the source as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.methods.thorough import some_of
from tests.warm import Pool

TESTS = Path(__file__).parent
SOURCES = TESTS.parent / "shared" / "src"
HUNT = "tests.methods.hunt_mutants"
FAILED = int(pytest.ExitCode.TESTS_FAILED)
#: of every hand-made list of mutants
KINDS = {"sign", "scale", "transpose", "dropped term", "wrong start"}


@dataclass(frozen=True)
class Mutant:
    """A changed source of `module`."""

    kind: str
    what: str
    module: str
    source: str


class Outcome(NamedTuple):
    """pytest's exit code, and the ids of the tests that failed."""

    code: int
    failed: list[str]


@dataclass(frozen=True)
class Chosen:
    """Which tests a mutant must get past: files or ids, and pytest's `-k`.

    `warm` names libraries that they import, for the hunting process to import once; `first` the ids of tests
    to begin with.
    """

    tests: Sequence[str]
    keyword: str = ""
    warm: Sequence[str] = ()
    first: Sequence[str] = ()


class Hunter:
    """Tries mutants, each in a fork of a warm process."""

    def __init__(self, warm: Pool) -> None:
        self._warm = warm

    def try_on(self, mutant: Mutant | None, chosen: Chosen) -> Outcome:
        """Run tests on a mutant, or on the sources as they are."""
        module, source = (mutant.module, mutant.source) if mutant else (None, None)
        how = (list(chosen.tests), chosen.keyword, list(chosen.first))
        done = self._warm(HUNT, *chosen.warm).call(f"{HUNT}:run", module, source, *how)
        return Outcome(*done.value) if done.value else Outcome(done.returncode, [])


def survivors(hunter: Hunter, name: str, mutants: Iterable[Mutant], chosen: Chosen) -> list[str]:
    """The mutants that no test catches, a printed line each.

    Only a test that passes on the sources as they are catches anything: those that failed are run there too.
    """
    left, caught_by = [], set()
    made = list(mutants)
    for m in made:
        outcome = hunter.try_on(m, replace(chosen, first=[*chosen.first, *caught_by]))
        if outcome.code == FAILED and outcome.failed:
            caught_by.update(outcome.failed)
        else:
            left.append(f"{m.kind}: {m.what}: pytest's exit code {outcome.code}")
    print(f"{name}: {len(made)} mutants, {len(left)} survivors", *left, sep="\n  ")
    if caught_by:
        control = hunter.try_on(None, Chosen(sorted(caught_by), warm=chosen.warm))
        assert control.code == 0, (
            f"{control.failed or caught_by} fail on the unchanged source (exit code {control.code})"
        )
    return left


def check_edits(
    hunter: Hunter,
    module: str,
    files: Sequence[str],
    edits: Sequence[tuple[str, str, str]],
    warm: Sequence[str] = (),
) -> None:
    """Every edit of a module's source makes its tests fail; some of them, unless all are asked for.

    An edit is its kind, a text that stands in the source once, and its replacement.
    """
    edits = some_of(edits, lambda edit: edit[0])
    assert {kind for kind, _, _ in edits} >= KINDS
    source = (SOURCES / (module.replace(".", "/") + ".py")).read_text(encoding="utf8")
    made = []
    for kind, old, new in edits:
        assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {module}"
        made.append(Mutant(kind, f"{old} -> {new}", module, source.replace(old, new)))
    chosen = Chosen([str(TESTS / f) for f in files], warm=warm)
    assert not survivors(hunter, module, made, chosen)
