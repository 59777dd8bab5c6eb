"""A scripted coast station for live exchanges: what it says, and which reply it expects.

A model learns from it, and with other wordings it is measured. Each move of a script has a kind:

- `asked`: an expected question; `unexpected`: one of which the scenario says nothing
- `plain`, `elaborate`: the expected questions in broken and in involved English
- `misheard`: a read-back with a wrong figure; `read-back`: a right one
- `nothing`: nobody speaks; `again`: it did not hear; `instruction`
- `seelonce`: silence is imposed; `held`: what must stay unanswered; `released`: a question after silence has ended
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from ..live import truth
from ..scenario import Scenario
from ..spoken import cardinal, digits, spell
from .wordings import FIRST, Asked, Wordings

OTHER = "Fenella Tide"  # another vessel
ORDER = "Mayday. All stations, all stations, all stations. This is {station}. Seelonce {what}. Out."
KINDS = (
    "asked", "unexpected", "plain", "elaborate", "misheard", "read-back", "nothing", "again", "instruction",
    "seelonce", "held", "released",
)  # fmt: skip


@dataclass(frozen=True)
class Move:
    """What the partner says, and what a right reply is.

    Args:
        kind: one of `KINDS`.
        text: empty: it says nothing.
        replies: kinds of reply that are right, see `graftwork_maritime.live.replies.KINDS`.
        key: of a fact that the reply must say, or None.
        speaker: coast, or other for a third station.
    """

    kind: str
    text: str
    replies: tuple[str, ...]
    key: str | None = None
    speaker: str = "coast"


def script(
    scenario: Scenario, count: int, seed: int, said: Wordings = FIRST, more: Sequence[str] = ()
) -> list[Move]:
    """At least `count` moves after the vessel's call, in wordings of a set: a pure function of its arguments.

    Args:
        more: kinds that come so much more often than the others.
    """
    draw = Random(f"graftwork partner {scenario.id} {seed}")
    moves = [_receipt(scenario, draw, said)]
    kinds = [k for k in (*KINDS, *more) if k not in ("seelonce", "held", "released")]
    order = draw.sample(kinds, len(kinds))
    silence = draw.randrange(2, count) if draw.random() < 0.4 else None
    while len(moves) < count:
        if silence is not None and len(moves) >= silence:
            moves += _silence(scenario, draw, said)
            silence = None
        elif order:
            moves += _move(order.pop(), scenario, draw, said)
        else:
            order = draw.sample(kinds, len(kinds))
    return moves


def _call(scenario: Scenario, text: str, draw: Random) -> str:
    """Most turns name both stations first."""
    first = (
        f"{scenario.vessel.name}, this is {scenario.station.name}. " if draw.random() < 0.6 else ""
    )
    return f"{first}{text} Over."


def _known(scenario: Scenario, wordings: Asked, draw: Random) -> tuple[str, str]:
    keys = [k for k in wordings if k in truth.keys(scenario)]
    key = draw.choice(keys)
    return key, draw.choice(wordings[key])


def _receipt(scenario: Scenario, draw: Random, said: Wordings) -> Move:
    signal = {"distress": "Mayday. ", "urgency": "", "medical": ""}[scenario.kind]
    key, ask = _known(scenario, said.asked, draw)
    what = "Received Mayday." if signal else "Received your call."
    text = f"{signal}{scenario.vessel.name}, this is {scenario.station.name}. {what} {ask} Over."
    return Move("asked", text, ("answer", "repeat"), key)


def _move(kind: str, scenario: Scenario, draw: Random, said: Wordings) -> Iterator[Move]:
    wordings = {"asked": said.asked, "plain": said.plain, "elaborate": said.elaborate}
    if kind in wordings:
        key, ask = _known(scenario, wordings[kind], draw)
        yield Move(kind, _call(scenario, ask, draw), ("answer", "repeat"), key)
    elif kind in ("misheard", "read-back"):
        key, text = _read(scenario, draw, said, wrong=kind == "misheard")
        right = ("correct",) if kind == "misheard" else ("confirm",)
        yield Move(kind, _call(scenario, text, draw), right, key if kind == "misheard" else None)
    elif kind == "nothing":
        yield Move(kind, "", ("call", "answer", "repeat"))
    else:
        texts, right = {
            "unexpected": (said.unexpected, ("no-information",)),
            "again": (said.again, ("repeat", "call", "answer")),
            "instruction": (said.instructions, ("acknowledge",)),
        }[kind]
        yield Move(kind, _call(scenario, draw.choice(texts), draw), right)


def _read(scenario: Scenario, draw: Random, wordings: Wordings, *, wrong: bool) -> tuple[str, str]:
    """A fact read back, with one figure changed where it is misheard."""
    vessel, texts = scenario.vessel, wordings.read
    keys = ["persons", *(k for k in ("mmsi", "position") if k == "position" or vessel.mmsi)]
    key = draw.choice(keys)
    if key == "persons":
        number = vessel.persons + (draw.choice((1, 2, 10)) if wrong else 0)
        said = draw.choice((digits(number), cardinal(number), str(number)))
    elif key == "mmsi":
        said = misheard(spell(str(vessel.mmsi)), draw) if wrong else spell(str(vessel.mmsi))
    else:
        said = scenario.position.words()
        while wrong and truth.wrong(f"Position {said}.", scenario) == []:
            said = misheard(scenario.position.words(), draw)
    return key, draw.choice(texts[key]).format(said)


def misheard(words: str, draw: Random) -> str:
    """One figure of a row changed by one, as it is misheard; places that stay in range."""
    row = words.split()
    known = ["zero", "one", "two", "three", "four", "five"]
    place = draw.choice([n for n, w in enumerate(row) if w in known])
    figure = known.index(row[place])
    row[place] = known[figure - 1 if figure else 1]
    return " ".join(row)


def _silence(scenario: Scenario, draw: Random, said: Wordings) -> Iterator[Move]:
    """Silence for a distress: the vessel's own, or one of another vessel that calls then."""
    station, grave = scenario.station.name, scenario.kind == "distress"
    if not grave:
        other = f"Mayday, Mayday, Mayday. This is {OTHER}, {OTHER}, {OTHER}. Sinking, require help. Over."
        yield Move("held", other, ("silent",), speaker="other")
    yield Move("seelonce", ORDER.format(station=station, what="Mayday"), ("silent",))
    key, ask = _known(scenario, said.asked, draw)
    other = f"{OTHER}, this is {station}. {draw.choice(said.asked['persons'])} Over."
    yield Move("held", draw.choice((other, "")), ("silent",))
    if grave:
        yield Move("asked", _call(scenario, ask, draw), ("answer", "repeat"), key)
    yield Move("held", ORDER.format(station=station, what="Feenee"), ("silent",))
    yield Move("released", _call(scenario, ask, draw), ("answer", "repeat"), key)
