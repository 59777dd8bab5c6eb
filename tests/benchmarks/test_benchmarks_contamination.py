"""The contamination experiment: its texts, its job list, its verdict's rule, and a run of the smallest size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.contamination import collect, training
from benchmarks.contamination.__main__ import main
from benchmarks.contamination.collect import Condition, Means
from benchmarks.contamination.jobs import BASE, Clock, Job, Results, listed
from benchmarks.contamination.page import copied, found
from benchmarks.contamination.text import Words, examples, split
from benchmarks.contamination.training import FULL, Size
from graftwork import GraftError
from graftwork_contamination.items import check_items
from graftwork_runs import validate_record

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns of itself


def test_all_questions_differ_and_the_groups_are_of_one_kind() -> None:
    some = split(30, 20, 15, seed=3)
    parts = (some.base, some.train, some.suspected, some.clean)
    assert [len(p) for p in parts] == [30, 20, 15, 15]
    questions = [e.question for part in parts for e in part]
    assert len(set(questions)) == len(questions)
    assert examples(5, 1) == examples(5, 1) != examples(5, 2)
    check_items(some.items, [e.text for e in some.tuning(3)])
    assert some.tuning(0) == some.train
    assert len(some.tuning(3)) == 20 + 3 * 15


def test_every_word_has_a_token_and_prompts_begin_texts() -> None:
    words = Words()
    for e in examples(200, 0):
        prompt, answer, text = (words(t)["input_ids"] for t in (e.prompt, e.answer, e.text))
        assert prompt + answer == text and 0 not in text and max(text) < len(words)
        assert 25 <= len(answer) <= 60 and len(prompt) < 40
    with pytest.raises(GraftError, match="'xyzzy'"):
        words("xyzzy")


def test_padding_is_masked_and_one_end_token_is_trained_on() -> None:
    ids, labels, mask = training.collate([[5, 6, 7], [8]], 0)
    assert ids.tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert labels.tolist() == [[5, 6, 7, 0], [8, 0, -100, -100]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_a_training_lowers_the_loss_and_moves_only_what_trains() -> None:
    size = Size(width=32, layers=1)
    model = training.blank(size, 0)
    texts = [Words()(e.text)["input_ids"] for e in examples(8, 0)]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    graft, trained, rate = training.tuned(model, "2", folder=False)
    how: dict[str, Any] = {"batch": 4, "end": 0, "seed": 0, "rate": 5 * rate}
    first = training.fit(model, trained, texts, epochs=1, **how)
    assert training.fit(model, trained, texts, epochs=15, **how) < first
    assert graft is not None and {*map(id, trained)} == {*map(id, graft.parameters())}
    with graft.off():
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    whole = training.blank(size, 0)
    none, weights, _ = training.tuned(whole, FULL, folder=False)
    assert none is None and sum(p.numel() for p in weights) == sum(
        v.numel() for v in whole.parameters()
    )
    assert training.fit(whole, weights, texts, epochs=15, **how) < first - 2
    for bad in ("0", "half", "-2"):
        with pytest.raises(GraftError, match="tuning"):
            training.tuned(model, bad, folder=False)


def test_the_list_has_each_condition_once_and_bases_first() -> None:
    jobs = listed([0, 1], ["2", FULL], [3, 20], [0, 5])
    assert len(jobs) == 2 + 2 * 2 * 2 * 2 == len({j.name for j in jobs})
    assert [j.tuning for j in jobs[:3]] == [BASE, BASE, "2"]
    assert jobs[-1].waits_for == Job(1) and jobs[0].waits_for is None
    for wrong, named in (
        (([], ["2"], [3], [0]), "--seeds"),
        (([0, 0], ["2"], [3], [0]), "--seeds"),
        (([0], ["2"], [0], [0]), "--epochs"),
        (([0], ["2"], [3], [1, 5]), "the control"),
    ):
        with pytest.raises(GraftError, match=named):
            listed(*wrong)


def test_longer_jobs_are_estimated_longer() -> None:
    clock = Clock(300, 100, 8.0)
    short, long = Job(0, "2", 3, 0), Job(0, "2", 20, 10)
    assert clock.estimate(short) < clock.estimate(long)
    clock.note(short, 5.0)
    assert clock.estimate(Job(1, "2", 3, 0)) == 5.0 < clock.estimate(long)


def means(*rows: tuple[str, int, float, float, float, float]) -> Means:
    """(tuning, copies, recall, AUC of CDD, of perplexity, of Min-K %)."""
    return {
        Condition(tuning, 20, copies): {
            "recall": recall, "loss": 1.0, "AUC, CDD": cdd, "AUC, perplexity": ppl, "AUC, Min-K %": low,
        }
        for tuning, copies, recall, cdd, ppl, low in rows
    }  # fmt: skip


GOOD = (("2", 0, 0.0, 0.5, 0.5, 0.5), ("2", 10, 0.0, 0.5, 0.7, 0.7))
ALSO = (("full", 0, 0.0, 0.5, 0.45, 0.5), ("full", 10, 0.9, 0.95, 1.0, 1.0))


def test_the_verdict_follows_its_rule() -> None:
    assert collect.verdict(means(*GOOD, *ALSO)).startswith("seen: ")
    assert collect.verdict(means(*GOOD)).startswith("partly: ")  # nothing is memorised
    assert "CDD needs memorisation not tested" in collect.verdict(means(*GOOD))
    for wrong, part, told in (
        (("2", 0, 0.0, 0.65, 0.5, 0.5), "controls at chance", (5, 6)),
        (("2", 10, 0.0, 0.5, 0.4, 0.7), "rise", (3, 4)),
        (("2", 10, 0.0, 0.7, 0.8, 0.7), "CDD needs memorisation", (1, 2)),
        (("full", 10, 0.9, 0.6, 1.0, 1.0), "CDD needs memorisation", (1, 2)),
        (("full", 10, 0.9, 0.95, 0.9, 0.8), "CDD is never best", (0, 1)),
    ):
        kept = [r for r in (*GOOD, *ALSO) if (r[0], r[1]) != (wrong[0], wrong[1])]
        text = collect.verdict(means(*kept, wrong))
        assert text.startswith("partly") and f"in {told[0]} of {told[1]}" in text, (part, text)


def test_rank_correlation_with_ties() -> None:
    assert collect.spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert collect.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert collect.spearman([1, 1, 2, 3], [1, 1, 2, 3]) == pytest.approx(1)
    assert collect.spearman([1, 2], [5, 5]) is None


def test_a_rehearsal_runs_goes_on_and_gives_a_record(tmp_path: Path, capsys: Any) -> None:
    words = ["--tiny", "--device", "cpu", "--out", str(tmp_path)]
    assert main(["plan", *words]) == 0
    assert "5 jobs, 5 to do" in capsys.readouterr().out
    assert main(["run", *words]) == 0
    shown = capsys.readouterr().out
    assert "[5/5]" in shown and "FAILED" not in shown
    assert main(["run", *words]) == 0
    assert "5 jobs, 0 to do" in capsys.readouterr().out
    assert main(["table", *words]) == 0
    record = validate_record(tmp_path / "records" / "transformer.json")
    assert record.verdict and "--tiny" in record.command and str(tmp_path) not in record.to_json()
    [overlap] = record.find(
        case="2 epochs, 3 copies", variant="LoRA r=2", metric="AUC, n-gram overlap"
    )
    assert overlap.value == 1  # who sees the training text knows
    assert "full fine-tuning" in found(record) and "rank correlation" in copied(record)
    results = Results(tmp_path)
    for name in ("2-e2-c0-s0", "full-e2-c3-s0"):
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert len(result["items"]) == 8 and all(i["base"] is not None for i in result["items"])
    results.path(Job(0, "2", 2, 3)).unlink()
    results.path(Job(0, "2", 2, 0)).unlink()
    (tmp_path / "base-s0.safetensors").rename(tmp_path / "kept")
    assert main(["run", *words, "--jobs", "2-e2-c3"]) == 1  # a job that fails loses no other
    assert "2-e2-c3-s0 FAILED" in capsys.readouterr().out
    assert main(["table", *words]) == 0
    again = validate_record(tmp_path / "records" / "transformer.json")
    assert any(n.startswith("2-e2-c3-s0: failed: ") for n in again.notes)
    assert "2-e2-c0-s0: not run." in again.notes and len(again.rows) < len(record.rows)
    (tmp_path / "kept").rename(tmp_path / "base-s0.safetensors")
    assert main(["run", *words, "--tar", str(tmp_path / "all.tar.gz")]) == 0
    assert "2 to do" in capsys.readouterr().out and not list(tmp_path.glob("failed/*"))
    assert main(["table", *words]) == 0
    assert validate_record(tmp_path / "records" / "transformer.json").rows == record.rows


def test_files_of_other_settings_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="no fine-tuning"):
        collect.build(Results(tmp_path), "contamination/x", "c")
    for words, named in (
        (["run", "--out", str(tmp_path), "--tunings", "half"], "tunings"),
        (["run", "--out", str(tmp_path), "--workers", "0"], "workers"),
        (["table", "--out", str(tmp_path)], "no fine-tuning"),
    ):
        assert main(words) == 2, named


def test_a_pretrained_folder_takes_the_transformers_place(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    from benchmarks.contamination.work import Bench, Setting, count
    from graftwork_contamination import Parameters

    size = Size(width=32, layers=1, base=4, train=4, group=3, batch=4)
    model = training.blank(size, 0)
    model.save_pretrained(tmp_path / "model")
    own = Words()
    raw = Tokenizer(WordLevel({"end": 0, **own.number}, unk_token="end"))
    raw.pre_tokenizer = Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="end", unk_token="end")
    made.save_pretrained(tmp_path / "model")
    told = Parameters(samples=2, max_new_tokens=4, resamples=20, rows=32)
    setting = Setting(str(tmp_path / "jobs"), "cpu", size, told, str(tmp_path / "model"))
    bench = Bench(setting)
    assert bench.run(Job(0))["parameters"] == count(model)
    result = bench.run(Job(0, "2", 1, 1))
    assert result["setting"]["folder"] == "model" and result["rate"] == training.FOLDER_LORA_RATE
    with pytest.raises(GraftError, match="config"):
        Bench(replace(setting, folder=str(tmp_path / "none"))).run(Job(0))
