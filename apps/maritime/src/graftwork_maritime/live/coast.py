"""The coast station's part without a model: it acknowledges, asks for what is missing, sends help, keeps order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..grammar.phrases import Voice
from ..scenario.model import Scenario
from .aid import aid
from .hail import GRAVE, Hail, hail

if TYPE_CHECKING:
    from .session import Scene

_ASK = {
    "name": ("What is the name of your vessel?", "Say the name of your vessel."),
    "position": ("What is your position?", "Say your position."),
    "category": ("What is the nature of your distress?", "What is wrong on board?"),
    "persons": ("How many persons are on board?", "Say the number of persons on board."),
    "help": ("What assistance do you require?", "What help do you need?"),
}


class Watch:
    """A coast station on watch; what it says of help and arrival stays what it was.

    Args:
        scenario: its name, its ports and what help fits.
        voice: wordings.
    """

    def __init__(self, scenario: Scenario, voice: Voice) -> None:
        self.scenario, self.voice, self.aid = scenario, voice, aid(scenario)
        self.answered_call = self.closed = False
        self.sent: str | None = None
        self.last: str | None = None  # what it said to the vessel

    def reply(self, scene: Scene) -> str | None:
        """The next turn; None before anybody called."""
        if scene.heard is None or not (scene.heard.strip() or scene.turns):
            return None
        return self.answered(hail(scene, self.aid, self.sent is not None))

    def answered(self, heard: Hail) -> str:
        """The reply to what was heard."""
        station, name = self.scenario.station.name, heard.name or "Station calling"
        to = f"{name}, this is {station}."
        if heard.act == "nothing":
            return f"{name}, {name}, {to} Do you receive me? Over."
        if heard.act in ("offer", "noise"):
            return self._other(heard)
        if heard.act == "cancel":
            return f"{to} Received, your false alert is cancelled. Out."
        if heard.act == "again" and self.last:
            return f"I say again. {self.last}"
        said = self._said(heard, to)
        self.last = said
        return said

    def _said(self, heard: Hail, to: str) -> str:
        if heard.act == "changed":
            asked = (
                f"Your {heard.what} differs from your first message. Say again your {heard.what}."
            )
            return f"{to} {asked} Over."
        parts = [] if self.answered_call else [self._receipt(heard, to)]
        self.answered_call = True
        if heard.act == "read-back":
            parts += (
                [f"Negative. Correction. {self._help()}"] if heard.wrong else ["That is correct."]
            )
        elif heard.act == "when":
            parts.append(self._help())
        elif heard.act == "question":
            parts.append("No information.")
        else:
            wants_more = heard.kind != "safety"
            lead = [] if parts else [self._lead(to)]
            if wants_more and heard.missing:
                parts += [*lead, self.voice.choose(list(_ASK[heard.missing[0]]))]
            elif wants_more and self.sent is None:
                parts += [*lead, self._help()]
            else:
                end = [] if self.closed else [self.voice.say("close")]
                self.closed = True
                return " ".join([*parts, *lead, *end, "Out."])
        return " ".join([*parts, "Over."])

    def _lead(self, to: str) -> str:
        """That the message was received, at times with both names."""
        said = self.voice.say("coast_lead")
        return f"{to} {said}" if self.voice.chance(0.4) else said

    def _receipt(self, heard: Hail, to: str) -> str:
        if heard.kind in GRAVE:
            return f"Mayday. {to} {self.voice.say('received')}"
        return f"{to} {self.voice.say('received_pan')}"

    def _other(self, heard: Hail) -> str:
        """A third station: silence is imposed when it disturbs a distress, and its offer is taken."""
        station, sender = self.scenario.station.name, heard.sender or "Station calling"
        if heard.kind not in GRAVE:
            return f"{sender}, this is {station}. Stand by. Over."
        if heard.act == "offer":
            name = heard.name or "the vessel in distress"
            return f"Mayday. {sender}, this is {station}. Received. Proceed to {name} and report on arrival. Over."
        return self.voice.say("silence")

    def _help(self) -> str:
        if self.sent is None:
            self.sent = self.voice.say(
                "sent", unit=self.aid.unit, n=self.voice.number(self.aid.minutes)
            )
        return self.sent
