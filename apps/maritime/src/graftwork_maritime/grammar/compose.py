"""Reference dialogues of a scenario: seeded, in many wordings, right by the procedure and true to every fact.

    compose(scenario, seed=0, form="full")     distress with silence, other ships, questions, read-back
    compose(scenario, seed=0, form="paper")    ship and coast guard in turn, as arXiv 2603.04423 writes them

What a coast station says of help and arrival times is drawn, for the scenario does not hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from graftwork.errors import GraftError

from ..dialogues import Turn
from ..scenario.model import Scenario
from .phrases import Voice, categories, procedure, rescue

FORMS = ("full", "paper")


def compose(scenario: Scenario, seed: int = 0, form: str = "full") -> tuple[Turn, ...]:
    """The turns of one dialogue: a pure function of scenario, seed and form.

    Raises GraftError for an unknown form, and where the paper's form is asked for another kind than distress.
    """
    if form not in FORMS:
        raise GraftError(f"form {form!r} is unknown; choose one of {', '.join(FORMS)}")
    if form == "paper" and scenario.kind != "distress":
        raise GraftError(
            f"the form paper is for distress, not for {scenario.kind}; take --form full"
        )
    script = _Script(scenario, Random(f"graftwork compose {scenario.id} {form} {seed}"), form)
    _KINDS[scenario.kind](script)
    return tuple(script.turns)


class _Script:
    """A dialogue under way: the facts that are still unsaid, and the turns so far."""

    def __init__(self, scenario: Scenario, draw: Random, form: str) -> None:
        self.scenario, self.paper = scenario, form == "paper"
        station = "Coast Guard" if self.paper else scenario.station.name
        self.voice = Voice(scenario, draw, station)
        self.turns: list[Turn] = []
        self.marks = not self.paper and self.voice.chance(0.3)
        self.unsaid = list(scenario.facts.items())
        draw.shuffle(self.unsaid)

    def add(self, speaker: str, *parts: str, end: str = "Over.") -> None:
        """One turn; empty parts are left out."""
        scenario = self.scenario
        names = {"ship": scenario.vessel.name, "coast": self.voice.words["station"]}
        if scenario.kind == "relay":
            names["ship"] = self.voice.words["other"]
        names["other"] = self.voice.words["other"]
        if self.paper and end == "Over.":
            end = self.voice.say("over")
        text = " ".join(part for part in (*parts, end) if part)
        self.turns.append(Turn(speaker, text, names[speaker]))

    def told(self, most: int) -> list[str]:
        """Statements of some facts, which are said with them."""
        count = self.voice.draw.randrange(min(most, len(self.unsaid)) + 1)
        said, self.unsaid = self.unsaid[:count], self.unsaid[count:]
        return [self.statement(key, value) for key, value in said]

    def statement(self, key: str, value: str | int) -> str:
        """A fact in a sentence."""
        wordings = categories()[self.scenario.category][key]["say"]
        return self.voice.fill(self.voice.choose(wordings), x=self.voice.fact(key, value))

    def nature(self) -> str:
        return self.voice.fill(self.voice.choose(categories()[self.scenario.category]["nature"]))

    def mark(self, marker: str, sentence: str) -> str:
        """A sentence with its message marker, in dialogues that use them."""
        return f"{marker}. {sentence}" if self.marks else sentence

    def place(self) -> str:
        """Bearing and distance from the named place."""
        place = self.scenario.place
        if place is None or place.bearing is None:
            return ""
        n = self.voice.number(place.distance_nm)
        return self.voice.say("place", n=n, bearing=place.bearing, place=place.name)

    def persons(self) -> str:
        return self.voice.say("persons", n=self.voice.number(self.scenario.vessel.persons))

    def questions(self, asker: str, lead: str, later: list[tuple[str, str]]) -> None:
        """Each unsaid fact is asked for and told; `later` holds more questions with their answers."""
        voice, answerer = self.voice, "coast" if asker == "ship" else "ship"
        pairs = [
            (
                voice.choose(categories()[self.scenario.category][key]["ask"]),
                self.statement(key, value),
            )
            for key, value in self.unsaid
        ]
        self.unsaid = []
        pairs += later
        voice.draw.shuffle(pairs)
        for ask, answer in pairs:
            self.add(asker, lead, self.mark("QUESTION", ask))
            self.add(
                answerer,
                voice.say("ship_lead") if answerer == "ship" else "",
                self.mark("ANSWER", answer),
            )
            lead = voice.say("coast_lead") if asker == "coast" else ""

    def weather(self) -> list[tuple[str, str]]:
        """A question for the weather with its answer, sometimes."""
        weather = self.scenario.weather
        if weather is None or not self.voice.chance(0.4):
            return []
        answer = self.voice.say(
            "weather_say",
            wind=weather.wind,
            force=self.voice.number(weather.force),
            sea=weather.sea,
            n=self.voice.number(weather.visibility_nm),
        )
        return [(self.voice.say("weather_ask"), answer)]

    def assistance(self) -> str:
        """Which help comes, and when."""
        voice, scenario = self.voice, self.scenario
        if scenario.category == "advice":
            return voice.say("doctor", n=voice.number(voice.draw.randrange(5, 21)))
        unit, minutes = rescue(scenario, voice.draw)
        more = {"unit": unit, "n": voice.number(minutes)}
        start = scenario.port or scenario.harbour
        if start and voice.chance(0.5):
            return voice.say("sent_from", port=start.name, **more)
        return voice.say("sent", **more)

    def finish(self, lead: str) -> None:
        """Help is announced, understood, and the station stays on the air."""
        voice = self.voice
        grave = self.scenario.kind == "distress"
        part = f"advise_{self.scenario.category}" if grave else "advise_other"
        advice = voice.say(part if part in procedure() else "advise") if voice.chance(0.6) else ""
        self.add("coast", lead, self.mark("INFORMATION", self.assistance()), advice)
        self.add("ship", voice.say("agree"))
        if voice.chance(0.6) or not self.paper:
            self.add(
                "coast", voice.say("close"), end=voice.say("close_end") if self.paper else "Out."
            )


def _distress(script: _Script) -> None:
    voice, scenario = script.voice, script.scenario
    three = not script.paper and voice.chance(0.7)
    collided = []
    if (
        scenario.category == "collision"
        and scenario.other_vessel
        and "struck" not in scenario.facts
    ):
        other = " ".join(
            part for part in (scenario.other_vessel.type, scenario.other_vessel.name) if part
        )
        collided = [
            voice.fill(voice.choose(categories()["collision"]["struck"]["say"]), x=f"the {other}")
        ]
    persons_first = voice.chance(0.6)
    details = [*script.told(2), *([script.persons()] if persons_first else [])]
    voice.draw.shuffle(details)
    script.add(
        "ship",
        "Mayday, Mayday, Mayday.",
        voice.say("identity_three" if three else "identity" if script.paper else "identity_this"),
        voice.say("position"),
        script.place() if voice.chance(0.7) else "",
        script.nature(),
        *collided,
        *details,
        voice.say("help"),
    )
    later = script.weather()
    if not persons_first:
        later.append((voice.say("persons_ask"), script.persons()))
    if script.paper:
        script.questions("coast", f"{voice.say('answer_paper')} {voice.say('received')}", later)
        if len(script.turns) == 1:
            script.finish(f"{voice.say('answer_paper')} {voice.say('received')}")
        else:
            script.finish(voice.say("coast_lead"))
        return
    script.add("coast", f"Mayday. {voice.say('answer')}", voice.say("received"))
    if voice.chance(0.25):
        script.add("coast", voice.say("again_ask"))
        script.add("ship", voice.say("again_say"))
    _traffic(script, later)


def _traffic(script: _Script, later: list[tuple[str, str]]) -> None:
    """Distress traffic after the acknowledgement: noise and silence, questions, another ship, the end."""
    voice = script.voice
    silence = voice.chance(0.4)
    if voice.words["other"] == "":
        voice.words["other"] = voice.draw.choice(
            ("Motor Vessel Hartwell Crossing", "Tug Oxmoor", "Ferry Linden Sound")
        )
    if silence and script.scenario.other_vessel is None:
        if voice.chance(0.7):
            script.add("other", voice.say("noise"), end="")
        script.add("coast", voice.say("silence"), end="")
    script.questions("coast", voice.say("call"), later)
    if script.scenario.other_vessel is None and voice.chance(0.4):
        miles = voice.draw.randrange(3, 16)
        n = voice.number(5 * miles)  # at 12 knots
        script.add("other", voice.say("offer", m=voice.number(miles), n=n), end="")
        script.add("coast", voice.say("offer_answer"), end="")
    script.finish(voice.say("call"))
    if silence:
        script.add("coast", voice.say("feenee"), end="")


def _urgency(script: _Script) -> None:
    voice, medical = script.voice, script.scenario.kind == "medical"
    script.add(
        "ship",
        voice.choose(["Pan-pan, pan-pan, pan-pan.", "Pan pan, pan pan, pan pan."]),
        voice.say("to_station"),
        voice.say("identity_three" if voice.chance(0.5) else "identity_this"),
        voice.say("position"),
        script.place() if voice.chance(0.7) else "",
        script.nature(),
        *script.told(2),
        voice.say("help"),
        script.persons() if voice.chance(0.6) or medical else "",
    )
    script.add("coast", voice.say("answer"), voice.say("received_pan"))
    later = script.weather()
    if not any("persons" in turn.text.lower() or "people" in turn.text for turn in script.turns):
        later.append((voice.say("persons_ask"), script.persons()))
    script.questions("coast", voice.say("call"), later)
    script.finish(voice.say("call"))


def _safety(script: _Script) -> None:
    """A warning: by the coast station, or by the ship that saw the danger."""
    voice = script.voice
    from_ship = script.scenario.category == "obstruction"
    speaker = "ship" if from_ship else "coast"
    who = voice.say("identity_this") if from_ship else "This is {station}.".format(**voice.words)
    script.add(
        speaker,
        "Securite, Securite, Securite.",
        voice.say("all_stations"),
        who,
        script.nature(),
        voice.say("position_of"),
        script.place(),
        *script.told(3),
        voice.say("safety_end") if not from_ship else "",
        end="Over." if from_ship else "Out.",
    )
    if from_ship:
        script.add("coast", voice.say("answer"), voice.say("received_pan"))
        script.questions("coast", voice.say("call"), [])
        script.add("coast", voice.say("coast_lead"), "A warning will be broadcast.", end="Out.")
    elif script.unsaid:
        script.questions("ship", "{station}, this is {type} {name}.".format(**voice.words), [])
        script.add("ship", voice.say("agree"), end="Out.")


def _sar(script: _Script) -> None:
    voice = script.voice
    if script.scenario.category == "search":
        script.add(
            "coast",
            voice.say("call"),
            script.nature(),
            voice.say("position_of"),
            script.place(),
            *script.told(2),
        )
        script.questions("ship", "{station}, this is {name}.".format(**voice.words), [])
        script.add("ship", voice.say("agree"))
    else:
        script.add(
            "ship",
            "{station}, this is {type} {name}{ids}.".format(**voice.words),
            script.nature(),
            voice.say("position"),
            script.place(),
            *script.told(2),
        )
        script.add("coast", voice.say("answer"), voice.say("received_pan"))
        script.questions("coast", voice.say("call"), [])
    script.add("coast", voice.say("coast_lead"), voice.say("close"), end="Out.")


def _relay(script: _Script) -> None:
    voice = script.voice
    script.add(
        "ship",
        voice.say("relay_call"),
        voice.say("position_of"),
        script.place() if voice.chance(0.7) else "",
        script.nature(),
        *script.told(2),
        script.persons(),
        voice.say("relay_help"),
    )
    script.add("coast", voice.say("relay_answer"))
    script.questions("coast", "{other}, this is {station}.".format(**voice.words), script.weather())
    script.add(
        "coast", voice.say("coast_lead"), "Thank you for the relay.", voice.say("close"), end="Out."
    )


def _cancel(script: _Script) -> None:
    voice = script.voice
    alert = [item for item in script.unsaid if item[0] == "alert_utc"]
    script.unsaid = [item for item in script.unsaid if item[0] != "alert_utc"]
    script.add(
        "ship",
        voice.say("all_stations"),
        voice.say("identity_three"),
        voice.say("position"),
        script.place() if voice.chance(0.5) else "",
        script.nature(),
        *(script.statement(*item) for item in alert),
        *script.told(1),
    )
    if script.unsaid:
        script.questions("coast", voice.say("answer"), [])
        script.add("coast", "Your false alert is cancelled.", end="Out.")
    else:
        script.add("coast", voice.say("cancel_answer"), end="")


_KINDS: dict[str, Callable[[_Script], None]] = {
    "distress": _distress,
    "urgency": _urgency,
    "medical": _urgency,
    "safety": _safety,
    "sar": _sar,
    "relay": _relay,
    "cancel": _cancel,
}
