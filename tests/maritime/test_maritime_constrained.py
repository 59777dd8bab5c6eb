"""Constrained decoding: no fact is said otherwise, all else stays as it was drawn, and the batch does not matter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import salad_kit
import torch

from graftwork.errors import GraftError
from graftwork_llm.decoding import Sampling, complete
from graftwork_llm.pieces import Pieces
from graftwork_llm.tiny import tiny
from graftwork_maritime.grammar import compose
from graftwork_maritime.live import truth
from graftwork_maritime.live.model import Model, line_ends
from graftwork_maritime.live.opening import open_desk
from graftwork_maritime.live.session import Session
from graftwork_maritime.model.constrained import FactGuide
from graftwork_maritime.model.generate import Origin, generate
from graftwork_maritime.model.prompts import answer
from graftwork_maritime.scenario import Engine, Scenario
from graftwork_maritime.spoken import clock, digits, spell

FACTS = {"mmsi", "call_sign", "position", "persons", "name"}
SALAD = Sampling(1.5, 1.0, 0, 100)


@pytest.fixture(scope="module")
def words() -> Any:
    return tiny()[1]


@pytest.fixture(scope="module")
def pieces(words: Any) -> Pieces:
    return Pieces(words)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    """One with every fact."""
    engine = Engine("coastal", exercise=True)
    found = (engine.scenario(0, n) for n in range(200))
    return next(
        s for s in found if s.vessel.mmsi and s.vessel.call_sign and s.facts.get("alert_utc")
    )


def test_composed_dialogues_are_left_as_they_are(words: Any, pieces: Pieces) -> None:
    for preset, form in (("paper", "paper"), ("coastal", "full")):
        for n, one in enumerate(Engine(preset, exercise=True).scenarios(4, 12)):
            guide = FactGuide(one, pieces, words.eos_token_id)
            text = answer(compose(one, n, form))
            for token in words(text, add_special_tokens=False)["input_ids"]:
                assert guide.accepts(token), (one.id, text, guide._state.line)
                guide.take(token)
            assert guide.accepts(words.eos_token_id) and guide.refused == 0


def allowed(text: str, scenario: Scenario, words: Any, pieces: Pieces) -> tuple[str, list[str]]:
    """How far a text gets, and what must follow there."""
    guide = FactGuide(scenario, pieces, words.eos_token_id)
    for n, token in enumerate(words(text, add_special_tokens=False)["input_ids"]):
        if not guide.accepts(token):
            return text[:n], guide._wanted
        guide.take(token)
    return text, []


@pytest.mark.parametrize(
    ("before", "wrong", "fact"),
    [
        ("SHIP: Tug, MMSI ", "one one one", lambda s: spell(s.vessel.mmsi)),
        ("COAST: Your MMSI is ", "281", lambda s: spell(s.vessel.mmsi)),
        ("SHIP: Call sign ", "Zulu Zulu", lambda s: spell(s.vessel.call_sign)),
        ("SHIP: We are ", "Zulu Zulu", lambda s: ""),
        ("SHIP: My position is ", "nine nine degrees", lambda s: s.position.words()),
        ("SHIP: We lie in ", "one one degrees one", lambda s: ""),
        ("SHIP: Persons on board, ", "nine nine", lambda s: digits(s.vessel.persons)),
        ("SHIP: We are nine nine nine crew on ", "board", lambda s: ""),
        ("SHIP: There are ", "Elev", lambda s: digits(s.vessel.persons)),
        ("SHIP: It is over. ", "nine nine", lambda s: digits(s.vessel.persons).capitalize()),
        ("COAST: You have nine nine nine ", "persons", lambda s: ""),
        ("SHIP: The alert was sent at ", "nine nine", lambda s: clock(s.facts["alert_utc"])),
        ("SHIP: It is nine nine one ", "one", lambda s: ""),
        ("SHIP: It is nine nine nine ", "UTC", lambda s: ""),
        ("SHIP: This is ", "Xanadu", lambda s: s.vessel.name),
        ("COAST: Coast Guard to ", "Xanadu", lambda s: s.vessel.name),
    ],
)
def test_a_wrong_fact_is_refused_where_it_begins(
    before: str, wrong: str, fact: Any, scenario: Scenario, words: Any, pieces: Pieces
) -> None:
    got, _ = allowed(before + wrong, scenario, words, pieces)
    assert got.startswith(before) and len(got) < len(before + wrong)
    if value := fact(scenario):
        right = f"{before}{value}. Over."
        assert allowed(right, scenario, words, pieces) == (right, [])


def test_a_value_that_was_begun_is_gone_on_with(
    scenario: Scenario, words: Any, pieces: Pieces
) -> None:
    guide = FactGuide(scenario, pieces, words.eos_token_id)
    name, sign = scenario.vessel.name, spell(str(scenario.vessel.call_sign))
    for begun, rest in (
        (f"COAST: {name[:4]}", name[4:]),
        ("SHIP: Position " + scenario.position.words()[:9], scenario.position.words()[9:]),
        (f"SHIP: call sign {sign[:8]}", sign[8:]),
        (
            "SHIP: MMSI " + spell(str(scenario.vessel.mmsi))[:5],
            spell(str(scenario.vessel.mmsi))[5:],
        ),
    ):
        guide = FactGuide(scenario, pieces, words.eos_token_id)
        for token in words(begun, add_special_tokens=False)["input_ids"]:
            assert guide.accepts(token), begun
            guide.take(token)
        assert not guide.accepts(words.eos_token_id), "a value is not left in its middle"
        for letter in rest:
            [other] = words("#", add_special_tokens=False)["input_ids"]
            assert not guide.accepts(other)
            [token] = guide.instead([other])
            assert words.decode([token]) == letter
            guide.take(token)
        assert guide.accepts(words.eos_token_id)


def test_what_the_scenario_lacks_is_not_said(
    scenario: Scenario, words: Any, pieces: Pieces
) -> None:
    bare = replace(scenario, vessel=replace(scenario.vessel, mmsi=None, call_sign=None))
    for text in ("SHIP: MMSI two", "SHIP: call sign Quebec", "SHIP: We are Quebec Zulu"):
        got, wanted = allowed(text, bare, words, pieces)
        assert len(got) < len(text) and not wanted
    for text in ("COAST: What is your MMSI? Over.", "SHIP: No call sign. We see two tugs. Over."):
        assert allowed(text, bare, words, pieces)[0] == text


def test_counts_of_the_scenario_may_be_said_of_persons_but_not_on_board(
    words: Any, pieces: Pieces
) -> None:
    engine = Engine("distress", exercise=True)
    found = (engine.scenario(0, n) for n in range(200))
    one = next(s for s in found if s.facts.get("injured") == 2 and s.vessel.persons not in (2, 20))
    assert allowed("SHIP: Two persons are hurt. Over.", one, words, pieces)[0].endswith("Over.")
    text = "SHIP: Two persons on board. Over."
    assert allowed(text, one, words, pieces)[0] == "SHIP: Two persons on boar"


def test_other_figures_and_names_are_free(scenario: Scenario, words: Any, pieces: Pieces) -> None:
    for text in (
        "COAST: Expect a tug in two one four minutes. Over.",
        "COAST: Tug Oxmoor, proceed to your position, distance eight miles. Over.",
        "COAST: Keep watch on channel one six. Out.",
        "SHIP: Wind from west, force one zero. Heel three three degrees. Course zero four five degrees. Over.",
        "OTHER (Tern): This is Motor Vessel Hartwell Crossing. Over.",
        "COAST: How many persons are on board, and is anybody injured? Over.",
    ):
        assert allowed(text, scenario, words, pieces) == (text, [])


def salad(scenario: Scenario, seed: int, guided: bool) -> tuple[list[str], int]:
    """Eight rows of a random model's words, without the words at which they were cut off; how many were refused."""
    words = salad_kit.tokenizer(scenario)
    pieces, model = Pieces(words), salad_kit.model(words, seed)
    labels = ["SHIP:", "COAST:"] * 4
    prompts = [words(label, add_special_tokens=False)["input_ids"] for label in labels]
    guides = [FactGuide(scenario, pieces, 0, label) for label in labels] if guided else None
    out = complete(model, prompts, range(8), end=0, sampling=SALAD, guides=guides)
    texts = [
        f"{la}{words.decode(o, skip_special_tokens=True)}"
        for la, o in zip(labels, out, strict=True)
    ]
    return [" ".join(t.split(" ")[:-24]) for t in texts], sum(g.refused for g in guides or ())


