"""A scripted ship for live exchanges with a coast station: what it says, and which reply it expects.

Each move has a kind:

- `call`: the vessel's call, from which facts are missing; `told`: one or two of them
- `when`: the vessel asks when help comes; `unexpected`: what this station does not know
- `read-back`: unit and minutes as they were said; `misheard`: with other minutes; `again`: it did not hear
- `changed`: another figure than at first; `restated`: the first one again
- `report`: news that wants an acknowledgement; `nothing`: nobody speaks
- `offer`: another vessel will assist; `noise`: another calls about something else; `cancel`: the alert was false
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from ..dialogues import Turn
from ..grammar.phrases import Voice, categories
from ..live.aid import aid
from ..live.coast import Watch
from ..live.hail import WANTED, Hail
from ..model.prompts import PAUSE
from ..scenario import Scenario
from ..spoken import cardinal, digits
from .script import OTHER, Move, misheard
from .wordings import SHIPS, Spoken, spoken

KINDS = (
    "call", "told", "when", "unexpected", "read-back", "misheard", "again", "changed", "restated", "report", "nothing",
    "offer", "noise", "cancel",
)  # fmt: skip
MOVES = 12
LONE = 0.1  # of calls: without the vessel's name
_SIGNALS = {"distress": "Mayday, Mayday, Mayday.", "urgency": "Pan-pan, Pan-pan, Pan-pan."}
_WITH = {
    "position": 0.6,
    "category": 0.85,
    "persons": 0.5,
    "help": 0.5,
}  # shares of calls that say it


@dataclass(frozen=True)
class Hailed:
    """A move, and what a station with a perfect ear hears of it."""

    move: Move
    hail: Hail


class _Ship:
    """What was said so far decides what is expected next."""

    def __init__(self, scenario: Scenario, draw: Random, said: Spoken) -> None:
        self.scenario, self.draw, self.said = scenario, draw, said
        self.station, self.aid = scenario.station.name, aid(scenario)
        self.grave = scenario.kind == "distress"
        self.voice = Voice(scenario, draw, self.station)
        self.told: set[str] = set()
        self.sent = False
        self.queried: str | None = None  # the fact that was said otherwise, until it is restated

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(key for key in WANTED if key not in self.told)

    def hailed(
        self, kind: str, text: str, act: str, replies: tuple[str, ...], key: str | None = None,
        speaker: str = "ship", *, sender: str | None = None, what: str = "", wrong: bool = False,
    ) -> Hailed:  # fmt: skip
        name = self.scenario.vessel.name if "name" in self.told else None
        traffic = "distress" if self.grave else "urgency"
        heard = Hail(act, traffic, name, self.missing, sender, what, wrong)
        return Hailed(Move(kind, text, replies, key, speaker), heard)

    def next(self, kind: str, text: str) -> Hailed:
        """A message: what is missing is asked for, then help is sent, then all is acknowledged."""
        if self.missing:
            return self.hailed(kind, text, "message", ("ask",), self.missing[0])
        right = "acknowledge" if self.sent else "help"
        self.sent = True
        return self.hailed(kind, text, "message", (right,))

    def sentence(self, key: str, other: bool = False) -> str:
        """A fact as the vessel says it; `other`: with another figure."""
        scenario, vessel = self.scenario, self.scenario.vessel
        if key == "category":
            return self.voice.fill(self.voice.choose(categories()[scenario.category]["nature"]))
        if key == "persons":
            number = vessel.persons + (self.draw.choice((1, 2, 10)) if other else 0)
            x = digits(number) if scenario.position.digit_by_digit else cardinal(number)
        elif key == "position":
            x = scenario.position.words()
            x = misheard(x, self.draw) if other else x
        else:
            x = scenario.help[0] if key == "help" and scenario.help else "assistance"
            x = vessel.name if key == "name" else x
        text = self.draw.choice(getattr(self.said, key)).format(x=x)
        return _sentence(text)

    def call(self) -> Hailed:
        name = self.scenario.vessel.name
        signal = _SIGNALS["distress" if self.grave else "urgency"]
        opening = self.draw.choice((
            f"{signal} This is {name}, {name}, {name}.", f"{signal} {self.station}, this is {name}.",
            f"{signal} {self.station}, {self.station}, {self.station}, this is {name}, {name}, {name}.",
            f"{signal} This is {self.scenario.vessel.type} {name}.",
        ))  # fmt: skip
        keys = [key for key, share in _WITH.items() if self.draw.random() < share]
        if keys and self.draw.random() < LONE:
            opening = signal
        else:
            self.told.add("name")
        self.told |= set(keys)
        text = " ".join([opening, *(self.sentence(key) for key in keys), "Over."])
        return self.next("call", text)

    def tell(self) -> Hailed:
        """What was asked for; at times another, or two."""
        wanted = self.missing
        keys = [wanted[0] if self.draw.random() < 0.85 else self.draw.choice(wanted)]
        if len(wanted) > 1 and self.draw.random() < 0.25:
            keys = list(wanted[:2])
        text = self.turn(*(self.sentence(key) for key in keys))
        self.told |= set(keys)
        return self.next("told", text)

    def turn(self, *sentences: str) -> str:
        """Half of the turns name both stations first."""
        known = "name" in self.told and self.draw.random() < 0.5
        first = [f"{self.station}, this is {self.scenario.vessel.name}."] if known else []
        ended = [_sentence(s) for s in sentences]
        return " ".join([*first, *ended, "Over."])

    def aside(self, kind: str) -> Hailed | None:
        """One move of a kind; None where it does not fit now."""
        draw, said = self.draw, self.said
        if kind == "nothing":
            return self.hailed(kind, "", "nothing", ("call",))
        if kind in ("offer", "noise"):
            return self.other(kind)
        if kind == "again":
            return self.hailed(kind, self.turn(draw.choice(said.again)), "again", ("repeat",))
        if kind == "unexpected":
            text = self.turn(draw.choice(said.unexpected))
            return self.hailed(kind, text, "question", ("no-information",))
        if kind == "when":
            self.sent = True
            return self.hailed(kind, self.turn(draw.choice(said.when)), "when", ("help",))
        if kind == "report":
            return self.next(kind, self.turn(draw.choice(said.report)))
        if kind == "changed":
            return self.change()
        return self.read(kind == "misheard") if self.sent else None

    def read(self, wrong: bool) -> Hailed:
        minutes = self.aid.minutes
        if wrong:
            minutes += self.draw.choice((-10, -5, -1, 1, 5, 10, 20))
            minutes = minutes if minutes > 0 else self.aid.minutes + 10
        n = self.voice.number(minutes) if self.draw.random() < 0.8 else str(minutes)
        text = self.turn(self.draw.choice(self.said.read).format(unit=self.aid.unit, n=n))
        kind, right = ("misheard", "correct") if wrong else ("read-back", "confirm")
        return self.hailed(kind, text, "read-back", (right,), wrong=wrong)

    def change(self) -> Hailed | None:
        keys = [key for key in ("position", "persons") if key in self.told]
        if not keys or self.queried:
            return None
        key = self.draw.choice(keys)
        text = self.turn(self.sentence(key, other=True))
        what = {"position": "position", "persons": "number of persons"}[key]
        self.queried = key
        return self.hailed("changed", text, "changed", ("query",), key, what=what)

    def restate(self) -> Hailed:
        assert self.queried is not None
        key, self.queried = self.queried, None
        return self.next("restated", self.turn(self.sentence(key)))

    def other(self, kind: str) -> Hailed | None:
        if kind == "offer" and not self.grave:
            return None
        known = {"other": OTHER, "name": self.scenario.vessel.name, "station": self.station}
        if kind == "offer" and "name" not in self.told:
            return None
        text = self.draw.choice(getattr(self.said, kind)).format(**known)
        text = f"{_sentence(text)} Over."
        right = "task" if kind == "offer" else "silence" if self.grave else "acknowledge"
        return self.hailed(kind, text, kind, (right,), speaker="other", sender=OTHER)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def watching(scenario: Scenario, count: int, seed: int, said: Spoken) -> list[Hailed]:
    """At least `count` moves of a vessel: a pure function of its arguments.

    Args:
        scenario: a distress, an urgency or a medical call.
        said: the vessel's wordings.
    """
    draw = Random(f"graftwork ship {scenario.id} {seed}")
    return list(_moves(_Ship(scenario, draw, said), count, draw))


def _moves(ship: _Ship, count: int, draw: Random) -> Iterator[Hailed]:
    yield ship.call()
    kinds = [k for k in KINDS if k not in ("call", "told", "restated", "cancel")]
    order: list[str] = []
    done = 1
    while done < count:
        if ship.queried:
            found: Hailed | None = ship.restate()
        elif ship.missing and draw.random() < 0.55:
            found = ship.tell()
        else:
            order = order or draw.sample(kinds, len(kinds))
            found = ship.aside(order.pop())
        if found is not None:
            done += 1
            yield found
    if draw.random() < 0.3:
        text = ship.turn(draw.choice(ship.said.cancel))
        yield ship.hailed("cancel", text, "cancel", ("cancelled",))


def watch_lesson(scenario: Scenario, seed: int, said: Spoken | None = None) -> list[Turn]:
    """A dialogue: the moves of the scripted ship, and the station's right reply to each.

    A pure function of its arguments. `said`: the vessel's wordings; default: all of `SHIPS`.
    """
    draw = Random(f"watch lesson {scenario.id} {seed}")
    watch = Watch(scenario, Voice(scenario, draw, scenario.station.name))
    turns: list[Turn] = []
    for one in watching(scenario, MOVES, seed, said or _LEARNT):
        move = one.move
        turns.append(
            Turn(move.speaker, move.text or PAUSE, OTHER if move.speaker == "other" else None)
        )
        turns.append(Turn("coast", watch.answered(one.hail)))
    return turns


_LEARNT = spoken(SHIPS.values())
