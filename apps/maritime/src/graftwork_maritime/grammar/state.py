"""What a dialogue says: a message for each turn, and the state of the traffic after the last one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .items import Item


@dataclass(frozen=True)
class Violation:
    """A rule of the procedure that a turn breaks. `line` counts turns from 1."""

    rule: str
    line: int
    text: str
    remedy: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Message:
    """What one turn says.

    Args:
        line: of the turn, from 1. speaker: ship, coast or other. name: the station's label.
        signal: mayday, relay, panpan or securite when the turn opens with one; `repeats` counts it.
        sender, addressed: station names as they are said, without the vessel's type.
        mmsi, call_signs, positions, persons, times, channels: values in their order.
        natures: categories of distress that it names.
        acts: received, silence, silence_end, cancel, all_stations, help, place, correction, over, out and more.
        about: the vessel whose distress a relay passes on.
        offsets: where the parts of a distress message begin: signal, identity, position, nature, help.
        items: the parts, as the grammar finds them.
    """

    line: int
    speaker: str
    name: str | None
    text: str
    signal: str | None
    repeats: int
    sender: str | None
    addressed: str | None
    mmsi: tuple[str, ...]
    call_signs: tuple[str, ...]
    positions: tuple[tuple[float, float], ...]
    persons: tuple[int, ...]
    times: tuple[str, ...]
    channels: tuple[str, ...]
    natures: tuple[str, ...]
    acts: frozenset[str]
    about: str | None
    offsets: dict[str, int]
    items: tuple[Item, ...]


@dataclass
class State:
    """The traffic after the last turn.

    Args:
        kind: distress, urgency, safety, relay, cancel or routine; of the opening signal and of cancellations.
        category: nature of the distress, where one is named.
        name, mmsi, call_sign, position, persons: of the vessel whose traffic it is, as first said.
        procedure: open, silence, ended or cancelled.
        controller: speaker who imposed silence.
        stations: senders in the order of their first words.
        acknowledged: whether a station said that it received the call.
        help: whether help was asked for.
        messages: one a turn. violations: in the order of their lines.
    """

    kind: str = "routine"
    category: str | None = None
    name: str | None = None
    mmsi: str | None = None
    call_sign: str | None = None
    position: tuple[float, float] | None = None
    persons: int | None = None
    procedure: str = "open"
    controller: str | None = None
    stations: list[str] = field(default_factory=list)
    acknowledged: bool = False
    help: bool = False
    messages: list[Message] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, without the messages' items."""
        known = (
            "kind",
            "category",
            "name",
            "mmsi",
            "call_sign",
            "persons",
            "procedure",
            "controller",
        )
        return {
            **{key: getattr(self, key) for key in known},
            "position": list(self.position) if self.position else None,
            "stations": list(self.stations),
            "acknowledged": self.acknowledged,
            "help": self.help,
            "violations": [violation.as_dict() for violation in self.violations],
        }