def changed(texts: Sequence[str], scenario: Scenario) -> set[str]:
    """Facts that are said wrongly, by a reader that shares no code with the guide."""
    lines = [line for text in texts for line in text.split("\n")]
    return {
        key
        for line in lines
        for key in truth.wrong(line.partition(":")[2], scenario, "ship" if line.startswith("SHIP") else "coast")
    } & FACTS  # fmt: skip


def test_no_fact_changes_however_wrong_the_model_is() -> None:
    engine = Engine("coastal", exercise=True)
    plain: set[str] = set()
    refused = 0
    for n in range(6):
        one = engine.scenario(9, n)
        plain |= changed(salad(one, n, guided=False)[0], one)
        texts, count = salad(one, n, guided=True)
        assert changed(texts, one) == set(), texts
        refused += count
    assert plain and refused > 50  # else the model gave it nothing to do


def test_a_row_is_as_without_until_the_first_refusal_and_the_batch_does_not_matter(
    scenario: Scenario,
) -> None:
    words = salad_kit.tokenizer(scenario)
    pieces, model = Pieces(words), salad_kit.model(words, 3)
    start = words("SHIP:", add_special_tokens=False)["input_ids"]

    class First(FactGuide):
        """Keeps where it first refused."""

        at: int | None = None
        taken = 0

        def instead(self, likely: Sequence[int]) -> Sequence[int]:
            self.at = self.taken if self.at is None else self.at
            return super().instead(likely)

        def take(self, token: int) -> None:
            self.taken += 1
            super().take(token)

    sampling = replace(SALAD, most=50)
    free = complete(model, [start] * 6, range(6), end=0, sampling=sampling)
    guides = [First(scenario, pieces, 0, "SHIP:") for _ in range(6)]
    held = complete(model, [start] * 6, range(6), end=0, sampling=sampling, guides=guides)
    assert {g.at is None for g in guides} == {True, False} or all(g.at for g in guides)
    for a, b, guide in zip(free, held, guides, strict=True):
        assert a[: guide.at] == b[: guide.at]
        assert guide.at is None or a[guide.at] != b[guide.at]
    for row in range(6):
        alone = complete(
            model, [start], [row], end=0, sampling=sampling, guides=[FactGuide(scenario, pieces, 0, "SHIP:")]
        )  # fmt: skip
        assert alone == [held[row]]


