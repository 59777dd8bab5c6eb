"""Copying: whole dialogues, near ones, runs of words; variety; the verdict; the pages' tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.maritime import copying, headline_page
from graftwork.errors import GraftError
from graftwork_maritime.dialogues import Dialogue, Turn
from graftwork_runs import Row

SAID = "mayday mayday mayday this is lanmora legend i am on fire and need help now over"


def dialogue(*texts: str) -> Dialogue:
    return Dialogue(tuple(Turn("ship", text) for text in texts))


def test_the_same_words_are_copied_however_they_are_written() -> None:
    training = copying.Training(
        [dialogue(SAID), dialogue("something else that is quite long enough to have runs")]
    )
    same = copying.measured([dialogue(SAID.upper() + "!")], training)
    assert same["copied whole"] == same["near duplicates"] == same["runs in training"] == 1
    other = copying.measured(
        [dialogue("nothing of this stands in the training text at all, not one run")], training
    )
    assert other["copied whole"] == other["near duplicates"] == other["runs in training"] == 0


def test_near_is_to_one_dialogue_and_not_to_all_together() -> None:
    first, second = (
        SAID,
        "received mayday your position is understood help is on the way keep watch on sixteen",
    )
    training = copying.Training([dialogue(first), dialogue(second)])
    mixed = copying.measured([dialogue(first, second)], training)
    assert mixed["copied whole"] == mixed["near duplicates"] == 0
    assert 0.5 < mixed["runs in training"] < 1
    longer = copying.measured([dialogue(first + " please")], training)
    assert longer["copied whole"] == 0 and longer["near duplicates"] == 1


def test_distinct_counts_different_runs_over_all() -> None:
    assert copying.distinct([["a", "a", "b"]], 1) == 2 / 3
    assert copying.distinct([["a", "b"], ["a", "b"]], 2) == 1 / 2
    assert copying.distinct([["a"]], 2) == 0


def rows(arm: str, whole: float, near: float) -> list[Row]:
    return [Row(case=copying.CASE, variant=arm, metric=m, value=v)
            for m, v in (("copied whole", whole), ("near duplicates", near))]  # fmt: skip


def test_the_verdict_compares_with_the_composer() -> None:
    composer = rows(copying.COMPOSER, 0, 0.2)
    assert copying.verdict(composer).startswith("not testable here")
    assert copying.verdict([*composer, *rows("LoRA", 0, 0.2)]).startswith("seen")
    assert copying.verdict([*composer, *rows("LoRA", 0, 0.3)]).startswith("not seen")
    assert copying.verdict([*composer, *rows("LoRA", 0.01, 0)]).startswith("not seen")


def test_tables_have_a_row_for_each_arm_with_figures() -> None:
    for table in (headline_page.headline(), headline_page.copying()):
        assert "composer, no model" in table and "| LoRA |" in table
    assert "duplicate sentences" in headline_page.headline_refused()


def test_jobs_whose_dialogues_are_elsewhere_keep_their_figures(tmp_path: Path) -> None:
    data, out, file = tmp_path / "data", tmp_path / "out", tmp_path / "record.json"
    data.mkdir()
    out.mkdir()

    def put(place: Path, *texts: str) -> None:
        lines = [json.dumps(dialogue(text).to_json()) for text in texts]
        place.write_text("\n".join(lines) + "\n")

    for split in ("train", "test"):
        put(data / f"{split}.jsonl", SAID)
    put(out / "LoRA-0.jsonl", SAID, "another one")
    (out / "LoRA-0.json").write_text("{}")
    first = copying.write(data, out, file)
    (out / "LoRA-0.json").unlink()
    put(out / "LoRA-1.jsonl", SAID)
    (out / "LoRA-1.json").write_text("{}")
    second = copying.write(data, out, file)
    [one], [both] = (r.find(variant="LoRA", metric="copied whole") for r in (first, second))
    assert (one.value, one.n) == (0.5, 1) and (both.value, both.lo, both.n) == (0.75, 0.5, 2)
    put(
        data / "test.jsonl", "other data, so nothing of before is comparable with what is found now"
    )
    with pytest.raises(GraftError, match="LoRA-0 were compared with other data"):
        copying.write(data, out, file)
