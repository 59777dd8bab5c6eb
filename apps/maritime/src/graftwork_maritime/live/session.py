"""One exchange under way: a turn is heard, a turn is said, and the state is parsed after each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from graftwork.errors import GraftError

from .. import NOTICE
from ..dialogues import MAX_TURNS, SPEAKERS, Turn
from ..grammar import State, Violation, parse
from ..scenario.model import Scenario
from . import aid, coast_replies, replies, truth
from .hearing import listen

ROLES = ("ship", "coast")
LONGEST = 2000  # characters of a turn that is heard
REDRAWS = 3


@dataclass(frozen=True)
class Scene:
    """What a partner knows when it is its turn.

    Args:
        scenario: what is true.
        role: whose part it plays.
        turns: all so far, the one just heard last.
        heard: its text; empty: nobody spoke; None: the exchange begins.
        state: parsed from the turns.
        attempt: 0, and more where an answer before was refused.
    """

    scenario: Scenario
    role: str
    turns: tuple[Turn, ...]
    heard: str | None
    state: State
    attempt: int = 0


class Partner(Protocol):
    """Who says the turns: a model, or the grammar."""

    name: str

    def reply(self, scene: Scene) -> str | None:
        """The text of the next turn; None: it keeps silent."""
        ...


@dataclass(frozen=True)
class Exchange:
    """One step.

    Args:
        heard: the turn that was heard; None: nobody spoke.
        reply: the turn that was said; None: silence.
        kind: of the reply, see `replies.KINDS`, and `coast_replies.KINDS` of a coast station's.
        changed: keys of facts that the reply says otherwise than the scenario; a coast station's are those of its help,
            `unit` and `minutes`, too.
        by: who said it: the partner's name, or `redrawn` and `composer` where the facts were kept for it.
        state: parsed after the reply; violations: those of this step's turns.
        seconds: until the reply was there.
    """

    heard: Turn | None
    reply: Turn | None
    kind: str
    changed: tuple[str, ...]
    by: str
    state: State
    violations: tuple[Violation, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """JSON values, with the notice."""
        return {
            "heard": _turn(self.heard),
            "reply": _turn(self.reply),
            "kind": self.kind,
            "changed": list(self.changed),
            "by": self.by,
            "state": self.state.as_dict(),
            "violations": [v.as_dict() for v in self.violations],
            "seconds": round(self.seconds, 4),
            "notice": NOTICE,
        }


class Session:
    """A dialogue turn by turn, of which a partner plays one station.

    Args:
        scenario: what is true.
        partner: who answers.
        role: the station that it plays, ship or coast.
        keep: a second partner that never changes a fact. With it, radio silence is kept, and a reply that changes a
            fact is drawn again, at last said by the second: a constraint, so its figures are told apart.

    Raises GraftError for an unknown role.
    """

    def __init__(
        self, scenario: Scenario, partner: Partner, role: str = "ship", keep: Partner | None = None
    ) -> None:
        if role not in ROLES:
            raise GraftError(f"role {role!r}; choose one of {', '.join(ROLES)}")
        self.scenario, self.partner, self.role, self.keep = scenario, partner, role, keep
        self.turns: tuple[Turn, ...] = ()
        self.silenced = False

    def open(self) -> Exchange:
        """The first step: the ship's call, where the partner plays a ship that calls first; else silence."""
        if self.turns:
            raise GraftError("the exchange has begun; open a new one")
        return self._step(None, None)

    def hear(self, text: str, speaker: str | None = None, name: str | None = None) -> Exchange:
        """One turn in, one turn out.

        Args:
            text: what is said; empty: nobody spoke for a while.
            speaker: who says it; default: the other one of ship and coast.
            name: the station's, where it is known.

        Raises GraftError for a text that is too long, an unknown speaker, or one that the partner plays.
        """
        speaker = speaker or ROLES[1 - ROLES.index(self.role)]
        if speaker not in SPEAKERS or speaker == self.role:
            known = ", ".join(s for s in SPEAKERS if s != self.role)
            raise GraftError(f"speaker {speaker!r}; choose one of {known}")
        text = " ".join(text.split())
        if len(text) > LONGEST:
            raise GraftError(
                f"text: {len(text)} characters, at most {LONGEST}; say it in several turns"
            )
        if len(self.turns) + 2 > MAX_TURNS:
            raise GraftError(f"the exchange has {len(self.turns)} turns; open a new one")
        return self._step(text, Turn(speaker, text, name) if text else None)

    def _step(self, text: str | None, heard: Turn | None) -> Exchange:
        begun = time.perf_counter()
        if heard is not None:
            self.turns = (*self.turns, heard)
            self._follow(heard)
        scene = Scene(self.scenario, self.role, self.turns, text, self._parsed(self.turns))
        said, by = self._said(scene)
        reply = Turn(self.role, said, self._own_name()) if said else None
        before = len(self.turns) - (heard is not None)
        if reply is not None:
            self.turns = (*self.turns, reply)
        state = self._parsed(self.turns) if reply is not None else scene.state
        return Exchange(
            heard, reply, self._kind(said), tuple(self._wrong(said)), by, state,
            tuple(v for v in state.violations if v.line > before), time.perf_counter() - begun,
        )  # fmt: skip

    def _said(self, scene: Scene) -> tuple[str | None, str]:
        if self.keep is not None and self._must_keep_silent(scene):
            return None, "silence kept"
        first = self._drawn(scene)
        if self.keep is None or not self._wrong(first):
            return first, self.partner.name
        for attempt in range(1, REDRAWS + 1):
            again = self._drawn(replace(scene, attempt=attempt))
            if not self._wrong(again):
                return again, "redrawn"
        return self.keep.reply(scene), self.keep.name

    def _drawn(self, scene: Scene) -> str | None:
        said = self.partner.reply(scene)
        return " ".join(said.split()) or None if said else None

    def _wrong(self, said: str | None) -> list[str]:
        if not said:
            return []
        found = truth.wrong(said, self.scenario, self.role)
        if self.role == "coast":
            found += aid.wrong(said, aid.aid(self.scenario))
        return found

    def _kind(self, said: str | None) -> str:
        told = replies.kind_of if self.role == "ship" else coast_replies.kind_of
        return told(said, self.scenario)

    def _follow(self, heard: Turn) -> None:
        act = listen(heard.text, self.scenario, heard.speaker).act
        if act in ("seelonce", "feenee"):
            self.silenced = act == "seelonce"

    def _must_keep_silent(self, scene: Scene) -> bool:
        """Whether silence was imposed and this station has no part in the distress, or the turn was not for it."""
        if self.role != "ship" or scene.heard is None:
            return False
        act = listen(scene.heard, self.scenario).act
        grave = self.scenario.kind in ("distress", "relay")
        return act in ("seelonce", "feenee", "elsewhere") or (
            self.silenced and (not grave or act == "nothing")
        )

    def _own_name(self) -> str | None:
        if self.role == "coast":
            return self.scenario.station.name
        other = self.scenario.other_vessel
        return other.name if self.scenario.kind == "relay" and other else self.scenario.vessel.name

    def _parsed(self, turns: Sequence[Turn]) -> State:
        # a person's call may be about anything: the scenario is the truth of what the ship says alone
        state = parse(turns, self.scenario if self.role == "ship" else None)
        # that nobody has answered yet is no fault of an exchange that goes on
        state.violations = [v for v in state.violations if v.rule != "unanswered"]
        return state


def _turn(turn: Turn | None) -> dict[str, Any] | None:
    return {"speaker": turn.speaker, "name": turn.name, "text": turn.text} if turn else None
