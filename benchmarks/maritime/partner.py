"""A scripted coast station for live exchanges: what it says, and which reply it expects.

The wordings are written for this measure, not taken from the composer. Each move of a script has a kind:

- `asked`: an expected question; `unexpected`: one of which the scenario says nothing
- `plain`, `elaborate`: the expected questions in broken and in involved English
- `misheard`: a read-back with a wrong figure; `read-back`: a right one
- `nothing`: nobody speaks; `again`: it did not hear; `instruction`
- `seelonce`: silence is imposed; `held`: what must stay unanswered; `released`: a question after silence has ended
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from graftwork_maritime.live import truth
from graftwork_maritime.scenario import Scenario
from graftwork_maritime.spoken import cardinal, digits, spell

ASKED = {
    "position": ("Give me your position.", "In what position are you now?", "What are your coordinates?"),
    "persons": ("How many people have you got with you?", "What is your total crew and passengers?",
                "Number of souls on board, please?"),
    "mmsi": ("Tell me your MMSI.", "What are the nine digits of your MMSI?"),
    "call_sign": ("What call sign do you use?", "Your call sign, please?"),
    "help": ("What help do you want from us?", "Which assistance shall we send?"),
    "nature": ("What is happening on your vessel?", "Describe the nature of your emergency.",
               "What sort of trouble are you in?"),
    "place": ("How far off the nearest land are you?", "Give bearing and distance from a known place."),
    "cargo": ("What are you carrying?", "Have you dangerous cargo?"),
    "weather": ("How is the wind and sea with you?", "Give me the weather at your place."),
}  # fmt: skip
PLAIN = {
    "position": ("You where? Tell position.", "Position, position, what?"),
    "persons": ("How many man on ship?", "People, how many you have?"),
    "mmsi": ("Your MMSI number, what is?",),
    "call_sign": ("Call sign you have, tell please.",),
    "help": ("What you need, which help?", "You want help what?"),
    "nature": ("What problem you have?", "Ship have what trouble?"),
    "weather": ("Wind how strong? Sea how?",),
}
ELABORATE = {
    "position": ("Would you be so good as to furnish me with your precise latitude and longitude at this juncture?",),
    "persons": ("I should be obliged if you would apprise us of the full complement of persons currently embarked.",),
    "mmsi": ("Might I trouble you for the maritime mobile service identity assigned to your installation?",),
    "call_sign": ("For the sake of our log, by which call sign is your station licensed to operate?",),
    "help": ("What manner of assistance would you deem most expedient in your present predicament?",),
    "nature": ("Could you elaborate somewhat upon the nature of the emergency with which you are confronted?",),
    "weather": ("What, if I may ask, are the prevailing conditions of wind, sea and visibility in your vicinity?",),
}  # fmt: skip
UNEXPECTED = (
    "What colour is your hull?", "Who is the owner of the ship?", "What is your maximum draught?",
    "When was your last safety drill?", "Which flag do you fly?", "How much fuel remains in your tanks?",
    "What is the engine power in kilowatts?", "Do you have a pilot ladder rigged?", "What was your last port of call?",
    "Is there a doctor among you?", "What is the height of your mast?", "Which insurance company covers you?",
)  # fmt: skip
AGAIN = (
    "Say again.",
    "I did not hear you, repeat.",
    "Your last message was unreadable, please say again.",
)
INSTRUCTIONS = (
    "A lifeboat has left and reaches you in two zero minutes.", "Keep your radio on channel one six.",
    "Let the crew put on lifejackets.", "Fire a red flare when you see the aircraft.",
    "We will call you every ten minutes.", "Prepare to receive a tow line.",
)  # fmt: skip
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


def script(scenario: Scenario, count: int, seed: int) -> list[Move]:
    """At least `count` moves after the vessel's call: a pure function of its arguments."""
    draw = Random(f"graftwork partner {scenario.id} {seed}")
    moves = [_receipt(scenario, draw)]
    kinds = [k for k in KINDS if k not in ("seelonce", "held", "released")]
    order = draw.sample(kinds, len(kinds))
    silence = draw.randrange(2, count) if draw.random() < 0.4 else None
    while len(moves) < count:
        if silence is not None and len(moves) >= silence:
            moves += _silence(scenario, draw)
            silence = None
        elif order:
            moves += _move(order.pop(), scenario, draw)
        else:
            order = draw.sample(kinds, len(kinds))
    return moves


