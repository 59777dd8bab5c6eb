"""Where a bootstrap's seeds and scenarios come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from graftwork.errors import GraftError

from ..dialogues import Dialogue
from ..scenario import PRESETS, Engine, Scenario, read_scenarios
from .bootstrap import Pair, seeds_of

SEEDS = 10  # of a category, as in the paper
OFFSET = 1_000_000  # of the engine's seeds: other scenarios than those of training and generation
COMPOSED = 2_000_000


def seed_pairs(file: str | None, preset: str, form: str, seed: int) -> list[Pair]:
    """The dialogues of a file, or as many as `SEEDS` of each category that the grammar composes.

    Raises GraftError with the line for one without a scenario, and for a form that a preset's kinds have not.
    """
    from ..grammar import FORMS, compose

    if form not in FORMS:
        raise GraftError(f"form {form!r}; choose one of {', '.join(FORMS)}")
    if file is not None:
        return seeds_of(Path(file))
    engine = Engine(preset=preset, exercise=True)
    count = SEEDS * len(engine.preset.draws)
    found = []
    for one in engine.scenarios(COMPOSED + seed, count):
        turns = compose(one, seed, form)
        made = Dialogue(turns, one.id, one.as_dict(), one.category, {"by": "composer"})
        found.append((made, one))
    return found


def scenario_source(
    file: str | None, preset: str, seed: int
) -> tuple[Callable[[int], Scenario | None], str]:
    """The scenario of a number, None behind the last; and what the source is called.

    Raises GraftError for a file that holds none, twice the same, or a preset that is not there.
    """
    if file is None:
        if preset not in PRESETS:
            raise GraftError(f"preset {preset!r}; choose one of {', '.join(PRESETS)}")
        engine = Engine(preset=preset, exercise=True)
        return cache(lambda n: engine.scenario(OFFSET + seed, n)), preset
    known = read_scenarios(file)
    lines: dict[str, int] = {}
    for n, one in enumerate(known, 1):
        if one.id in lines:
            raise GraftError(
                f"{file}: scenarios {lines[one.id]} and {n} have the id {one.id}; ids must differ"
            )
        lines[one.id] = n
    told = "\n".join(s.to_json() for s in known)
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
    return (lambda n: known[n] if n < len(known) else None), f"{len(known)} of a file, {digest}"
