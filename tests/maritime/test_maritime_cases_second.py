"""The second set of protocol cases is well-formed, and its slot labels are words of its turns."""

from __future__ import annotations

import re
from typing import Any

import pytest

from graftwork_maritime.scenario.sea import is_sea
from tests.maritime.cases_kit import CASES, SECOND, Dialogue, clean, faults, table, violations

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
BY_NAME = pytest.mark.parametrize("dialogue", clean(SECOND), ids=lambda d: d["id"])


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


def total(text: str) -> int:
    """The sum of the numbers in a text: `two adults and two children` is 4."""
    known = {*UNITS, *TEENS, *TENS, "hundred"}
    words = re.findall(
        r"[a-z]+|\d+", text.lower().replace("niner", "nine").replace("hundred and", "hundred")
    )
    groups: list[list[str]] = [[]]
    for word in words:
        if word in known or word.isdigit():
            groups[-1].append(word)
        else:
            groups.append([])
    return sum(group(words) for words in groups if words)


def spans(dialogue: Dialogue) -> list[tuple[str, dict[str, Any]]]:
    """Every span of every slot, the chosen one of a slot first."""
    return [
        (slot, span)
        for slot, said in dialogue["labels"].items()
        if said is not None
        for span in (said, *said["others"])
    ]


def test_the_set_has_the_size_and_the_variety_that_it_promises() -> None:
    dialogues = clean(SECOND)
    assert len(dialogues) >= 80 and len({d["id"] for d in dialogues}) == len(dialogues)
    assert {d["scenario"]["kind"] for d in dialogues if d["scenario"]} == KINDS
    assert {d["category"] for d in dialogues if not d["scenario"]} == {"arrival", "traffic"}
    assert {d["labels"]["nature"]["category"] for d in dialogues} == NATURES
    assert {d["provenance"]["position"] for d in dialogues} == {
        *("coordinates", "area", "bearing", "place", "none")
    }
    assert len(faults(SECOND)) >= 120
    assert sum(fault["uncovered_expected"] for fault in faults(SECOND)) >= 30
    for slot in SLOTS:
        assert sum(d["labels"][slot] is not None for d in dialogues) >= 60, slot


@BY_NAME
def test_a_dialogue_is_well_formed(dialogue: Dialogue) -> None:
    assert set(dialogue) == {
        *("id", "scenario", "category", "turns", "labels", "provenance", "notice")
    }
    assert dialogue["notice"] == "for training, never for transmission"
    scenario = dialogue["scenario"]
    if scenario is not None:
        assert scenario["exercise"] is True
        assert (scenario["id"], scenario["category"]) == (dialogue["id"], dialogue["category"])
    assert 3 <= len(dialogue["turns"]) <= 12
    for turn in dialogue["turns"]:
        assert set(turn) == {"speaker", "name", "text"}
        assert turn["speaker"] in ("ship", "coast", "other") and turn["name"]
        assert re.search(r"\b(over|out)\.$", turn["text"], re.IGNORECASE)
        assert not re.search(r"[\[\](){}|]|  ", turn["text"])
        assert dialogue["provenance"]["figures"] or not re.search(r"\d", turn["text"])


@BY_NAME
def test_a_label_is_the_very_words_of_a_turn(dialogue: Dialogue) -> None:
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
    "dialogue", [d for d in clean(SECOND) if d["scenario"]], ids=lambda d: d["id"]
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
            or identity in text
            or " ".join([*words[:4], identity[4:]]) in text
        )
    if dialogue["provenance"]["position"] == "coordinates":
        minutes = [round(60 * abs(position[axis])) for axis in ("lat", "lon")]
        north, east = (f"{m // 60:0{n}}{m % 60:02}" for m, n in zip(minutes, (2, 3), strict=True))
        said = labels["position"]["text"].lower().replace("niner", "nine")
        digits = re.findall("|".join((*UNITS, r"\d")), said)
        spoken = "".join(d if d.isdigit() else str(UNITS.index(d)) for d in digits)
        assert north + east in spoken


def test_the_reader_of_numbers() -> None:
    said = ("one seven", "eighteen", "sixty-four", "six hundred and forty", "212", "niner six")
    assert [total(words) for words in said] == [17, 18, 64, 640, 212, 96]
    assert total("five seven plus one in the water") == 58


def test_nobody_is_named_and_nobody_is_in_both_sets() -> None:
    second = [d["scenario"] for d in clean(SECOND) if d["scenario"]]
    both = [*(d["scenario"] for d in clean()), *second]
    for key in ("name", "mmsi", "call_sign"):
        known = [s["vessel"][key] for s in both if s["vessel"][key]]
        assert len(known) == len(set(known)), key
    for scenario in second:
        vessel = scenario["vessel"]
        assert vessel["mmsi"] is None or re.fullmatch(r"2[89]\d{7}", vessel["mmsi"])
        assert vessel["call_sign"] is None or re.fullmatch(r"Q[A-Z]{3}\d?", vessel["call_sign"])
        assert re.fullmatch(r"002[89]\d{5}", scenario["station"]["mmsi"])


def test_a_violation_changes_the_said_line_alone_and_names_its_kind_and_source() -> None:
    parents = {d["id"]: d for d in clean(SECOND)}
    found = faults(SECOND)
    assert len({f["id"] for f in found}) == len({(f["parent"], f["text"]) for f in found})
    for dialogue in violations(SECOND):
        fault = dialogue["fault"]
        assert set(fault) == FAULT and all(fault[key] for key in ("kind", "why", "source"))
        pairs = zip(parents[fault["parent"]]["turns"], dialogue["turns"], strict=True)
        assert [n for n, (a, b) in enumerate(pairs, 1) if a != b] == [fault["line"]], fault["id"]
        assert fault["why"].endswith(".") and fault["text"] == fault["text"].strip()
    rules = {(f["kind"], f["why"], f["source"], f["uncovered_expected"]) for f in found}
    assert len(rules) == len({f["kind"] for f in found})


def test_the_readme_counts_what_is_there() -> None:
    text = (CASES / SECOND / "README.md").read_text(encoding="utf8")
    assert f"<!-- kinds: begin -->\n{table(SECOND)}\n<!-- kinds: end -->" in text