def test_generation_says_that_it_was_constrained_and_goes_on(tmp_path: Path) -> None:
    model, words = tiny()
    some = list(Engine("coastal", exercise=True).scenarios(5, 3))
    origin = Origin("tiny", None, "full", 3, Sampling(0.9, 0.9, 50, 6), "0.1.0", constrained=True)
    plain = replace(origin, constrained=False)
    file, other = tmp_path / "c.jsonl", tmp_path / "p.jsonl"
    assert generate(model, words, some[:2], file, origin) == 2
    assert generate(model, words, some, file, origin) == 1
    generate(model, words, some, other, plain)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(line["provenance"]["constrained"] is True for line in lines)
    assert [line["provenance"]["refused"] for line in lines] == [0, 0, 0]
    plainly = [json.loads(line) for line in other.read_text().splitlines()]
    assert [line["turns"] for line in lines] == [line["turns"] for line in plainly]
    with pytest.raises(GraftError, match="written with another constrained"):
        generate(model, words, some, file, plain)
    for line in plainly:  # as lines were before there was the choice
        del line["provenance"]["constrained"]
    other.write_text("".join(json.dumps(line) + "\n" for line in plainly))
    assert generate(model, words, some, other, plain) == 0


def test_a_live_model_keeps_to_the_facts() -> None:
    one = Engine("coastal", exercise=True).scenario(0, 2)
    words = salad_kit.tokenizer(one)
    network = salad_kit.model(words, 1)
    sampling = replace(SALAD, most=60)
    said = []
    for seed in range(4):
        partner = Model(
            network, words, sampling, stops=line_ends(words), seed=seed, pieces=Pieces(words)
        )
        session = Session(one, partner, "ship")
        said += [session.open(), session.hear("What is your position? Over.")]
    texts = [s.reply.text for s in said if s.reply]
    assert (
        texts
        and not {key for text in texts for key in truth.wrong(" ".join(text.split()[:-24]), one)}
        & FACTS
    )


def test_the_composer_takes_no_constraint() -> None:
    class Module:
        base = "tiny"

    with pytest.raises(GraftError, match="constrained: is for a model's tokens"):
        open_desk(
            Module(), "cpu", "composer", adapter=None, keep=False, preset="coastal", temperature=0.0, form="full",
            constrained=True,
        )  # fmt: skip


def test_pieces_are_bytes_of_any_tokenizer(words: Any, pieces: Pieces) -> None:
    tokens = words("Båtön é", add_special_tokens=False)["input_ids"]
    joined = "".join(str(pieces.texts[t]) for t in tokens)
    assert joined.encode("latin-1").decode() == "Båtön é"
    assert pieces.texts[words.eos_token_id] == "" and torch.tensor(tokens).max() < len(words)
    spaced = salad_kit.tokenizer(Engine("coastal", exercise=True).scenario(0, 0))
    other = Pieces(spaced)
    tokens = spaced("MMSI two: one", add_special_tokens=False)["input_ids"]
    assert "".join(str(other.texts[t]) for t in tokens[1:]) == " two: one"
    assert list(other.beginning(" two eight"))[-1] == spaced.convert_tokens_to_ids("▁two")
