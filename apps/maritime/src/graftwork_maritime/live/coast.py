"""The coast station's part without a model: it acknowledges, asks for what is missing, sends help, keeps order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..grammar.phrases import Voice, procedure
from ..scenario.model import Near, Scenario

if TYPE_CHECKING:
    from .session import Scene

_MISSING = (
    ("name", "What is the name of your vessel?"),
    ("position", "What is your position?"),
    ("category", "What is the nature of your distress?"),
    ("persons", "How many persons are on board?"),
    ("help", "What assistance do you require?"),
)
_WHEN = re.compile(r"\b(when|how long|eta|time of arrival|how soon)\b", re.IGNORECASE)
_ASKS = re.compile(r"\?|\b(what|which|where|who|how|why)\b", re.IGNORECASE)


class Watch:
    """A coast station on watch; what it says of help and arrival stays what it was.

    Args:
        scenario: its name, its ports and what help fits.
        voice: wordings.
    """

    def __init__(self, scenario: Scenario, voice: Voice) -> None:
        self.scenario, self.voice = scenario, voice
        self.answered = self.closed = False
        self.sent: str | None = None

    def reply(self, scene: Scene) -> str | None:
        """The next turn; None before anybody called, and when all is said."""
        state, station = scene.state, self.scenario.station.name
        name = state.name or "Station calling"
        if scene.heard is None:
            return None
        if not scene.heard.strip():
            return (
                f"{name}, {name}, {name}, this is {station}. Do you receive me? Over."
                if scene.turns
                else None
            )
        turn = scene.turns[-1]
        if turn.speaker == "other":
            return self._other(scene)
        if state.kind == "cancel":
            return f"{name}, this is {station}. Received, your false alert is cancelled. Out."
        changed = [
            v for v in state.violations if v.line == len(scene.turns) and v.rule == "fact-changed"
        ]
        if changed:
            what = changed[0].text.removeprefix("the ").partition(" was ")[0]
            asked = f"Your {what} differs from your first message. Say again your {what}."
            return f"{name}, this is {station}. {asked} Over."
        parts = [] if self.answered else [self._receipt(scene, name)]
        self.answered = True
        missing = [ask for key, ask in _MISSING if not getattr(state, key)]
        if _WHEN.search(turn.text):
            parts.append(self._help())
        elif _ASKS.search(turn.text):
            parts.append("No information.")
        elif missing and state.kind != "safety":
            parts.append(missing[0])
        elif self.sent is None and state.kind != "safety":
            parts.append(self._help())
        elif not self.closed:
            self.closed = True
            return " ".join([*parts, self.voice.say("close"), "Out."])
        else:
            return None
        return " ".join([*parts, "Over."])

    def _receipt(self, scene: Scene, name: str) -> str:
        grave = scene.state.kind in ("distress", "relay")
        said = f"{name}, this is {self.scenario.station.name}."
        if grave:
            return f"Mayday. {said} {self.voice.say('received')}"
        return f"{said} {self.voice.say('received_pan')}"

    def _other(self, scene: Scene) -> str | None:
        """A third station: silence is imposed when it disturbs a distress, and its offer is taken."""
        other, station = scene.turns[-1], self.scenario.station.name
        name = scene.state.name or "the vessel in distress"
        if scene.state.kind not in ("distress", "relay"):
            return f"{other.name or 'Station calling'}, this is {station}. Stand by. Over."
        if re.search(r"\bassist|proceed|arriv", other.text, re.IGNORECASE):
            said = scene.state.messages[-1].sender or other.name or "Station calling"
            return f"Mayday. {said}, this is {station}. Received. Proceed to {name} and report on arrival. Over."
        return self.voice.say("silence")

    def _help(self) -> str:
        if self.sent is None:
            draw, units = self.voice.draw, procedure()["units"]
            known = units.get(self.scenario.category) or units["other"]
            unit = draw.choice(sorted(known))
            miles = (self.scenario.port or self.scenario.harbour or Near("", 30)).distance_nm
            minutes = round(60 * miles / known[unit]) + draw.randrange(10, 31)
            self.sent = self.voice.say("sent", unit=unit, n=self.voice.number(minutes))
        return self.sent
