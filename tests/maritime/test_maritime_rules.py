"""Each rule by mutations: a composed dialogue breaks none, and one change breaks the rule meant, at its line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from graftwork_maritime.dialogues import Turn
from graftwork_maritime.grammar import RULES, parse
from graftwork_maritime.scenario import Scenario
from graftwork_maritime.spoken import Position, digits, spell
from tests.maritime.world_kit import composed

Turns = tuple[Turn, ...]
Change = Callable[[Scenario, Turns], tuple[Turns, int] | None]
POOL = [
    *composed("coastal", "full", 135),
    *composed("distress", "full", 44),
    *composed("paper", "paper", 80),
]


def of(*kinds: str) -> Callable[[Change], Change]:
    """Only for scenarios of some kinds."""

    def wrap(change: Change) -> Change:
        return lambda scenario, turns: change(scenario, turns) if scenario.kind in kinds else None

    return wrap


def edited(
    turns: Turns, place: int, pattern: str, new: str, count: int = 1
) -> tuple[Turns, int] | None:
    """The turns with a part of one replaced, and its line; None where the part is not there."""
    text, hits = re.subn(pattern, new, turns[place].text, count=count, flags=re.IGNORECASE)
    if not hits:
        return None
    text = " ".join(text.split())
    return (*turns[:place], replace(turns[place], text=text), *turns[place + 1 :]), place + 1


def first(turns: Turns, speaker: str) -> int:
    return next(n for n, t in enumerate(turns) if t.speaker == speaker)


def appended(turns: Turns, speaker: str, text: str) -> tuple[Turns, int]:
    return (*turns, Turn(speaker, text)), len(turns) + 1


@of("distress", "urgency", "medical")
def no_signal(scenario: Scenario, turns: Turns):
    return edited(turns, 0, r"^((mayday|pan[- ]pan)[,.] ){3}", "")


@of("distress", "urgency", "medical", "safety", "relay")
def signal_twice(scenario: Scenario, turns: Turns):
    return edited(turns, 0, r"^(mayday relay|mayday|pan[- ]pan|securite), ", "")


@of("distress")
def two_signals(scenario: Scenario, turns: Turns):
    return edited(turns, 0, "^mayday", "Pan-pan")


@of("urgency")
def wrong_signal(scenario: Scenario, turns: Turns):
    return edited(turns, 0, r"^(pan[- ]pan[,.] ){3}", "Mayday, Mayday, Mayday. ")


@of("distress")
def nameless(scenario: Scenario, turns: Turns):
    return edited(turns, 0, r"(?<=mayday\. ).*?(?=(my |our |in )?position)", "")


@of("distress")
def nameless_answer(scenario: Scenario, turns: Turns):
    place = first(turns, "coast")
    if len([t for t in turns if t.speaker == "coast"]) < 2:
        return None
    text = "Received Mayday. Over."
    return (*turns[:place], Turn("coast", text), *turns[place + 1 :]), place + 1


@of("distress")
def nobody_answers(scenario: Scenario, turns: Turns):
    return turns[:1], 1


@of("distress")
def nowhere(scenario: Scenario, turns: Turns):
    text = turns[0].text.replace(scenario.position.words(), "unknown")
    text = re.sub(r"[^.]*miles [^.]*\.", "", text)
    rest = tuple(t for t in turns[1:] if "position" not in t.text.lower() and "miles" not in t.text)
    alone = (replace(turns[0], text=text), *(t for t in rest if t.speaker == "coast"))
    return alone, 1


@of("distress")
def nothing_wrong(scenario: Scenario, turns: Turns):
    position = scenario.position.words()
    text = f"Mayday, Mayday, Mayday. This is {scenario.vessel.name}. Position {position}. Over."
    return (Turn("ship", text), Turn("coast", "This is Coast Guard. Received Mayday. Over.")), 1


@of("distress")
def no_help_wanted(scenario: Scenario, turns: Turns):
    position = scenario.position.words()
    text = f"Mayday, Mayday, Mayday. This is {scenario.vessel.name}. Position {position}. Aground. Over."
    return (Turn("ship", text), Turn("coast", "This is Coast Guard. Received Mayday. Over.")), 1


@of("distress", "urgency")
def name_last(scenario: Scenario, turns: Turns):
    position = re.escape(scenario.position.words())
    moved = edited(turns, 0, rf"(my |our |in )?position,? (is )?{position}\.", "")
    if moved is None:
        return None
    said = rf"\1 Position {scenario.position.words()}. "
    return edited(moved[0], 0, r"^((?:(?:mayday|pan[- ]pan)[,.] ){3})", said)


def latitude_of_95(scenario: Scenario, turns: Turns):
    if scenario.position.minutes is None:
        return None
    return edited(turns, 0, r"(?<=position )(is )?(\w+ )+?degrees", "nine five degrees") or None


def longitude_first(scenario: Scenario, turns: Turns):
    lat, lon = scenario.position.words().split(", ")
    return edited(turns, 0, f"{lat}, {lon}", f"{lon}, {lat}")


@of("distress")
def eight_figures(scenario: Scenario, turns: Turns):
    return edited(turns, 0, r"(MMSI \w+ \w+ \w+ \w+ \w+ \w+ \w+ \w+) \w+", r"\1")


@of("distress")
def call_sign_of_figures(scenario: Scenario, turns: Turns):
    call = scenario.vessel.call_sign
    return edited(turns, 0, spell(call), "one two three four") if call else None


def bearing_of_400(scenario: Scenario, turns: Turns):
    return edited(turns, 0, r"$", " Bearing four zero zero degrees from the light.")


def minute_of_75(scenario: Scenario, turns: Turns):
    return edited(turns, 0, r"$", " Time one two seven five UTC.")


@of("distress")
def other_persons(scenario: Scenario, turns: Turns):
    persons = digits(scenario.vessel.persons + 1)
    if "persons on board" not in turns[0].text.lower():
        return None
    return appended(turns, "ship", f"There are {persons} persons on board. Over.")


@of("distress")
def misheard_figure(scenario: Scenario, turns: Turns):
    mmsi = scenario.vessel.mmsi
    if mmsi is None:
        return None
    wrong = spell(mmsi[:-1] + str((int(mmsi[-1]) + 1) % 10))
    return appended(turns, "coast", f"I read back, your MMSI {wrong}. Over.")


@of("distress")
def misheard_position(scenario: Scenario, turns: Turns):
    here = scenario.position
    wrong = Position(here.lat * 0.9, here.lon, True, here.minutes, here.lon_minutes)
    if wrong.words().split(",")[0] == here.words().split(",")[0]:
        return None
    return appended(turns, "coast", f"Received your position {wrong.words()}. Over.")


@of("distress")
def untrue_call_sign(scenario: Scenario, turns: Turns):
    call = scenario.vessel.call_sign
    return edited(turns, 0, spell(call), spell("QZZZ9")) if call else None


def over_and_out(scenario: Scenario, turns: Turns):
    return edited(turns, len(turns) - 1, r"( (over|out)\.)?$", " Over and out.")


@of("distress", "relay")
def no_receipt(scenario: Scenario, turns: Turns):
    answers = [n for n, t in enumerate(turns) if t.speaker != "ship"]
    second = answers[0]
    text = f"This is {turns[second].name}. What is your course? Over."
    return (turns[0], Turn("coast", text), Turn("ship", "Zero four five degrees. Over.")), 2


@of("distress")
def half_a_name(scenario: Scenario, turns: Turns):
    stem = scenario.vessel.name.split()[0]
    return appended(turns, "coast", f"{stem} Albatross, this is {turns[1].name}. Stand by. Over.")


@of("distress")
def renamed(scenario: Scenario, turns: Turns):
    stem = scenario.vessel.name.split()[0]
    return appended(turns, "ship", f"This is {stem} Albatross. Standing by. Over.")


@of("distress")
def coast_station_as_the_ship(scenario: Scenario, turns: Turns):
    return appended(turns, "coast", f"This is {scenario.vessel.name}. Standing by. Over.")


def broken_off(scenario: Scenario, turns: Turns):
    return appended(turns, "coast", "The lifeboat will be with")


def channel_of_no_band(scenario: Scenario, turns: Turns):
    return appended(turns, "coast", "Change to channel four one. Over.")


def half_past(scenario: Scenario, turns: Turns):
    return appended(turns, "coast", "We call you again at half past nine. Over.")


@of("distress")
def silence_by_a_stranger(scenario: Scenario, turns: Turns):
    return appended(turns, "other", "All stations, this is Ferry Lind. Seelonce Mayday. Out.")


@of("distress")
def silence_ended_before_it_began(scenario: Scenario, turns: Turns):
    return appended(turns[:2], "ship", "All stations. Seelonce Feenee. Out.")


def parts_of_another_number(scenario: Scenario, turns: Turns):
    return appended(turns, "ship", "We are nine persons, five passengers and three crew. Over.")


def voice_on_70(scenario: Scenario, turns: Turns):
    return appended(turns, "coast", "Change to channel seven zero. Over.")


def statement_marked_as_question(scenario: Scenario, turns: Turns):
    return appended(turns, "coast", "QUESTION. The lifeboat is on the way. Over.")


@of("urgency", "safety")
def silence_in_routine(scenario: Scenario, turns: Turns):
    return appended(turns, "coast", "All stations, this is Solwin Radio. Seelonce Mayday. Out.")


@of("distress")
def noise_during_silence(scenario: Scenario, turns: Turns):
    quiet = (*turns, Turn("coast", "All stations. Seelonce Mayday. Out."))
    return appended(quiet, "other", "Solwin Radio, this is Ferry Lind. Request a berth. Over.")


@of("distress")
def silence_ended_by_a_stranger(scenario: Scenario, turns: Turns):
    quiet = (*turns, Turn("coast", "All stations. Seelonce Mayday. Out."))
    return appended(quiet, "other", "All stations, this is Ferry Lind. Seelonce Feenee. Out.")


@of("relay")
def relay_of_nobody(scenario: Scenario, turns: Turns):
    return edited(
        turns,
        0,
        f"(the )?(following )?mayday (from|of the following vessel,).*?{scenario.vessel.name}",
        "a call",
    )


@of("relay")
def relay_of_oneself(scenario: Scenario, turns: Turns):
    assert scenario.other_vessel
    return edited(turns, 0, scenario.other_vessel.name, scenario.vessel.name, count=0)


@of("cancel")
def cancelled_without_a_time(scenario: Scenario, turns: Turns):
    return edited(turns, 0, r"[^.]* UTC\.", "")


@of("cancel")
def cancelled_to_nobody(scenario: Scenario, turns: Turns):
    return edited(turns, 0, "all stations[,.] ?", "", count=0)


CHANGES: dict[str, list[Change]] = {
    "signal-missing": [no_signal],
    "signal-count": [signal_twice],
    "signal-mixed": [two_signals],
    "signal-kind": [wrong_signal],
    "identity-missing": [nameless],
    "answer-unidentified": [nameless_answer],
    "receipt-missing": [no_receipt],
    "unanswered": [nobody_answers],
    "position-missing": [nowhere],
    "nature-missing": [nothing_wrong],
    "help-missing": [no_help_wanted],
    "order": [name_last],
    "position-range": [latitude_of_95],
    "position-form": [longitude_first],
    "mmsi-form": [eight_figures],
    "call-sign-form": [call_sign_of_figures],
    "bearing-range": [bearing_of_400],
    "time-form": [minute_of_75, half_past],
    "name-changed": [half_a_name, renamed],
    "speaker-name": [coast_station_as_the_ship],
    "cut-off": [broken_off],
    "fact-changed": [other_persons],
    "readback-wrong": [misheard_figure, misheard_position],
    "fact-wrong": [untrue_call_sign],
    "over-and-out": [over_and_out],
    "channel-70": [voice_on_70],
    "channel-unknown": [channel_of_no_band],
    "question-marker": [statement_marked_as_question],
    "silence-without-distress": [silence_in_routine],
    "persons-sum": [parts_of_another_number],
    "silence-broken": [noise_during_silence],
    "silence-by": [silence_by_a_stranger],
    "silence-end": [silence_ended_by_a_stranger, silence_ended_before_it_began],
    "relay-source": [relay_of_nobody],
    "relay-self": [relay_of_oneself],
    "cancel-address": [cancelled_to_nobody],
    "cancel-identity": [cancelled_without_a_time],
}


def test_every_rule_has_a_mutation() -> None:
    assert set(CHANGES) == set(RULES)


@pytest.mark.parametrize(
    ("rule", "change"), [(rule, change) for rule, found in CHANGES.items() for change in found]
)
def test_a_mutation_breaks_its_rule(rule: str, change: Change) -> None:
    tried = 0
    for scenario, turns in POOL:
        if (result := change(scenario, turns)) is None:
            continue
        tried += 1
        broken = parse(result[0], scenario).violations
        found = [(v.rule, v.line) for v in broken]
        assert (rule, result[1]) in found, (scenario.id, found, result[0])
        assert all(v.remedy and v.text for v in broken)
        if tried == 12:
            break
    assert tried >= 2


def test_a_correction_is_no_changed_fact() -> None:
    for scenario, turns in composed("distress", "full", 44)[:12]:
        persons = digits(scenario.vessel.persons + 1)
        text = f"Mistake. Correction, {persons} persons on board. Over."
        assert not parse((*turns, Turn("ship", text)), None).violations


def test_ships_that_help_do_not_break_the_silence() -> None:
    for scenario, turns in composed("distress", "full", 44)[:12]:
        name = scenario.vessel.name
        quiet = (
            *turns,
            Turn("coast", "All stations. Seelonce Mayday. Out."),
            Turn("other", f"{name}, this is Ferry Lind. I am on my way to you. Over."),
            Turn("coast", f"All stations. Traffic for {name} has ended. Seelonce Feenee. Out."),
            Turn("other", "Solwin Radio, this is Ferry Lind. Request a berth. Over."),
        )
        assert not parse(quiet, scenario).violations
