"""The later sets of protocol cases are well-formed, and their slot labels are words of their turns."""

from __future__ import annotations

import re
from typing import Any

import pytest

from graftwork_maritime.scenario.sea import is_sea
from tests.maritime.cases_kit import (
    CASES,
    FOURTH,
    SECOND,
    THIRD,
    Dialogue,
    clean,
    faults,
    table,
    violations,
)

SLOTS = ("vessel", "position", "nature", "persons", "help")
NATURES = {
    *("fire", "flooding", "collision", "grounding", "list", "sinking", "adrift", "attack"),
    *("undesignated", "abandoning", "overboard", "search", "medical", "technical", "cargo", "ice"),
    *("weather", "navigation", "traffic", "false_alert"),
}
KINDS = {"distress", "urgency", "safety", "sar", "medical", "relay", "cancel"}
FAULT = {"id", "parent", "kind", "line", "text", "why", "source", "uncovered_expected"}
UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = {
    word[0]: word.lower()
    for word in (
        *("Alfa", "Bravo", "Charlie", "Delta", "Echo", "Foxtrot", "Golf", "Hotel", "India"),
        *("Juliet", "Kilo", "Lima", "Mike", "November", "Oscar", "Papa", "Quebec", "Romeo"),
        *("Sierra", "Tango", "Uniform", "Victor", "Whisky", "X-ray", "Yankee", "Zulu"),
    )
}
POSITIONS = {"coordinates", "area", "bearing", "place", "none"}
# What each set promises: dialogues, violations, those of kinds hardly reached, turns of the shortest dialogue,
# the categories of dialogues without a scenario, and the dialogues that have each slot.
SIZES: dict[str, tuple[int, int, int, int, set[str], int]] = {
    SECOND: (80, 120, 30, 3, {"arrival", "traffic"}, 60),
    THIRD: (100, 160, 40, 2, {"arrival", "traffic", "routine", "navigation", "weather"}, 60),
    FOURTH: (70, 150, 40, 2, {"arrival", "traffic", "routine", "navigation", "weather"}, 45),
}
BY_SET = pytest.mark.parametrize("part", SIZES)
DIALOGUES = [(part, dialogue) for part in SIZES for dialogue in clean(part)]
BY_NAME = pytest.mark.parametrize(
    ("part", "dialogue"), DIALOGUES, ids=[dialogue["id"] for _, dialogue in DIALOGUES]
)


def group(words: list[str]) -> int:
    """The number that one run of number words, or one figure, says: `one eight` is 18, as `eighteen` is."""
    if words[0].isdigit():
        return int(words[0])
    if "hundred" in words:
        at = words.index("hundred")
        return 100 * group(words[:at]) + (group(words[at + 1 :]) if words[at + 1 :] else 0)
    if words[0] in TEENS:
        return 10 + TEENS.index(words[0])
    if words[0] in TENS:
        return 20 + 10 * TENS.index(words[0]) + (group(words[1:]) if words[1:] else 0)
    return int("".join(str(UNITS.index(word)) for word in words))


def numbers(text: str) -> list[list[str]]:
    """The runs of number words in a text, and its figures, in their order."""
    known = {*UNITS, *TEENS, *TENS, "hundred"}
    words = re.findall(
        r"[a-z]+|\d+", text.lower().replace("niner", "nine").replace("hundred and", "hundred")
    )
    groups: list[list[str]] = [[]]
    for word in words:
        if word.isdigit():
            groups += [[word], []]
        elif word in known:
            groups[-1].append(word)
        else:
            groups.append([])
    return [words for words in groups if words]


def total(text: str) -> int:
    """The sum of the numbers in a text: `two adults and two children` is 4."""
    return sum(group(words) for words in numbers(text))


def figures(text: str) -> str:
    """The numbers of a text as they are written: `zero four degrees thirty-one` is 0431."""
    return "".join(
        "".join(str(UNITS.index(word)) for word in words)
        if set(words) <= set(UNITS)
        else words[0]
        if words[0].isdigit()
        else str(group(words))
        for words in numbers(text)
    )


def spans(dialogue: Dialogue) -> list[tuple[str, dict[str, Any]]]:
    """Every span of every slot, the chosen one of a slot first."""
    return [
        (slot, span)
        for slot, said in dialogue["labels"].items()
        if said is not None
        for span in (said, *said["others"])
    ]


@BY_SET
def test_the_set_has_the_size_and_the_variety_that_it_promises(part: str) -> None:
    dialogues, edits = clean(part), faults(part)
    least, faulty, uncovered, _, others, labelled = SIZES[part]
    assert len(dialogues) >= least and len({d["id"] for d in dialogues}) == len(dialogues)
    assert {d["scenario"]["kind"] for d in dialogues if d["scenario"]} == KINDS
    assert {d["category"] for d in dialogues if not d["scenario"]} == others
    natures = [d["labels"]["nature"] for d in dialogues]
    assert {nature["category"] for nature in natures if nature} == NATURES
    assert {d["provenance"]["position"] for d in dialogues} == POSITIONS
    assert len(edits) >= faulty and sum(edit["uncovered_expected"] for edit in edits) >= uncovered
    for slot in SLOTS:
        assert sum(d["labels"][slot] is not None for d in dialogues) >= labelled, slot