def _call(scenario: Scenario, text: str, draw: Random) -> str:
    """Most turns name both stations first."""
    first = (
        f"{scenario.vessel.name}, this is {scenario.station.name}. " if draw.random() < 0.6 else ""
    )
    return f"{first}{text} Over."


def _known(
    scenario: Scenario, wordings: dict[str, tuple[str, ...]], draw: Random
) -> tuple[str, str]:
    keys = [k for k in wordings if k in truth.keys(scenario)]
    key = draw.choice(keys)
    return key, draw.choice(wordings[key])


def _receipt(scenario: Scenario, draw: Random) -> Move:
    signal = {"distress": "Mayday. ", "urgency": "", "medical": ""}[scenario.kind]
    key, ask = _known(scenario, ASKED, draw)
    what = "Received Mayday." if signal else "Received your call."
    text = f"{signal}{scenario.vessel.name}, this is {scenario.station.name}. {what} {ask} Over."
    return Move("asked", text, ("answer", "repeat"), key)


def _move(kind: str, scenario: Scenario, draw: Random) -> Iterator[Move]:
    wordings = {"asked": ASKED, "plain": PLAIN, "elaborate": ELABORATE}
    if kind in wordings:
        key, ask = _known(scenario, wordings[kind], draw)
        yield Move(kind, _call(scenario, ask, draw), ("answer", "repeat"), key)
    elif kind in ("misheard", "read-back"):
        key, text = _read(scenario, draw, wrong=kind == "misheard")
        right = ("correct",) if kind == "misheard" else ("confirm",)
        yield Move(kind, _call(scenario, text, draw), right, key if kind == "misheard" else None)
    elif kind == "nothing":
        yield Move(kind, "", ("call", "answer", "repeat"))
    else:
        texts, right = {
            "unexpected": (UNEXPECTED, ("no-information",)),
            "again": (AGAIN, ("repeat", "call", "answer")),
            "instruction": (INSTRUCTIONS, ("acknowledge",)),
        }[kind]
        yield Move(kind, _call(scenario, draw.choice(texts), draw), right)


def _read(scenario: Scenario, draw: Random, *, wrong: bool) -> tuple[str, str]:
    """A fact read back, with one figure changed where it is misheard."""
    vessel = scenario.vessel
    keys = ["persons", *(k for k in ("mmsi", "position") if k == "position" or vessel.mmsi)]
    key = draw.choice(keys)
    if key == "persons":
        number = vessel.persons + (draw.choice((1, 2, 10)) if wrong else 0)
        said = draw.choice((digits(number), cardinal(number), str(number)))
        texts = (
            "I understand {} persons on board.",
            "You have {} people on board, is that correct?",
        )
        return key, draw.choice(texts).format(said)
    if key == "mmsi":
        said = _changed(spell(str(vessel.mmsi)), draw) if wrong else spell(str(vessel.mmsi))
        return key, draw.choice(("I read back, MMSI {}.", "Your MMSI is {}, correct?")).format(said)
    said = scenario.position.words()
    while wrong and truth.wrong(f"Position {said}.", scenario) == []:
        said = _changed(scenario.position.words(), draw)
    return key, draw.choice(("I read your position as {}.", "Confirm your position, {}.")).format(
        said
    )


def _changed(words: str, draw: Random) -> str:
    """One figure of a row changed by one, as it is misheard; places that stay in range."""
    row = words.split()
    known = ["zero", "one", "two", "three", "four", "five"]
    place = draw.choice([n for n, w in enumerate(row) if w in known])
    figure = known.index(row[place])
    row[place] = known[figure - 1 if figure else 1]
    return " ".join(row)


def _silence(scenario: Scenario, draw: Random) -> Iterator[Move]:
    """Silence for a distress: the vessel's own, or one of another vessel that calls then."""
    station, grave = scenario.station.name, scenario.kind == "distress"
    if not grave:
        other = "Mayday, Mayday, Mayday. This is Fenella Tide, Fenella Tide, Fenella Tide. Sinking, require help. Over."
        yield Move("held", other, ("silent",), speaker="other")
    yield Move("seelonce", ORDER.format(station=station, what="Mayday"), ("silent",))
    key, ask = _known(scenario, ASKED, draw)
    other = f"Fenella Tide, this is {station}. {draw.choice(ASKED['persons'])} Over."
    yield Move("held", draw.choice((other, "")), ("silent",))
    if grave:
        yield Move("asked", _call(scenario, ask, draw), ("answer", "repeat"), key)
    yield Move("held", ORDER.format(station=station, what="Feenee"), ("silent",))
    yield Move("released", _call(scenario, ask, draw), ("answer", "repeat"), key)
