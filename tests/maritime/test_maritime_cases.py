"""The hand-written protocol cases are well-formed, and each violation is one fault in a clean dialogue."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

import pytest

from tests.maritime.cases_kit import CASES, Dialogue, clean, faults, table, violations

DISTRESS = {
    *("fire", "flooding", "collision", "grounding", "list", "sinking", "adrift", "attack"),
    *("undesignated", "abandoning", "overboard"),
}
KINDS = {"distress", "urgency", "safety", "sar", "medical", "relay", "cancel"}
DSC_ORDER = (
    "fire",
    "flooding",
    "collision",
    "grounding",
    "list",
    "sinking",
    "adrift",
    "undesignated",
)
NATURES = dict(zip((*DSC_ORDER, "abandoning", "attack", "overboard"), range(100, 111), strict=True))
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ALPHABET = [
    *("Alfa", "Bravo", "Charlie", "Delta", "Echo", "Foxtrot", "Golf", "Hotel", "India"),
    *("Juliett", "Kilo", "Lima", "Mike", "November", "Oscar", "Papa", "Quebec", "Romeo"),
    *("Sierra", "Tango", "Uniform", "Victor", "Whisky", "X-ray", "Yankee", "Zulu"),
]
KEYS = {"id", "scenario", "category", "turns", "provenance", "notice"}
BY_NAME = pytest.mark.parametrize("dialogue", clean(), ids=lambda d: d["id"])
FIGURES = r"((?:(?:zero|one|two|three|four|five|six|seven|eight|nine) )+)"
AXIS = re.compile(
    rf"{FIGURES}degrees {FIGURES}(?:(?:point|decimal) {FIGURES})?minutes (north|south|east|west)"
)


def spelled(text: str) -> str:
    return " ".join(DIGITS[int(c)] if c.isdigit() else ALPHABET[ord(c) - ord("A")] for c in text)


def figures(words: str | None) -> str:
    return "".join(str(DIGITS.index(word)) for word in (words or "").split())


def spoken_positions(text: str) -> list[float]:
    found = []
    for degrees, minutes, hundredths, side in AXIS.findall(text.lower()):
        value = int(figures(degrees)) + float(f"{figures(minutes)}.{figures(hundredths)}0") / 60
        found.append(value if side in ("north", "east") else -value)
    return found


def test_clean_dialogues_cover_the_contract() -> None:
    assert len(clean()) >= 60 and len({d["id"] for d in clean()}) == len(clean())
    assert {d["scenario"]["kind"] for d in clean()} == KINDS
    seen = {d["category"] for d in clean() if d["scenario"]["kind"] == "distress"}
    assert seen == DISTRESS
    styles = Counter(d["provenance"]["style"] for d in clean())
    assert set(styles) == {"plain", "terse", "talkative", "nonnative", "professional"}
    assert min(styles.values()) >= 8
    assert any("Seelonce Mayday" in t["text"] for d in clean() for t in d["turns"])
    assert any("Seelonce Feenee" in t["text"] for d in clean() for t in d["turns"])


@BY_NAME
def test_a_clean_dialogue_is_well_formed(dialogue: Dialogue) -> None:
    scenario = dialogue["scenario"]
    assert set(dialogue) == KEYS and dialogue["notice"] == "for training, never for transmission"
    assert scenario["id"] == dialogue["id"] and scenario["category"] == dialogue["category"]
    assert 5 <= len(dialogue["turns"]) <= 12
    for turn in dialogue["turns"]:
        assert set(turn) == {"speaker", "name", "text"}
        assert turn["speaker"] in ("ship", "coast", "other") and turn["name"]
        assert re.search(r"(Over|Out|[Oo]ut)\.$", turn["text"]) and not re.search(
            r"[\[\](){}\d]", turn["text"]
        )
    dsc = scenario["dsc"]
    if dsc and scenario["kind"] == "distress":
        assert dsc["nature"] == NATURES[dialogue["category"]]
        assert dsc["mmsi"] == scenario["vessel"]["mmsi"] and dsc["utc"] <= scenario["utc"]


@BY_NAME
def test_a_clean_dialogue_keeps_the_facts(dialogue: Dialogue) -> None:
    scenario = dialogue["scenario"]
    text = " ".join(turn["text"] for turn in dialogue["turns"])
    vessel, position = scenario["vessel"], scenario["position"]
    station = scenario["station"]["name"].removesuffix(" Coast Guard")
    assert vessel["name"] in text and station in text
    for key in ("mmsi", "call_sign"):
        assert vessel[key] is None or spelled(vessel[key]) in text
    if vessel["mmsi"] is None:
        assert "MMSI" not in text
    if vessel["call_sign"] is None:
        assert "call sign" not in text.lower()
    if position["digit_by_digit"]:
        tens = r"\b(eleven|twelve|\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred)\b"
        assert not re.search(tens, text)
        lat, lon = spoken_positions(text)[:2]
        assert abs(lat - position["lat"]) < 1e-5 and abs(lon - position["lon"]) < 1e-5


def test_nobody_is_named() -> None:
    """MIDs from 280 to 299 are allotted to no country, and no call sign begins with Q."""
    ships = [d["scenario"]["vessel"] for d in clean()]
    for vessel in ships:
        assert vessel["mmsi"] is None or re.fullmatch(r"2[89]\d{7}", vessel["mmsi"])
        assert vessel["call_sign"] is None or re.fullmatch(r"Q[A-Z]{3}\d?", vessel["call_sign"])
    assert len({v["name"] for v in ships}) == len(ships)
    numbers = [v["mmsi"] for v in ships if v["mmsi"]]
    assert len(set(numbers)) == len(numbers)
    for dialogue in clean():
        assert dialogue["scenario"]["exercise"] is True
        assert re.fullmatch(r"002[89]\d{5}", dialogue["scenario"]["station"]["mmsi"])


def test_counts_hold() -> None:
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for fault in faults():
        by_kind[fault["kind"]].append(fault)
    assert len(faults()) >= 420 and len(by_kind) >= 35
    assert min(len(found) for found in by_kind.values()) >= 12
    assert sum(f["uncovered_expected"] for f in faults()) >= 100
    assert len({f["id"] for f in faults()}) == len(faults())
    for kind, found in by_kind.items():
        assert len({f["uncovered_expected"] for f in found}) == 1, kind
        assert len({f["parent"] for f in found}) >= 8, f"{kind}: too few different dialogues"


def test_a_violation_changes_the_said_line_alone() -> None:
    parents = {d["id"]: d for d in clean()}
    assert len({(f["parent"], f["line"], f["text"]) for f in faults()}) == len(faults())
    for dialogue in violations():
        fault = dialogue["fault"]
        before, after = parents[fault["parent"]]["turns"], dialogue["turns"]
        changed = [n for n, (a, b) in enumerate(zip(before, after, strict=True), 1) if a != b]
        assert changed == [fault["line"]], fault["id"]
        assert set(fault) == {
            *("id", "parent", "kind", "line", "text", "why", "uncovered_expected")
        }
        assert fault["why"].endswith(".") and fault["text"] == fault["text"].strip()
        assert " ~" not in fault["text"] and "=>" not in fault["text"] and "  " not in fault["text"]
        assert parents[fault["parent"]]["scenario"] == dialogue["scenario"]


def test_the_readme_counts_what_is_there() -> None:
    text = (CASES / "README.md").read_text(encoding="utf8")
    assert f"<!-- kinds: begin -->\n{table()}\n<!-- kinds: end -->" in text
