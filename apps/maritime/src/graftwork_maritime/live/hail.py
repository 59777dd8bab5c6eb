"""What a coast station hears of a turn: a message and what it still lacks, a question, a false figure, and more."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import aid
from .hearing import AGAIN

if TYPE_CHECKING:
    from .session import Scene

ACTS = (
    "nothing", "message", "when", "question", "again", "read-back", "changed", "cancel", "offer", "noise",
)  # fmt: skip
#: what a station must be told, in the order in which it asks: fields of the state
WANTED = ("name", "position", "category", "persons", "help")
GRAVE = ("distress", "relay")  # kinds of traffic in which silence is kept for a vessel
_WHEN = re.compile(r"\b(when|how long|eta|time of arrival|how soon)\b", re.IGNORECASE)
_ASKS = re.compile(r"\?|\b(what|which|where|who|how|why)\b", re.IGNORECASE)
_OFFERS = re.compile(r"\bassist|proceed|arriv", re.IGNORECASE)
_REPEATS = re.compile(r"\b(i|we) say again\b", re.IGNORECASE)


@dataclass(frozen=True)
class Hail:
    """What was heard.

    Args:
        act: one of ACTS; a message tells something.
        kind: of the traffic, as the state has it.
        name: the vessel whose traffic it is, where it is known.
        missing: those of WANTED that were not told yet.
        sender: who offers or disturbs.
        what: that has changed, in words.
        wrong: what is read back is wrong.
    """

    act: str
    kind: str = "distress"
    name: str | None = None
    missing: tuple[str, ...] = ()
    sender: str | None = None
    what: str = ""
    wrong: bool = False


def hail(scene: Scene, known: aid.Aid, sent: bool = True) -> Hail:
    """The newest turn of a scene in which somebody has spoken.

    Args:
        known: the help that this station sends. sent: whether it has said so.
    """
    state, text = scene.state, scene.heard or ""
    missing = tuple(key for key in WANTED if not getattr(state, key))

    def heard(act: str, sender: str | None = None, what: str = "", wrong: bool = False) -> Hail:
        return Hail(act, state.kind, state.name, missing, sender, what, wrong)

    if not text.strip():
        return heard("nothing")
    turn = scene.turns[-1]
    if turn.speaker == "other":
        sender = state.messages[-1].sender
        if state.kind in GRAVE and _OFFERS.search(turn.text):
            return heard("offer", sender or turn.name)
        return heard("noise", turn.name or sender)
    if state.kind == "cancel":
        return heard("cancel")
    changed = [
        v for v in state.violations if v.line == len(scene.turns) and v.rule == "fact-changed"
    ]
    if changed:
        return heard("changed", what=changed[0].text.removeprefix("the ").partition(" was ")[0])
    if AGAIN.search(_REPEATS.sub("", turn.text)):
        return heard("again")
    if sent and aid.minutes(turn.text) and aid.units(turn.text):
        return heard("read-back", wrong=bool(aid.wrong(turn.text, known)))
    if _WHEN.search(turn.text):
        return heard("when")
    return heard("question" if _ASKS.search(turn.text) else "message")
