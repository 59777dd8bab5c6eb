"""The partner that needs no model: the grammar's own wordings, chosen by what was heard."""

from __future__ import annotations

from random import Random

from ..grammar import compose
from ..grammar.phrases import Voice, categories
from ..scenario.model import Scenario
from . import coast
from .hearing import Heard, listen
from .session import Scene

_SPELLED = {"mmsi": "MMSI", "call_sign": "call sign"}


class Composer:
    """Plays ship or coast station from the scenario alone; it never says another fact.

    Args:
        scenario: whose.
        seed: of the wordings.
    """

    name = "composer"

    def __init__(self, scenario: Scenario, seed: int = 0) -> None:
        self.scenario, self.seed = scenario, seed
        draw = Random(f"graftwork live {scenario.id} {seed}")
        self.voice = Voice(scenario, draw, scenario.station.name)
        self.watch = coast.Watch(scenario, self.voice)
        self.silenced = False
        self.unheard = 0  # calls in a row that nobody has answered

    def reply(self, scene: Scene) -> str | None:
        """The next turn of the role in the scene."""
        if scene.role == "coast":
            return self.watch.reply(scene)
        if scene.heard is None:
            return self._call()
        speaker = scene.turns[-1].speaker if scene.heard and scene.turns else "coast"
        heard = listen(scene.heard, self.scenario, speaker)
        if heard.act in ("seelonce", "feenee"):
            self.silenced = heard.act == "seelonce"
            return None
        if heard.act == "elsewhere" or speaker == "other":
            return None
        if self.silenced and (
            heard.act == "nothing" or self.scenario.kind not in ("distress", "relay")
        ):
            return None
        if heard.act == "nothing":
            self.unheard += 1
            return (
                self._unanswered()
                or self._call()
                or f"{self.scenario.station.name}, this is {self._name()}. Over."
            )
        self.unheard = 0
        return self.answered(heard, scene)

    def _name(self) -> str:
        return self.voice.words["caller"]

    def _call(self) -> str | None:
        first = compose(self.scenario, self.seed)[0]
        return first.text if first.speaker == "ship" else None

    def _unanswered(self) -> str | None:
        """After the call was repeated twice, a vessel in distress asks any station that hears it to answer or relay."""
        call = self._call()
        if call is None or self.unheard < 3 or self.scenario.kind != "distress":
            return None
        return f"{call.removesuffix(' Over.')} Any station receiving me, answer or relay my Mayday. Over."

    def answered(self, heard: Heard, scene: Scene) -> str:
        """The ship's reply to what was heard, whoever understood it."""
        lead = self.voice.say("ship_lead")
        if heard.act == "readback":
            wrong = [self.statement(key) for key in heard.wrong]
            parts = ["Negative. Correction.", *wrong] if wrong else ["That is correct."]
        elif heard.act == "again":
            parts = [f"I say again. {self._again(heard, scene)}"]
        elif heard.act == "question":
            keys = [key for key in (heard.key, heard.also) if key]
            parts = [self.statement(key) for key in keys] or ["No information."]
        else:
            parts = [self._agreed()]
        return " ".join(part for part in (lead, *parts, "Over.") if part)

    def _agreed(self) -> str:
        """An acknowledgement, that begins as the procedure has it."""
        said = self.voice.say("agree")
        understood = ("Received", "Understood", "All received", "Message received", "We understand")
        return said if said.startswith(understood) else f"Received. {said}"

    def _again(self, heard: Heard, scene: Scene) -> str:
        if heard.key:
            return self.statement(heard.key)
        own = [turn.text for turn in scene.turns if turn.speaker == "ship"]
        if not own:
            return f"This is {self.voice.words['type']} {self._name()}."
        last = own[-1].removesuffix(" Over.").removeprefix("I say again. ")
        return last if "I say again." not in last else last.partition("I say again. ")[2]

    def statement(self, key: str) -> str:
        """A fact in a sentence."""
        voice, vessel, place = self.voice, self.scenario.vessel, self.scenario.place
        if key in self.scenario.facts:
            wordings = categories()[self.scenario.category][key]["say"]
            return voice.fill(voice.choose(wordings), x=voice.fact(key, self.scenario.facts[key]))
        if key in _SPELLED:
            from ..spoken import spell

            value = getattr(vessel, key)
            return (
                f"My {_SPELLED[key]} is {spell(value)}." if value else f"I have no {_SPELLED[key]}."
            )
        if key == "place" and place is not None:
            n, bearing = voice.number(place.distance_nm), place.bearing or ""
            return voice.say("place", n=n, bearing=bearing, place=place.name)
        weather = self.scenario.weather
        if key == "weather" and weather is not None:
            n = voice.number(weather.visibility_nm)
            force = voice.number(weather.force)
            return voice.say("weather_say", wind=weather.wind, force=force, sea=weather.sea, n=n)
        if key == "nature":
            return voice.fill(voice.choose(categories()[self.scenario.category]["nature"]))
        if key == "persons":
            return voice.say("persons", n=voice.number(vessel.persons))
        if key == "position":
            relayed = self.scenario.kind == "relay"
            return voice.say("position_of" if relayed else "position")
        if key == "help":
            return voice.say("help") if self.scenario.help else "No assistance is required."
        if key == "cargo":
            return f"The cargo is {vessel.cargo}." if vessel.cargo else "I have no cargo."
        return f"The name is {vessel.name}, {vessel.type}."
