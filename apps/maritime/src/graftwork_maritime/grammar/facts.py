"""Facts that are said twice, and facts that are not true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..scenario.model import Scenario
from . import lexicon
from .state import Message, State, Violation

_NAMES = {
    "mmsi": "MMSI",
    "call_signs": "call sign",
    "positions": "position",
    "persons": "number of persons on board",
}
_CLOSE = 0.0004  # degrees; hundredths of a minute are 0.00017


def _values(message: Message, key: str) -> tuple[Any, ...]:
    values: tuple[Any, ...] = getattr(message, key)
    if key == "mmsi":  # coast stations say their own
        return tuple(v for v in values if not v.startswith("00"))
    return values


def _same(key: str, one: Any, two: Any) -> bool:
    if key == "positions":
        return bool(abs(one[0] - two[0]) < _CLOSE and abs(one[1] - two[1]) < _CLOSE)
    return bool(one == two)


def changed(state: State) -> Iterator[Violation]:
    """Own facts that a station says differently later on, and facts read back wrongly."""
    for key, name in _NAMES.items():
        known: list[Any] = []
        for message in state.messages:
            values = _values(message, key)
            if not values:
                continue
            own = message.speaker == "ship"
            free = "correction" in message.acts or (
                key in ("positions", "persons") and own and lexicon.UPDATES.search(message.text)
            )
            if own and (not known or free):
                known.extend(values)
                continue
            wrong = [v for v in values if known and not any(_same(key, v, k) for k in known)]
            if not wrong or free:
                continue
            text = f"the {name} was {_show(known[0])} and is {_show(wrong[0])}"
            if own:
                yield Violation(
                    "fact-changed", message.line, text, "repeat the same, or say CORRECTION"
                )
            elif message.speaker == "coast" and lexicon.CONFIRMS.search(message.text):
                yield Violation("readback-wrong", message.line, text, "read back what was said")


def against_scenario(state: State, scenario: Scenario) -> Iterator[Violation]:
    """Identity, position and persons that are not the scenario's."""
    vessel = scenario.vessel
    said = scenario.position.rounded()
    truths = {
        "mmsi": vessel.mmsi,
        "call_signs": vessel.call_sign,
        "positions": (said.lat, said.lon),
        "persons": vessel.persons,
    }
    first = next((m for m in state.messages if m.speaker == "ship"), None)
    if first is None or scenario.kind in ("safety", "sar"):
        return
    for key, truth in truths.items():
        values = _values(first, key)
        if values and not any(_same(key, truth, value) for value in values):
            text = f"the {_NAMES[key]} is {_show(truth)}, not {_show(values[0])}"
            yield Violation("fact-wrong", first.line, text, "say the scenario's")
    if scenario.kind not in ("relay",) and vessel.name.lower() not in first.text.lower():
        text = f"the vessel's name {vessel.name} is not said"
        yield Violation("fact-wrong", first.line, text, "say the scenario's")


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:.4f}, {value[1]:.4f}"
    return "unknown" if value is None else str(value)