@BY_NAME
def test_a_dialogue_is_well_formed(part: str, dialogue: Dialogue) -> None:
    assert set(dialogue) == {
        *("id", "scenario", "category", "turns", "labels", "provenance", "notice")
    }
    assert dialogue["notice"] == "for training, never for transmission"
    scenario = dialogue["scenario"]
    if scenario is not None:
        assert scenario["exercise"] is True
        assert (scenario["id"], scenario["category"]) == (dialogue["id"], dialogue["category"])
    assert SIZES[part][3] <= len(dialogue["turns"]) <= 12
    for turn in dialogue["turns"]:
        assert set(turn) == {"speaker", "name", "text"}
        assert turn["speaker"] in ("ship", "coast", "other") and turn["name"]
        assert re.search(r"\b(over|out)\.$", turn["text"], re.IGNORECASE)
        assert not re.search(r"[\[\](){}|]|  ", turn["text"])
        assert dialogue["provenance"]["figures"] or not re.search(r"\d", turn["text"])


@BY_NAME
def test_a_label_is_the_very_words_of_a_turn(part: str, dialogue: Dialogue) -> None:
    assert dialogue in clean(part)
    assert tuple(dialogue["labels"]) == SLOTS
    seen = set()
    for slot, span in spans(dialogue):
        text = dialogue["turns"][span["turn"] - 1]["text"]
        start, end = span["start"], span["start"] + len(span["text"])
        assert text[start:end] == span["text"] == span["text"].strip() != "", slot
        assert not text[start - 1 : start].isalnum() and not text[end : end + 1].isalnum(), slot
        seen.add((slot, span["turn"], start))
    assert len(seen) == len(spans(dialogue))
    names = {span["text"].lower() for slot, span in spans(dialogue) if slot == "vessel"}
    assert len(names) == (dialogue["labels"]["vessel"] is not None)
    persons = dialogue["labels"]["persons"]
    assert persons is None or total(persons["text"]) == persons["value"]


@pytest.mark.parametrize(
    "dialogue", [d for _, d in DIALOGUES if d["scenario"]], ids=lambda d: d["id"]
)
def test_what_is_said_is_the_scenarios(dialogue: Dialogue) -> None:
    vessel, position = dialogue["scenario"]["vessel"], dialogue["scenario"]["position"]
    labels = dialogue["labels"]
    assert labels["vessel"] is None or labels["vessel"]["text"].lower() == vessel["name"].lower()
    assert labels["persons"] is None or labels["persons"]["value"] == vessel["persons"]
    assert is_sea(position["lat"], position["lon"])
    text = " ".join(turn["text"] for turn in dialogue["turns"]).lower()
    for identity in filter(None, (vessel["mmsi"], vessel["call_sign"])):
        words = [UNITS[int(c)] if c.isdigit() else WORDS[c] for c in identity]
        assert (
            " ".join(words) in text
            or identity.lower() in text
            or " ".join([*words[:4], identity[4:]]) in text
        )
    if dialogue["provenance"]["position"] == "coordinates":
        said = figures(labels["position"]["text"])
        assert in_figures(position, position["minutes"]) in said or (
            position["minutes"] and in_figures(position, 1) in said  # a zero at the end is left out
        )


def in_figures(position: dict[str, Any], places: int) -> str:
    """Degrees and minutes of both axes, minutes with so many decimal places."""
    told = ""
    for axis, width in (("lat", 2), ("lon", 3)):
        whole, rest = divmod(round(60 * 10**places * abs(position[axis])), 10**places)
        told += f"{whole // 60:0{width}}{whole % 60:02}"
        told += f"{rest:0{places}}" if places else ""
    return told


def test_the_reader_of_numbers() -> None:
    said = ("one seven", "eighteen", "sixty-four", "six hundred and forty", "212", "niner six")
    assert [total(words) for words in said] == [17, 18, 64, 640, 212, 96]
    assert total("five seven plus one in the water") == 58
    assert figures("zero four degrees thirty-one decimal two five, 009 12") == "04312500912"


def test_nobody_is_named_and_nobody_is_in_two_sets() -> None:
    later = [d["scenario"] for _, d in DIALOGUES if d["scenario"]]
    every = [*(d["scenario"] for d in clean()), *later]
    for key in ("name", "mmsi", "call_sign"):
        known = [s["vessel"][key] for s in every if s["vessel"][key]]
        assert len(known) == len(set(known)), key
    for scenario in later:
        vessel = scenario["vessel"]
        assert vessel["mmsi"] is None or re.fullmatch(r"2[89]\d{7}", vessel["mmsi"])
        assert vessel["call_sign"] is None or re.fullmatch(r"Q[A-Z]{3}\d?", vessel["call_sign"])
        assert re.fullmatch(r"002[89]\d{5}", scenario["station"]["mmsi"])


@BY_SET
def test_a_violation_changes_the_said_line_alone_and_names_its_kind_and_source(part: str) -> None:
    parents = {d["id"]: d for d in clean(part)}
    found = faults(part)
    assert len({f["id"] for f in found}) == len({(f["parent"], f["text"]) for f in found})
    for dialogue in violations(part):
        fault = dialogue["fault"]
        assert set(fault) == FAULT and all(fault[key] for key in ("kind", "why", "source"))
        pairs = zip(parents[fault["parent"]]["turns"], dialogue["turns"], strict=True)
        assert [n for n, (a, b) in enumerate(pairs, 1) if a != b] == [fault["line"]], fault["id"]
        assert fault["why"].endswith(".") and fault["text"] == fault["text"].strip()
    rules = {(f["kind"], f["why"], f["source"], f["uncovered_expected"]) for f in found}
    assert len(rules) == len({f["kind"] for f in found})


@BY_SET
def test_the_readme_counts_what_is_there(part: str) -> None:
    text = (CASES / part / "README.md").read_text(encoding="utf8")
    assert f"<!-- kinds: begin -->\n{table(part)}\n<!-- kinds: end -->" in text
