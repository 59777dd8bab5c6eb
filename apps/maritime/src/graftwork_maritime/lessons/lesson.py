"""Dialogues from which a model learns to answer turn by turn: a scripted station, and the right replies.

Since the script knows what each move asks for, the vessel's reply does not depend on what the composer's ear would make
of the words. A pause is a turn of the coast station that says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from random import Random

from ..dialogues import Turn
from ..grammar import parse
from ..live import Composer, Scene
from ..live.hearing import Heard
from ..model.prompts import PAUSE
from ..scenario import Scenario
from .script import OTHER, Move, script
from .wordings import SETS, Asked, Wordings

MOVES = 16
HARD = ("misheard", "read-back") * 2  # figures that are compared one by one are learnt slowest
#: of scenarios: a ship calls first with a matter of its own
LEARNT_KINDS = ("distress", "urgency", "medical")
#: what no scenario says anything of: a thing, and what may be asked of it
_ASIDE = (
    ("engine", "radar", "anchor", "propeller", "funnel", "hull", "mast", "galley", "crane", "rudder", "gangway",
     "generator", "compass", "paint", "cook", "owner", "agent", "insurer", "pilot", "captain", "mate", "flag",
     "home port", "last port", "next port", "fuel", "engine room", "bridge", "lifebuoys", "charts"),
    ("What is the name of your {}?", "What colour is your {}?", "How old is your {}?", "Who made your {}?",
     "How big is your {}?", "When did you last inspect your {}?", "Which {} have you?", "What number has your {}?",
     "Tell me about your {}.", "Your {}, what kind is it?", "How much did your {} cost?", "Where is your {} from?"),
)  # fmt: skip
_BEFORE = (
    "", "", "", "Okay. ", "Received. ", "Thank you. ", "All right, ", "Roger. ", "Please. ", "Sir, ",
)  # fmt: skip


def joined(sets: Iterable[Wordings]) -> Wordings:
    """The wordings of several sets as one."""
    found = list(sets)

    def asked(name: str) -> Asked:
        by_key: dict[str, tuple[str, ...]] = {}
        for one in found:
            for key, texts in getattr(one, name).items():
                by_key[key] = (*by_key.get(key, ()), *texts)
        return by_key

    def plain(name: str) -> tuple[str, ...]:
        return tuple(text for one in found for text in getattr(one, name))

    return Wordings(
        asked("asked"), asked("plain"), asked("elaborate"), plain("unexpected"), plain("again"),
        plain("instructions"), asked("read"),
    )  # fmt: skip


def moves(scenario: Scenario, seed: int, said: Wordings | None = None) -> list[Move]:
    """What the station says in a lesson, and what a right reply is; see `lesson`."""
    said = said or _LEARNT
    asides = Random(f"asides {scenario.id} {seed}").sample(_ASIDES, 12)
    said = replace(said, unexpected=(*said.unexpected, *asides))
    return script(scenario, MOVES, seed, said, HARD)


def lesson(scenario: Scenario, seed: int, said: Wordings | None = None) -> list[Turn]:
    """A dialogue: the vessel's call, moves of the script, and the reply that each expects.

    A pure function of its arguments.

    Args:
        scenario: of one of `LEARNT_KINDS`. seed: of all that is drawn.
        said: the station's wordings; default: all of `SETS`.
    """
    draw, composer = Random(f"lesson {scenario.id} {seed}"), Composer(scenario, seed)
    turns: list[Turn] = []

    def scene(heard: str | None) -> Scene:
        return Scene(scenario, "ship", tuple(turns), heard, parse(()))

    def say(text: str | None) -> None:
        if text:
            turns.append(Turn("ship", text))

    say(composer.reply(scene(None)))
    for move in moves(scenario, seed, said):
        text = _varied(move, draw)
        turns.append(Turn(move.speaker, text or PAUSE, OTHER if move.speaker == "other" else None))
        if "silent" in move.replies:
            continue
        heard = _heard(move)
        if heard is None:
            say(composer.reply(scene("")))
        else:
            composer.unheard = 0
            say(composer.answered(heard, scene(text)))
    return turns


def _heard(move: Move) -> Heard | None:
    """What the composer would have heard with a perfect ear; None: nothing was said."""
    if move.kind == "nothing":
        return None
    if move.kind == "misheard":
        return Heard("readback", wrong=(str(move.key),))
    acts = {"read-back": "readback", "again": "again", "instruction": "statement"}
    return Heard(acts.get(move.kind, "question"), move.key)


def _varied(move: Move, draw: Random) -> str:
    """A few words before what is said, as people have them, but not before the name of who is called."""
    if move.kind in ("seelonce", "held", "nothing") or "," in move.text[:40]:
        return move.text
    return draw.choice(_BEFORE) + move.text


_LEARNT = joined(SETS.values())
_ASIDES = [text.format(thing) for thing, text in product(*_ASIDE)]
