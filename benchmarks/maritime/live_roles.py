"""The two parts that are measured in live exchanges: what the scripted station says, and when a reply is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.maritime.wordings import SETS, SHIPS
from graftwork_maritime.lessons import Move, script, watching
from graftwork_maritime.lessons.script import KINDS as TO_SHIP
from graftwork_maritime.lessons.watching import KINDS as TO_COAST
from graftwork_maritime.lessons.wordings import MENDED
from graftwork_maritime.lessons.wordings import SETS as LEARNT
from graftwork_maritime.lessons.wordings import SHIPS as LEARNT_SHIPS
from graftwork_maritime.live import Exchange, truth
from graftwork_maritime.live.aid import aid
from graftwork_maritime.live.aid import said as says_help
from graftwork_maritime.live.coast_replies import asked
from graftwork_maritime.scenario import Scenario

MOVES = 10


@dataclass(frozen=True)
class Role:
    """A part that a partner plays.

    Args:
        name: ship or coast.
        other: who it speaks with, in words.
        sets: wordings of that station; known: names of those that a partner was made with, by partner.
        kinds: of its moves.
        moves: of a scenario, with a seed, in wordings.
        right: whether the reply to a move is right.
        records: what the names of its records begin with.
        names: third stations are named to it, for it must call them; a ship only keeps silent.
    """

    name: str
    other: str
    sets: Mapping[str, Any]
    known: Mapping[str, Mapping[str, Any]]
    kinds: tuple[str, ...]
    moves: Callable[[Scenario, int, Any], list[Move]]
    right: Callable[[Move, Exchange, Scenario], bool]
    records: str
    names: bool = False


def right(move: Move, done: Exchange, scenario: Scenario) -> bool:
    """Of a ship: the reply is of a kind that the move expects, and says the fact that it must say."""
    if done.kind not in move.replies:
        return False
    return move.key is None or (
        done.reply is not None and move.key in truth.said(done.reply.text, scenario)
    )


def right_of_coast(move: Move, done: Exchange, scenario: Scenario) -> bool:
    """Of a coast station: it asks for what is missing, corrects with the help that comes, and sends on by name."""
    if done.kind not in move.replies or done.reply is None:
        return False
    text = done.reply.text
    if done.kind == "correct":
        return says_help(text, aid(scenario))
    if done.kind == "task":
        return scenario.vessel.name.lower() in text.lower()
    return move.key is None or move.key in asked(text)


SHIP = Role(
    "ship", "coast station", SETS, {"composer": MENDED, "model": LEARNT}, TO_SHIP,
    lambda scenario, seed, said: script(scenario, MOVES, seed, said), right, "live",
)  # fmt: skip
COAST = Role(
    "coast", "ship", SHIPS, {"composer": {}, "model": LEARNT_SHIPS}, TO_COAST,
    lambda scenario, seed, said: [one.move for one in watching(scenario, MOVES, seed, said)], right_of_coast,
    "coast", names=True,
)  # fmt: skip
ROLES = {role.name: role for role in (SHIP, COAST)}
