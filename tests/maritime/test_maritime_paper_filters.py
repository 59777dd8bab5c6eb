"""The paper's 27 filters: a dialogue that passes all, one corruption for each row, scores and their invariants."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork_maritime.dialogues import from_text
from graftwork_maritime.filters import paper_words
from graftwork_maritime.filters.case import Case
from graftwork_maritime.filters.paper import PAPER
from graftwork_maritime.filters.scores import scores
from graftwork_maritime.filters.unique import Texts, after_position

CONTEXT: dict[str, Any] = {
    "vessel_name": "Quiet Meridian",
    "vessel_MMSI": "two zero one three four five six seven eight",
    "vessel_call_sign": "Zulu Quebec five one",
    "vessel_type": "Tanker",
    "vessel_coordinate_dms": "five four degrees one two minutes North zero one zero degrees zero eight minutes East",
    "compass_direction": "north east",
    "closest_place_name": "Port Amber",
    "distance_to_nearest_place": "twenty-one",
    "closest_place_country": "Nowhere",
    "nearest_port": "Gull Haven",
    "distance_to_nearest_port": "thirty",
    "nearest_harbor": "Old Mole",
    "distance_to_nearest_harbor": "five",
    "digit_by_digit": None,
    "can_have_cargo": "True",
    "closest_water_body": None,
    "collided_vessel_name": "Silver Tern",
    "collided_vessel_type": "Fishing Vessel",
}
TEXT = """\
Mayday, Mayday, Mayday. This is the Tanker Quiet Meridian, MMSI two zero one three four five six seven eight, call \
sign Zulu Quebec five one. Our position is five four degrees one two minutes North zero one zero degrees zero eight \
minutes East, twenty-one miles north east of Port Amber. We collided with Fishing Vessel Silver Tern. Over.
Quiet Meridian, this is Coast Guard. How many persons are on board? Over.
Coast Guard, eighteen persons are on board. We are thirty miles from Gull Haven. Over.
Quiet Meridian, a lifeboat reaches you in forty minutes. Out."""


def case(text: str = TEXT, category: str = "collision", **context: Any) -> Case:
    return Case(from_text(text), {**CONTEXT, **context}, category)


def failing(one: Case) -> set[str]:
    return {f.name for f in PAPER if f.findings(one)}


def test_there_are_27_rows_and_their_weights() -> None:
    assert len(PAPER) == len({f.name for f in PAPER}) == 27
    weights = {s: sum(f.weight for f in PAPER if f.score == s) for s in ("format", "information")}
    assert weights == {"format": 10, "information": 27}
    assert sum(f.weight for f in PAPER if f.score == "uniqueness") == 1


def test_the_template_passes_every_row() -> None:
    assert failing(case()) == set()
    assert all(f.judges(case()) for f in PAPER)


def swap(old: str, new: str, **context: Any) -> Case:
    assert old in TEXT
    return case(TEXT.replace(old, new), **context)


MUTANTS: dict[str, Case] = {
    "parentheses": swap("Over.\nCoast", "Over (please).\nCoast"),
    "brackets": swap("Over.\nCoast", "Over [please].\nCoast"),
    "incomplete": swap("Out.", "Out"),
    "wrong_category": swap("We collided with", "We touched"),
    "vessel_mmsi": swap("two zero one three", "two zero one four"),
    "vessel_call_sign": swap("Zulu Quebec five one", "Zulu Quebec five two"),
    "vessel_type": swap("the Tanker Quiet", "Quiet"),
    "vessel_position": swap("one two minutes North", "one three minutes North"),
    "collided_vessel_name": swap("Silver Tern", "Silver Fern"),
    "collided_vessel_type": swap("Fishing Vessel", "fisher"),
    "hallucinated_mmsi": swap(
        ", MMSI two zero", ", two zero", vessel_MMSI=None, vessel_call_sign="Zulu Quebec five one"
    ),
    "hallucinated_call_sign": swap("call sign Zulu", "Zulu", vessel_call_sign=None),
    "unknown_info": swap(
        "call sign Zulu Quebec five one", "call sign withheld", vessel_call_sign=None
    ),
    "mayday": swap("Mayday, Mayday, Mayday.", "Mayday, Mayday."),
    "name_not_after_mayday": swap("Mayday. This is", "Mayday. Hear us. This is"),
    "duplicate_sentences": swap(
        "We are thirty miles from Gull Haven.", "We are all well. We are all well."
    ),
    "false_cargo_logic": swap(
        "We are thirty miles from Gull Haven.", "We carry cargo.", can_have_cargo=None
    ),
    "hallucinated_vessel_type": swap("the Tanker Quiet", "the Tanker, a Tugboat, Quiet"),
    "port_and_harbour": swap("from Gull Haven", "from Gull Haven near Old Mole, not five miles"),
    "no_coast_guard": swap("Quiet Meridian, this is Coast Guard. How", "Say again. How"),
    "digit_by_digit": case(digit_by_digit=True),
    "compass": swap("north east of", "south east of"),
    "distance_to_place": swap("twenty-one miles", "twenty-two miles"),
    "distance_to_port": swap("We are thirty miles", "We are forty miles"),
    "distance_to_harbour": swap("thirty miles from Gull Haven", "six miles from Old Mole"),
    "vessel_name": case(TEXT.replace("Quiet Meridian", "Quiet Median")),
}
# Rows that cannot fail alone: without its name a vessel is not named after Mayday either.
ALONG = {"vessel_name": {"name_not_after_mayday"}}


@pytest.mark.parametrize("row", MUTANTS)
def test_a_corruption_fails_its_row_alone(row: str) -> None:
    assert failing(MUTANTS[row]) == {row} | ALONG.get(row, set())


def test_a_near_copy_is_not_unique() -> None:
    pool = Texts([TEXT])
    assert failing(dataclasses.replace(case(), pool=pool)) == {"not_unique"}
    assert {*MUTANTS, "not_unique"} == {f.name for f in PAPER}


def test_what_the_scenario_lacks_is_not_judged() -> None:
    bare = case(category="fire", **dict.fromkeys(CONTEXT) | {"vessel_name": "Quiet Meridian"})
    names = {f.name for f in PAPER if not f.judges(bare)}
    assert names == {
        "vessel_mmsi", "vessel_call_sign", "vessel_type", "vessel_position", "collided_vessel_name",
        "collided_vessel_type", "port_and_harbour", "compass", "distance_to_place", "distance_to_port",
        "distance_to_harbour",
    }  # fmt: skip


def test_without_a_scenario_only_the_form_is_judged() -> None:
    judging = {f.name for f in PAPER if f.judges(Case(from_text(TEXT)))}
    assert judging == {"parentheses", "brackets", "incomplete", "mayday", "duplicate_sentences", "no_coast_guard",
                       "not_unique"}  # fmt: skip


@pytest.mark.parametrize("category", paper_words.CATEGORIES)
def test_each_category_has_its_words(category: str) -> None:
    said = paper_words.KEYWORDS.get(category, ("we need help",))[0]
    one = case(f"Mayday, Mayday, Mayday. {said}.", category=category, vessel_name="X")
    other = case("Mayday, Mayday, Mayday. fire and flood.", category=category, vessel_name="X")
    assert "wrong_category" not in failing(one)
    assert ("wrong_category" in failing(other)) == (category not in ("fire", "flooding"))


def test_the_accidents_of_the_published_rules_are_kept() -> None:
    listen = case("Mayday, Mayday, Mayday. Please listen.", category="list")
    assert "wrong_category" not in failing(listen)
    assert paper_words.number("ten") == 0 and paper_words.number("twenty-one") == 11
    assert paper_words.number("eleven") == 10
    assert "distance_to_place" not in failing(swap("twenty-one miles", "twelve miles"))
    xray = TEXT.replace("call sign Zulu Quebec five one", "X-ray X-ray five")
    assert "hallucinated_call_sign" not in failing(case(xray, vessel_call_sign=None))


@pytest.mark.parametrize(
    ("words", "value"),
    [("five four", 54), ("one hundred", 100), ("two thousand one", 2001), ("30", 30)],
)
def test_numbers_below_its_slips_are_right(words: str, value: int) -> None:
    assert paper_words.number(words) == value


def test_all_passed_is_one_and_a_weight_of_two_counts_twice() -> None:
    whole = scores(case())
    assert (whole.format, whole.information, whole.uniqueness, whole.every) == (1, 1, 1, True)
    assert whole.published_format == 1
    less = scores(MUTANTS["incomplete"])
    assert less.format == pytest.approx(8 / 10) and not less.every and not less.accepted
    slight = scores(MUTANTS["compass"])
    assert not slight.every and slight.accepted  # measured, not refused


def test_the_published_score_counts_what_is_not_said() -> None:
    unsaid = swap("We are thirty miles from Gull Haven.", "We wait.")
    found = scores(unsaid)
    assert found.information == 1 and found.published_information == pytest.approx(22 / 23)


def test_the_published_score_counts_two_rows_that_judge_nothing() -> None:
    said = "We are thirty miles from Gull Haven."
    assert said in TEXT
    other = case(
        TEXT.replace(said, "We wait.").replace("north east", "south east"), nearest_harbor=None
    )
    # 23, less the distance to the harbour; compass weighs 2, and the port is not said
    assert scores(other).published_information == pytest.approx((22 - 3) / 22)
    assert scores(other).information == pytest.approx(1 - 2 / (27 - 2))


def test_masked_rows_do_not_move_a_score() -> None:
    text = TEXT.replace("call sign Zulu Quebec five one", "in haste")
    without = scores(case(text, vessel_call_sign=None))
    assert without.information == 1


def test_r_above_the_limit_is_no_uniqueness() -> None:
    far = scores(dataclasses.replace(case(), pool=Texts(["completely different words here"])))
    near = scores(dataclasses.replace(case(), pool=Texts([TEXT])))
    assert far.uniqueness == 1 - far.rouge_l and near.uniqueness == 0 and near.rouge_l == 1


def test_the_shared_first_sentence_is_not_compared() -> None:
    assert after_position(TEXT).startswith("We collided")
    other = TEXT.split("We collided")[0] + "We have nothing in common with that at all"
    assert dataclasses.replace(case(other), pool=Texts([TEXT])).pool.closest(other) < 0.3


@given(st.text(max_size=80), st.sampled_from(paper_words.CATEGORIES))
def test_any_text_is_judged(text: str, category: str) -> None:
    if not text.strip():
        return
    found = scores(case("a\n" + text, category=category))
    for value in (found.format, found.information, found.uniqueness, found.published_information):
        assert value is not None and 0 <= value <= 1
