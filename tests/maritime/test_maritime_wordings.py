"""Ways of saying right things that were refused, and faults near to them that are found: both, side by side."""

from __future__ import annotations

from typing import Any

import pytest

from graftwork_maritime.dialogues import Dialogue, from_text
from graftwork_maritime.filters.reading import case_of
from graftwork_maritime.filters.sets import choose, judge

OURS = choose(["house", "grammar", "phrases"])
HEAD = "SHIP (Orla Finch): Mayday, Mayday, Mayday. This is Orla Finch, Orla Finch, Orla Finch."
CALL = (
    f"{HEAD} Mayday Orla Finch. Six miles south of Start Point. I am sinking. I require a lifeboat. Nine persons on "
    "board. Over.\nCOAST (Prawle Coast Guard): Mayday Orla Finch, this is Prawle Coast Guard. Received Mayday."
)
HELP = f"{HEAD} Mayday Orla Finch. Six miles south of Start Point. I am sinking. Nine persons on board."
ANSWER = "Over.\nCOAST (Prawle Coast Guard): Mayday Orla Finch, this is Prawle Coast Guard. Received Mayday. Out."
PAN = (
    "SHIP (Orla Finch): Pan-Pan, Pan-Pan, Pan-Pan. This is Orla Finch, Orla Finch, Orla Finch. My rudder is lost, six "
    "miles south of Start Point. I require a tow. Over.\nCOAST (Prawle Coast Guard): Orla Finch, this is Prawle Coast "
    "Guard."
)
ALERT = (
    "SHIP (Orla Finch): MAYDAY. This is two eight five zero zero four four one seven, Orla Finch"
)
REST = "six miles south of Start Point. I am sinking. I require a lifeboat. Nine persons on board."
SCENARIO: dict[str, Any] = {
    "id": "wordings", "seed": 0, "exercise": True, "kind": "distress", "category": "sinking",
    "vessel": {"name": "Orla Finch", "type": "Cargo Vessel", "mmsi": "285004417", "call_sign": "QRTM4", "persons": 9,
               "cargo": "grain"},
    "position": {"lat": 50.116667, "lon": -3.65, "digit_by_digit": True, "minutes": 0, "lon_minutes": 0,
                 "connector": "decimal"},
    "place": {"name": "Start Point", "bearing": "south", "distance_nm": 6},
    "utc": "2026-05-04T14:20Z", "station": {"name": "Prawle Coast Guard", "mmsi": "002850001"},
    "help": ["lifeboat"], "facts": {},
}  # fmt: skip


def found(text: str, known: dict[str, Any] | None = None) -> set[str]:
    """The filters of ours that say something; those of whole turns without a scenario unless one is given."""
    category = known["category"] if known else None
    case = case_of(Dialogue(from_text(text).turns, scenario=known, category=category))
    return {f.filter for f in judge(case, OURS)} - {"mmsi_country"}


