"""Scenarios and composed dialogues that several tests share, drawn once."""

from __future__ import annotations

from functools import cache

from graftwork_maritime.dialogues import Turn
from graftwork_maritime.grammar import compose
from graftwork_maritime.scenario import Engine, Scenario
from graftwork_maritime.spoken import cardinal, clock, digits


@cache
def drawn(preset: str, count: int, seed: int = 0) -> tuple[Scenario, ...]:
    """Scenarios of a preset."""
    return tuple(Engine(preset, exercise=True).scenarios(seed, count))


def said(scenario: Scenario, key: str, value: str | int) -> str:
    """A fact as it must be found in the dialogue, in lower case."""
    if key.endswith("_utc"):
        return clock(str(value)).lower()
    if isinstance(value, int):
        return digits(value) if scenario.position.digit_by_digit else cardinal(value)
    return value.lower()


@cache
def composed(preset: str, form: str, count: int) -> tuple[tuple[Scenario, tuple[Turn, ...]], ...]:
    """(scenario, dialogue) pairs, a variant each."""
    return tuple((s, compose(s, n % 3, form)) for n, s in enumerate(drawn(preset, count)))
