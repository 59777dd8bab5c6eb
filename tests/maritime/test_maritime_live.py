"""Live exchanges: what is heard, what is answered, silence, kept facts, and a model as partner."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from graftwork.errors import GraftError
from graftwork_llm.decoding import Sampling, complete
from graftwork_llm.tiny import tiny
from graftwork_maritime.grammar import compose
from graftwork_maritime.live import Composer, Session, truth
from graftwork_maritime.live.hearing import listen
from graftwork_maritime.live.model import Model, line_ends
from graftwork_maritime.live.replies import kind_of
from graftwork_maritime.scenario import Scenario
from graftwork_maritime.spoken import cardinal, spell
from tests.maritime.live_kit import Says, begun, one
from tests.maritime.world_kit import drawn


@pytest.mark.parametrize(
    ("text", "act", "key"),
    [
        ("", "nothing", None),
        ("What is your position? Over.", "question", "position"),
        ("Where are you now?", "question", "position"),
        ("How many people are with you on board?", "question", "persons"),
        ("Tell me your call sign.", "question", "call_sign"),
        ("What assistance do you need?", "question", "help"),
        ("Is the fire under control?", "question", "state"),
        ("Say again. Over.", "again", None),
        ("Say again your MMSI.", "again", "mmsi"),
        ("What is the name of your insurance company?", "question", None),
        ("A helicopter is on the way to you.", "statement", None),
        ("Mayday. All stations, all stations, all stations. This is X Radio. Seelonce Mayday. Out.", "seelonce", None),
        ("Mayday. All stations. This is X Radio. Seelonce Feenee. Out.", "feenee", None),
        ("Tern Harmony, this is X Radio. What is your speed? Over.", "elsewhere", None),
    ],
)  # fmt: skip
def test_what_is_heard(text: str, act: str, key: str | None) -> None:
    found = listen(text, one("fire"))
    assert (found.act, found.key) == (act, key)


def test_every_question_of_the_composer_is_understood() -> None:
    """Questions of composed dialogues, and the fact that the next turn says."""
    right = total = 0
    for n, scenario in enumerate(drawn("coastal", 60, 3)):
        turns = compose(scenario, n)
        for ask, told in pairwise(turns):
            if ask.speaker == "coast" and "?" in ask.text and told.speaker == "ship":
                key = listen(ask.text, scenario).key
                total += 1
                right += key is not None and key in truth.said(told.text, scenario)
    assert total > 100 and right / total > 0.9


def test_a_composed_dialogue_says_nothing_wrong() -> None:
    for n, scenario in enumerate(drawn("coastal", 60, 3)):
        for turn in compose(scenario, n):
            assert truth.wrong(turn.text, scenario, turn.speaker) == [], turn.text


def test_what_is_said_wrongly_is_found() -> None:
    scenario = one("fire", kind="distress")
    vessel, seat = scenario.vessel, scenario.facts["seat"]
    other = "galley" if seat != "galley" else "bridge"
    digit = str((int(vessel.mmsi[4]) + 1) % 10)  # type: ignore[index]
    mmsi = vessel.mmsi[:4] + digit + vessel.mmsi[5:]  # type: ignore[index]
    for text, key in (
        (f"My MMSI is {spell(mmsi)}.", "mmsi"),
        (f"There are {cardinal(vessel.persons + 1)} persons on board.", "persons"),
        (f"The fire is in the {other}.", "seat"),
        ("The vessel is aground.", "nature"),
        ("This is Tern Harmony. Standing by.", "name"),
        ("Position one one degrees zero one minutes North, zero one one degrees zero one minutes East.", "position"),
    ):  # fmt: skip
        assert truth.wrong(text, scenario) == [key]
    assert (
        truth.wrong(f"The fire is in the {seat}, {vessel.persons} persons on board.", scenario)
        == []
    )


def test_the_name_of_a_port_is_no_side() -> None:
    scenario = one("list")
    port = replace(scenario.station, name="Port Amber Rescue")
    there = replace(scenario, station=port, facts={**scenario.facts, "side": "starboard"})
    assert truth.wrong("Port Amber Rescue, this is the vessel in distress.", there) == []
    assert truth.wrong("The list is to port.", there) == ["side"]
    assert (
        truth.said("Received, we report again soon.", replace(there, facts={"side": "port"}))
        == set()
    )


WAYS = (
    ("Might I trouble you for your coordinates? Over.", "question", "position"),
    ("You souls, how many? Over.", "question", "persons"),
    ("Kindly provide the letters and figures of your call sign. Over.", "question", "call_sign"),
    ("Advise what aid would serve you best. Over.", "question", "help"),
    ("Explain the trouble. Over.", "question", "nature"),
    ("Whereabouts, please? Over.", "question", "position"),
    ("What is the weight of your cargo? Over.", "question", None),
    ("Who is the master? Over.", "question", None),
    ("Tell me the colour of your funnel. Over.", "question", None),
    ("Fire a red flare when the lifeboat is near. Over.", "statement", None),
    ("Report when you see what comes. Over.", "statement", None),
    ("Let the crew know what to do. Over.", "statement", None),
    ("I repeat, keep your radio on. Over.", "statement", None),
    ("Sorry, I did not catch that. Over.", "again", None),
    ("Send that again, please. Over.", "again", None),
    ("How many miles are you from land? Over.", "question", "place"),
    ("Do you want a tug, or what? Over.", "question", "help"),
    ("What has befallen you? Over.", "question", "nature"),
    ("You are breaking up. Over.", "again", None),
)


@pytest.mark.parametrize(("text", "act", "key"), WAYS)
def test_the_ear_hears_plain_and_involved_english(text: str, act: str, key: str | None) -> None:
    found = listen(text, one("fire"))
    assert (found.act, found.key) == (act, key)


def test_a_question_for_the_trouble_tells_nature_and_cause() -> None:
    session = begun(one("engine"))
    done = session.hear("What is the trouble with your engine? Over.")
    assert done.reply and {"nature", "failure"} <= truth.said(done.reply.text, session.scenario)


def test_a_vessel_in_distress_that_nobody_hears_asks_for_a_relay() -> None:
    session = begun(one("sinking"))
    told = [session.hear("").reply for _ in range(3)]
    assert told[0] == told[1] and told[2] and "relay my Mayday" in told[2].text
    session.hear("Received Mayday. Over.")
    assert session.hear("").reply == told[0]


def test_the_composer_answers_what_was_asked() -> None:
    session = begun(one("fire"))
    scenario = session.scenario
    for key, ask in (
        ("position", "Received Mayday. What is your position?"),
        ("persons", "How many people?"),
        ("seat", "Where is the fire?"),
    ):
        done = session.hear(f"{scenario.vessel.name}, this is {scenario.station.name}. {ask} Over.")
        assert done.reply and done.kind == "answer" and key in truth.said(done.reply.text, scenario)
        assert done.changed == () and done.violations == ()
    assert session.hear("What is the colour of your funnel? Over.").kind == "no-information"
    assert session.hear("Put on your lifejackets. Over.").kind == "acknowledge"


def test_a_misheard_digit_is_corrected_and_a_right_one_confirmed() -> None:
    session = begun(one("flooding"))
    persons = session.scenario.vessel.persons
    done = session.hear(f"I understand {persons + 1} persons on board. Over.")
    assert done.kind == "correct" and "persons" in truth.said(done.reply.text, session.scenario)  # type: ignore[union-attr]
    assert "readback-wrong" in [v.rule for v in done.violations]
    assert session.hear(f"I understand {persons} persons on board. Over.").kind == "confirm"


def test_a_bare_figure_is_a_read_back_too() -> None:
    session = begun(one("fire", kind="distress"))
    vessel = session.scenario.vessel
    assert vessel.mmsi
    wrong = vessel.mmsi[:-1] + str((int(vessel.mmsi[-1]) + 1) % 10)
    for text, kind in (
        (f"MMSI {spell(wrong)}, that is what I wrote down. Over.", "correct"),
        (f"MMSI {spell(vessel.mmsi)}, that is what I wrote down. Over.", "confirm"),
        (f"Copied, {cardinal(vessel.persons + 1)} persons. Over.", "correct"),
        (f"Copied, {cardinal(vessel.persons)} persons. Over.", "confirm"),
        (f"Let me repeat that, MMSI {spell(wrong)}. Over.", "correct"),
        (f"I count {cardinal(vessel.persons + 1)} persons on board, yes? Over.", "correct"),
        (f"{cardinal(vessel.persons)} on board, understood. Over.", "confirm"),
        ("You need to put on lifejackets. Over.", "acknowledge"),
        ("We will call you again. Over.", "acknowledge"),
    ):
        assert session.hear(text).kind == kind, text


def test_the_vessel_calls_again_and_says_again() -> None:
    session = begun(one("grounding"))
    first = session.turns[0].text
    again = session.hear("")
    assert again.heard is None and again.kind == "call" and again.reply
    assert again.reply.text == first
    last = session.hear("Say again. Over.")
    assert (
        last.kind == "repeat"
        and last.reply
        and last.reply.text.count("Mayday, Mayday, Mayday.") == 1
    )
    assert session.hear("Say again your call sign. Over.").kind == "repeat"


def test_silence_is_kept_by_a_vessel_that_is_not_in_distress() -> None:
    session = begun(one("engine"))
    assert (
        session.hear(
            "Mayday, Mayday, Mayday. This is Tern Harmony. Fire on board. Over.", "other"
        ).kind
        == "silent"
    )
    order = "Mayday. All stations, all stations, all stations. This is X Radio. Seelonce {}. Out."
    assert session.hear(order.format("Mayday")).kind == "silent"
    assert session.hear("What is your position? Over.").reply is None
    assert session.hear("").reply is None
    session.hear(order.format("Feenee"))
    assert session.hear("What is your position? Over.").kind == "answer"


def test_a_vessel_in_distress_answers_under_silence_but_not_the_order() -> None:
    session = begun(one("sinking"))
    station = session.scenario.station.name
    order = f"Mayday. All stations, all stations, all stations. This is {station}. Seelonce Mayday. Out."
    assert session.hear(order).reply is None and session.hear("").reply is None
    assert session.hear("How many persons are on board? Over.").kind == "answer"
    assert session.hear("Tern Harmony, this is X Radio. What is your speed? Over.").reply is None


def test_facts_are_kept_by_a_second_partner() -> None:
    scenario = one("fire", kind="distress")
    false = (
        f"This is {scenario.vessel.name}. There are {scenario.vessel.persons + 1} persons on board."
    )
    true = f"There are {scenario.vessel.persons} persons on board."
    free = Session(scenario, Says(false))
    free.open()
    done = free.hear("How many persons are on board?")
    assert done.changed == ("persons",) and done.by == "says"
    drawn_again = Session(scenario, Says(false, false, true), keep=Composer(scenario))
    done = drawn_again.hear("How many persons are on board?")
    assert done.by == "redrawn" and done.reply and done.reply.text == true and done.changed == ()
    stubborn = Session(scenario, Says(false), keep=Composer(scenario))
    done = stubborn.hear("How many persons are on board?")
    assert done.by == "composer" and done.kind == "answer" and done.changed == ()
    order = (
        "Mayday. All stations, all stations, all stations. This is X Radio. Seelonce Mayday. Out."
    )
    assert stubborn.hear(order).by == "silence kept"


def test_the_coast_station_receives_asks_helps_and_keeps_order() -> None:
    scenario = one("fire", kind="distress")
    session = Session(scenario, Composer(scenario), role="coast")
    assert session.open().reply is None
    name = scenario.vessel.name
    first = session.hear(f"Mayday, Mayday, Mayday. This is {name}. Fire on board. Over.")
    assert first.reply and "position" in first.reply.text.lower() and first.state.acknowledged
    noise = session.hear("Radio check, please. Over.", "other", "Tug Oxmoor")
    assert noise.state.procedure == "silence"
    session.hear(
        "Position one one degrees zero one minutes North, zero one one degrees zero one minutes East. Over."
    )
    last = session.hear(
        "We are five persons on board and require fire fighting assistance. When will help arrive? Over."
    )
    assert last.reply and "minutes" in last.reply.text
    again = session.hear("How long until help arrives? Over.")
    minutes = next(w for w in last.reply.text.split(". ") if "minutes" in w)
    assert again.reply and minutes.rstrip(".").removesuffix(". Over") in again.reply.text
    differs = session.hear("There are six persons on board. Over.")
    assert differs.reply and "Say again your number of persons" in differs.reply.text
    silent = session.hear("")
    assert silent.reply and "Do you receive me?" in silent.reply.text


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"text": "x" * 3000}, "3000 characters"),
        ({"text": "Over.", "speaker": "ship"}, "choose one of coast, other"),
        ({"text": "Over.", "speaker": "gull"}, "speaker 'gull'"),
    ],
)  # fmt: skip
def test_bad_turns(given: dict[str, str], reason: str) -> None:
    with pytest.raises(GraftError, match=reason):
        begun(one("fire")).hear(**given)
    with pytest.raises(GraftError, match="role 'pilot'"):
        Session(one("fire"), Says(None), role="pilot")


def test_kinds_of_reply() -> None:
    scenario = one("fire")
    for text, kind in (
        (None, "silent"),
        ("Yes, that is correct. Over.", "confirm"),
        ("Negative. Persons on board, five.", "correct"),
        ("No information on that. Over.", "no-information"),
        ("Received, we will stand by. Over.", "acknowledge"),
        ("The sun shines.", "other"),
        (f"This is {scenario.vessel.name}. Over.", "answer"),
    ):
        assert kind_of(text, scenario) == kind


@pytest.fixture(scope="module")
def player() -> Model:
    network, tokenizer = tiny()
    return Model(network, tokenizer, Sampling(0.9, 0.9, 50, 12), stops=line_ends(tokenizer))


def test_a_model_writes_one_line(player: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = one("fire")
    session = Session(scenario, player)
    again = Session(scenario, player)
    for text in ("What is your position? Over.", ""):
        done = session.hear(text)
        assert (done.reply and done.reply.text) == ((r := again.hear(text).reply) and r.text)
        assert done.reply is None or "\n" not in done.reply.text
    seen, lines = list[str](), list[str]()

    def writes(
        model: object, prompts: list[list[int]], seeds: object, **more: object
    ) -> list[list[int]]:
        seen.append(player.tokenizer.decode(prompts[0]))
        return [player.tokenizer(lines.pop(0), add_special_tokens=False)["input_ids"]]

    monkeypatch.setattr("graftwork_maritime.live.model.complete", writes)
    session = Session(scenario, player)
    for line, heard, said in (
        ("SHIP: My name is Tern. Over.\nCOAST: x", "Who are you?", "My name is Tern. Over."),
        ("COAST: All received. Out.", "Stand by. Over.", None),
        (" Do you receive me? Over.", "", "Do you receive me? Over."),
        ("OTHER (Gull): Hello.", "Over.", None),
    ):
        lines.append(line)
        reply = session.hear(heard).reply
        assert (reply and reply.text) == said
    assert "COAST: Who are you?\n" in seen[0] and seen[0].endswith("COAST: Who are you?\n")
    assert (
        seen[2].endswith("SHIP:")
        and "SHIP: My name is Tern. Over.\nCOAST: Stand by. Over.\n" in seen[2]
    )


def test_an_answer_ends_behind_a_stop(player: Model) -> None:
    prompts, wide = [[5, 6, 7], [9]], Sampling(1.0, 1.0, 0, 40)
    free = complete(player.network, prompts, [1, 2], end=0, sampling=wide)
    stop = free[0][3]
    cut = complete(player.network, prompts, [1, 2], end=0, sampling=wide, stops=(stop,))
    for row, whole in zip(cut, free, strict=True):
        assert row == (whole[: whole.index(stop) + 1] if stop in whole else whole)


def test_the_state_is_that_of_the_scenario() -> None:
    session = begun(one("collision", kind="distress"))
    state = session.hear("What is your position? Over.").state
    scenario: Scenario = session.scenario
    assert (state.name, state.mmsi, state.kind) == (
        scenario.vessel.name,
        scenario.vessel.mmsi,
        "distress",
    )
