"""What a set of wordings holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Asked = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Wordings:
    """What is said of each kind of move.

    Args:
        asked, plain, elaborate: questions by key of what they ask for, in three levels of English.
        unexpected: questions of which no scenario says anything.
        again: that nothing was understood. instructions: what is to be done, or is on the way.
        read: read-backs by key; {} is what was understood.
    """

    asked: Asked
    plain: Asked
    elaborate: Asked
    unexpected: tuple[str, ...]
    again: tuple[str, ...]
    instructions: tuple[str, ...]
    read: Asked