# (what passes, what is found, the filter that finds it): dialogues without a scenario.
PAIRS = {
    "the message after an alert says the signal once": (
        f"{ALERT}, {REST} {ANSWER}",
        f"SHIP (Orla Finch): MAYDAY. This is Orla Finch, {REST} {ANSWER}",
        "signal-count",
    ),
    "an alert is acknowledged before any voice": (
        (f"COAST (Prawle Coast Guard): Two eight five zero zero four four one seven, this is Prawle Coast Guard. "
        f"Received MAYDAY by DSC. Send your message. Over.\n{ALERT}, {REST} Over."),
        ("COAST (Prawle Coast Guard): Orla Finch, this is Prawle Coast Guard. Received MAYDAY. "
        f"Over.\n{ALERT}, {REST} Over."),
        "acknowledgement",
    ),
    "one half of a pair of channels": (
        f"{CALL} Shift to channel two two alfa. Over.",
        f"{CALL} Shift to channel two niner alfa. Over.",
        "channel-unknown",
    ),
    "a gas is no call sign": (
        f"{CALL.replace('Finch. Six', 'Finch, call sign QRTM4. Six')} Over.\nSHIP (Orla Finch): CO2 is released. Over.",
        (f"{CALL.replace('Finch. Six', 'Finch, call sign QRTM4. Six')} Over.\nSHIP (Orla Finch): This is Orla Finch, "
        "QRTM5. Over."),
        "fact-changed",
    ),
    "zero has no unit": (
        f"{CALL} Over.\nSHIP (Orla Finch): My speed zero. Over.",
        f"{CALL} Over.\nSHIP (Orla Finch): My speed one zero. Over.",
        "unit-missing",
    ),
    "the means alone asks for help": (
        f"{HELP} Helicopter and lifeboat, quickly. {ANSWER}",
        f"{HELP} The lifeboat deck is under water. {ANSWER}",
        "help-missing",
    ),
    "help is sent for in any words": (
        f"{HELP} Send helicopter. {ANSWER}",
        f"{HELP} I send my position by DSC. {ANSWER}",
        "help-missing",
    ),
    "a numbered place is a position": (
        f"{HELP.replace('Six miles south of Start Point', 'Anchorage area number four')} Tugs required. {ANSWER}",
        (f"{HELP.replace('Six miles south of Start Point', 'ETA at anchorage zero four three zero')} Tugs required. "
        f"{ANSWER}"),
        "position-missing",
    ),
    "the position of the alert": (
        f"{HELP.replace('Six miles south of Start Point', 'Position as in my alert')} Tugs required. {ANSWER}",
        f"{HELP.replace('Six miles south of Start Point', 'An alert is sent')} Tugs required. {ANSWER}",
        "position-missing",
    ),
    "who is spoken to is not who speaks": (
        f"{CALL} Over.\nCOAST (Prawle Coast Guard): MAYDAY. Orla Finch, understood. Out.",
        f"{CALL} Over.\nCOAST (Prawle Coast Guard): MAYDAY. This is Orla Finch, understood. Out.",
        "speaker-name",
    ),
    "whole numbers all through": (
        ("SHIP (Orla Finch): Salcombe Lock, this is Orla Finch. "
        "Length twenty metres. I arrive in fifteen minutes. Over."),
        ("SHIP (Orla Finch): Salcombe Lock, this is Orla Finch. "
        "Length two zero metres. I arrive in fifteen minutes. Over."),
        "figures-as-numbers",
    ),
    "a station's time of its own act": (
        (f"{CALL} Over.\nSHIP (Orla Finch): I cancel my alert of one four two zero UTC. Over.\n"
        "COAST (Prawle Coast Guard): Alert cancelled, one four two seven UTC. Out."),
        (f"{CALL} Over.\nSHIP (Orla Finch): Helicopter comes at one four two zero UTC. Over.\n"
        "COAST (Prawle Coast Guard): Helicopter, one four two seven UTC. Out."),
        "readback-wrong",
    ),
    "figures in another order": (
        (f"{CALL} Helicopter will be over you at one four two five UTC. Over.\n"
        "SHIP (Orla Finch): One four two five UTC. I go to the raft now. Over."),
        (f"{CALL} Helicopter will be over you at one four two five UTC. Over.\n"
        "SHIP (Orla Finch): One four five two UTC. I go to the raft now. Over."),
        "readback-wrong",
    ),
    "a time of something else": (
        (f"{CALL} Tug ETA one three zero zero UTC. Over.\n"
        "SHIP (Orla Finch): I will call at one zero three zero UTC. Over."),
        f"{CALL} Pass buoy one four. Over.\nSHIP (Orla Finch): I pass buoy four one. Over.",
        "readback-wrong",
    ),
    "a numbered thing": (
        f"{CALL} Proceed to anchorage number four. Over.\nSHIP (Orla Finch): I proceed to anchorage number four. Over.",
        f"{CALL} Proceed to anchorage number four. Over.\nSHIP (Orla Finch): I proceed to anchorage number five. Over.",
        "readback-wrong",
    ),
    "another numbered thing": (
        f"{CALL} Proceed to berth C twelve. Over.\nSHIP (Orla Finch): I am at buoy four, I proceed. Over.",
        f"{CALL} Proceed to berth C twelve. Over.\nSHIP (Orla Finch): Berth C twenty. Over.",
        "readback-wrong",
    ),
    "who repeats may end": (
        f"{CALL} Over.\nSHIP (Orla Finch): I say again my depth: nine metres. Out.",
        f"{CALL} Over.\nSHIP (Orla Finch): Please say again the depth. Out.",
        "over_out",
    ),
    "past something": (
        f"{CALL} Over.\nSHIP (Orla Finch): I sail past four buoys. Over.",
        f"{CALL} Over.\nSHIP (Orla Finch): I sank at ten past four. One man is missing. Over.",
        "time-form",
    ),
    "times are UTC": (
        f"{CALL} Over.\nSHIP (Orla Finch): ETA one one three zero UTC. I have time. Over.",
        f"{CALL} Over.\nSHIP (Orla Finch): ETA one one three zero ship's time. Over.",
        "time-form",
    ),
    "a slip in words": (
        f"{CALL} Over.\nSHIP (Orla Finch): The mean depth is nine metres. Over.",
        f"{CALL} Over.\nSHIP (Orla Finch): The pump, er, I mean the generator has stopped. Over.",
        "correction-form",
    ),
    "figures for a name are an MMSI": (
        f"{ALERT}, {REST} {ANSWER}",
        f"{ALERT.replace('four one seven', 'four one')}, {REST} {ANSWER}",
        "mmsi-form",
    ),
    "who has imposed silence": (
        f"{CALL} SEELONCE MAYDAY. Over.\nSHIP (Orla Finch): Seelonce Mayday received. Over.",
        f"{CALL} SEELONCE MAYDAY. Over.\nSHIP (Orla Finch): SEELONCE MAYDAY, all stations. Over.",
        "silence-by",
    ),
    "all who were told": (
        f"{CALL} Over.\nSHIP (Orla Finch): All nine are in the raft. Over.",
        f"{CALL} Over.\nSHIP (Orla Finch): All eight are in the raft. Over.",
        "persons-sum",
    ),
    "no more are saved than there were": (
        (f"{CALL} Over.\nOTHER (Tern Wave): This is Tern Wave, I have room for two zero persons. "
        "Five survivors on board. Over."),
        f"{CALL} Over.\nOTHER (Tern Wave): This is Tern Wave. One four survivors on board. Over.",
        "persons-sum",
    ),
    "an urgency call is received": (
        f"{PAN} Pan-Pan received. Is your anchor clear? Over.",
        f"{PAN} Is your anchor clear? Over.",
        "receipt-missing",
    ),
    "an answer with its phrase": (
        f"{CALL} Is the fire under control? Over.\nSHIP (Orla Finch): No. The fire is not under control. Over.",
        f"{CALL} Is the fire under control? Over.\nSHIP (Orla Finch): No. I have one hose only. Over.",
        "bare-answer",
    ),
    "a list in degrees": (
        f"{CALL} Over.\nSHIP (Orla Finch): My list is five degrees to port. Freeboard 0.8 metres forward. Over.",
        f"{CALL} Over.\nSHIP (Orla Finch): My list is five to port. Over.",
        "unit-missing",
    ),
    "a depth with decimals": (
        f"{CALL} Over.\nSHIP (Orla Finch): Draught eight decimal four metres. Depth 1.5 metres. Over.",
        f"{CALL} Over.\nSHIP (Orla Finch): Draught eight decimal four. Over.",
        "unit-missing",
    ),
    "a drift in three figures": (
        (f"{CALL} Over.\nSHIP (Orla Finch): Drift zero niner zero degrees, two knots. "
        "Wind three zero degrees on the bow. Over."),
        f"{CALL} Over.\nSHIP (Orla Finch): Drift niner zero degrees, two knots. Over.",
        "bearing_form",
    ),
    "a slip with more than one filler": (
        f"{CALL} Over.\nSHIP (Orla Finch): The raft is west of me. Mistake. Correction: east of me. Over.",
        f"{CALL} Over.\nSHIP (Orla Finch): The raft is west, no, er, sorry, east of me. Over.",
        "correction-form",
    ),
    "an answer to what was asked": (
        f"{CALL} QUESTION. What is your depth? Over.\nSHIP (Orla Finch): ANSWER. My depth is four metres. Over.",
        f"{CALL} Over.\nSHIP (Orla Finch): ANSWER. My depth is four metres. Over.",
        "marker-misused",
    ),
    "a request asks": (
        f"{CALL} Over.\nSHIP (Orla Finch): REQUEST. I require one tug. Over.",
        f"{CALL} Over.\nSHIP (Orla Finch): REQUEST. The tug is at the pier. Over.",
        "marker-misused",
    ),
    "an intention is one's own": (
        f"{CALL} INSTRUCTION. Muster your crew. Over.",
        f"{CALL} INTENTION. Muster your crew. Over.",
        "marker-misused",
    ),
    "a warning asks for nothing": (
        f"{CALL} WARNING. Two vessels are ahead of you. Over.",
        f"{CALL} WARNING. I request your draught. Over.",
        "marker-misused",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", PAIRS)
def test_what_is_right_passes_and_what_is_wrong_near_to_it_is_found(way: str) -> None:
    right, wrong, name = PAIRS[way]
    assert found(right) == set()
    assert name in found(wrong)


def test_figures_before_a_comma_are_another_number() -> None:
    place = "five zero degrees zero seven minutes North, zero zero three degrees three niner minutes West"
    for identity in (
        "two eight five zero zero four four one seven",
        "two eight five, zero zero four, four one seven",
    ):
        call = CALL.replace("Finch. Six miles", f"Finch, MMSI {identity}, {place}. Six miles")
        assert found(f"{call} Over.", SCENARIO) == set()
        wrong = call.replace("five zero degrees", "niner five degrees")
        assert {"position_form", "position_matches"} <= found(f"{wrong} Over.", SCENARIO)
    signs = "Quebec Romeo Tango Mike four, two eight five zero zero four four one seven"
    call = CALL.replace("Finch. Six miles", f"Finch, {signs}. Six miles")
    assert found(f"{call} Over.", SCENARIO) == set()
    assert "call_sign_matches" in found(f"{call.replace('Mike four', 'Mike five')} Over.", SCENARIO)


def test_a_distance_after_an_identity_is_a_number_of_its_own() -> None:
    call = CALL.replace("Six miles", "MMSI two eight five zero zero four four one seven, six miles")
    assert found(f"{call} Over.", SCENARIO) == set()
    wrong = call.replace("six miles", "niner miles")
    assert "distance_matches" in found(f"{wrong} Over.", SCENARIO)


@pytest.mark.parametrize("hour", ["twenty-one", "twenty three", "eleven"])
def test_hundreds_of_hours_are_times(hour: str) -> None:
    told = f"{CALL} A lifeboat reaches you at {{}} hundred UTC. Over."
    assert "time-form" not in found(told.format(hour))
    assert "time-form" in found(told.format("twenty-five"))


def test_an_order_of_the_coast_station_has_the_signal_once() -> None:
    order = "Mayday, all stations, all stations, all stations, this is Prawle Coast Guard. Seelonce Mayday. Out."
    call = f"{HEAD} Mayday Orla Finch. Six miles south of Start Point. I am sinking. I require a lifeboat. Over."
    assert "signal-count" not in found(f"COAST (Prawle Coast Guard): {order}")
    assert "signal-count" in found(call.replace("Mayday, Mayday, Mayday", "Mayday"))


def test_a_bearing_from_a_place_with_a_compass_word_is_no_latitude() -> None:
    call = CALL.replace("Six miles", "Bearing zero four zero degrees from South Falls. Six miles")
    assert found(f"{call} Over.", SCENARIO) == set()
    wrong = call.replace(
        "Six miles", "Position zero five zero degrees zero seven minutes North. Six miles"
    )
    assert "axis_figures" in found(f"{wrong} Over.", SCENARIO)


def test_a_new_position_is_not_that_of_the_call() -> None:
    told = "position is five zero degrees zero five minutes North, zero zero three degrees three five minutes West"
    assert found(f"{CALL} Over.\nSHIP (Orla Finch): My present {told}. Over.", SCENARIO) == set()
    assert "position_matches" in found(
        f"{CALL} Over.\nSHIP (Orla Finch): My {told}. Over.", SCENARIO
    )


SAFETY = {**SCENARIO, "kind": "safety", "category": "obstruction"}
TREE = "Tree trunk adrift, six miles south of Start Point. Over."
ONE = f"SHIP (Orla Finch): Prawle Coast Guard, Prawle Coast Guard, cargo vessel Orla Finch. {TREE}"
REPLY = "\nCOAST (Prawle Coast Guard): Orla Finch, {}. Received. I will warn ships. Out."


def test_where_a_station_is_that_relays_is_not_where_the_casualty_is() -> None:
    known = {**SCENARIO, "kind": "relay", "other_vessel": {"name": "Tern Wave", "type": "Tanker"}}
    place = "zero degrees zero seven minutes North, zero zero three degrees one zero minutes West"
    relay = (
        "OTHER (Tern Wave): Mayday Relay, Mayday Relay, Mayday Relay. This is tanker Tern Wave, Tern Wave, Tern Wave. "
        f"I see cargo vessel Orla Finch sinking. {{}} position is five {place}. Over.\n"
        "COAST (Prawle Coast Guard): Tern Wave, this is Prawle Coast Guard. Received Mayday Relay. Out."
    )
    assert "position_matches" not in found(relay.format("My"), known)
    assert "position_matches" in found(relay.format("Her"), known)


def test_a_report_to_one_station_is_no_broadcast() -> None:
    assert found(ONE + REPLY.format("this is Prawle Coast Guard"), SAFETY) == set()
    to_all = (
        f"SHIP (Orla Finch): All stations, all stations, all stations, this is Orla Finch. {TREE}"
    )
    assert "signal" in found(to_all + REPLY.format("this is Prawle Coast Guard"), SAFETY)
    unnamed = f"SHIP (Orla Finch): Prawle Coast Guard, Prawle Coast Guard. {TREE}"
    assert "this_is" in found(unnamed + REPLY.format("this is Prawle Coast Guard"), SAFETY)


def test_a_station_is_known_by_its_name_alone() -> None:
    assert found(ONE + REPLY.format("Prawle"), SAFETY) == set()
    assert "answer-unidentified" in found(ONE + REPLY.format("good day"), SAFETY)


FALSE = {**SCENARIO, "kind": "cancel", "category": "false_alert", "help": []}
FLARE = (
    "SHIP (Orla Finch): Prawle Coast Guard, this is Orla Finch. A red flare was fired by a guest. It was a mistake. I "
    "am six miles south of Start Point and need no help. Over.\nCOAST (Prawle Coast Guard): Orla Finch, this is Prawle "
    "Coast Guard. Cancel your alert to all stations if you have sent one. Out."
)


def test_a_false_flare_is_told_to_one_station_and_a_false_alert_to_all() -> None:
    assert "cancellation" not in found(FLARE, FALSE)
    alert = FLARE.replace("A red flare was fired by a guest.", "My alert came from a guest.")
    assert "cancellation" in found(alert, FALSE)  # that the coast station says it cancels nothing
    assert "cancellation" in found(FLARE.replace("It was a mistake. ", ""), FALSE)


def test_a_call_to_all_stations_says_what_is_cancelled() -> None:
    call = (
        "SHIP (Orla Finch): All stations, all stations, all stations, this is Orla Finch, six miles south of Start "
        "Point. My alert of one four two zero UTC was sent by mistake. {} Over.\n"
        "COAST (Prawle Coast Guard): Orla Finch, this is Prawle Coast Guard. Received. Out."
    )
    assert "cancellation" not in found(call.format("Cancel my alert."), FALSE)
    assert "cancellation" in found(call.format("Never mind."), FALSE)
