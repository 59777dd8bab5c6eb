"""How a model learns to answer live: exchanges with a scripted station, and the right reply to each move."""

from __future__ import annotations

from random import Random

from ..dialogues import Turn
from ..model.prompts import LIVE, WATCH
from ..scenario import Scenario
from .lesson import LEARNT_KINDS, lesson
from .script import Move, script
from .watching import watch_lesson, watching
from .wordings import Spoken, Wordings

WATCHES = 0.25  # of lessons: the model is the coast station


def either(scenario: Scenario, seed: int, watches: float = WATCHES) -> tuple[str, list[Turn]]:
    """A lesson of one role or the other, with the form of its prompt: a pure function of its arguments.

    Args:
        watches: the share of a coast station's.
    """
    if Random(f"role {scenario.id} {seed}").random() < watches:
        return WATCH, watch_lesson(scenario, seed)
    return LIVE, lesson(scenario, seed)


__all__ = [
    "LEARNT_KINDS", "Move", "Spoken", "Wordings", "either", "lesson", "script", "watch_lesson", "watching",
]  # fmt: skip
