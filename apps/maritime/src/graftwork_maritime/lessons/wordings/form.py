"""What a set of wordings holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

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


@dataclass(frozen=True)
class Spoken:
    """What a ship says to a coast station, for each kind of move.

    Args:
        position, persons, help, name: facts, in {x}.
        when: when the help comes; unexpected: questions of which a coast station knows nothing.
        again: that nothing was understood. read: which help it understood, in {unit} and {n}.
        report: news that want an acknowledgement; cancel: that the alert was false.
        offer, noise: of another vessel, {other}: that it assists {name}, and everyday business with {station}.
    """

    position: tuple[str, ...]
    persons: tuple[str, ...]
    help: tuple[str, ...]
    name: tuple[str, ...]
    when: tuple[str, ...]
    unexpected: tuple[str, ...]
    again: tuple[str, ...]
    read: tuple[str, ...]
    report: tuple[str, ...]
    cancel: tuple[str, ...]
    offer: tuple[str, ...]
    noise: tuple[str, ...]


def spoken(sets: Iterable[Spoken]) -> Spoken:
    """The wordings of several sets as one."""
    found = list(sets)
    return Spoken(
        *(tuple(w for one in found for w in getattr(one, f.name)) for f in fields(Spoken))
    )
