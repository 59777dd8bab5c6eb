"""The speed benchmark: who is measured, against which floor, and what its command writes and refuses."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks.commands import command_of, words_of
from benchmarks.speed import __main__ as command
from benchmarks.speed import limits
from benchmarks.speed.measure import Case, Step, Turns, chosen, floor_of, measure
from benchmarks.timing import take_turns
from graftwork.errors import GraftError
from graftwork_runs import Row, validate_record


def work(size: int) -> Step:
    x = torch.ones(size, size)
    return lambda: x @ x


def absent() -> Step:
    raise ImportError("no such library")


CASE = Case(
    "toy: 1",
    {
        "floor": lambda: work(8),
        "floor, compiled": lambda: work(8),
        "more": lambda: work(160),
        "more, compiled": lambda: work(8),
        "absent": absent,
    },
)


def test_a_chosen_row_brings_its_floor() -> None:
    assert list(chosen(CASE, ["more"])) == ["floor", "more"]
    assert list(chosen(CASE, ["more, *"])) == ["floor, compiled", "more, compiled"]
    assert set(chosen(CASE, ["*"])) == set(CASE.variants)
    assert floor_of("more, compiled") == "floor, compiled"
    assert floor_of("more, cuda graph") == "floor, cuda graph"
    with pytest.raises(GraftError, match="'nothing' matches no variant of the case 'toy: 1'"):
        chosen(CASE, ["more", "nothing"])


def test_rows_are_paired_ratios_and_what_failed_says_why() -> None:
    rows = measure(CASE, Turns(rounds=5, burst=4))
    found = {(r.variant, r.metric): r for r in rows}
    slow = found["more", "ratio to floor"]
    assert slow.value is not None and slow.value > 1.5 and slow.n == 5
    assert found["more", "step"].unit == "ms"
    assert ("floor", "ratio to floor") not in found
    assert {v for v, m in found if m == "ratio to eager floor"} == {
        "floor, compiled",
        "more, compiled",
    }
    assert found["absent", "step"].value is None
    assert found["absent", "step"].note == "ImportError: no such library"
    assert not any(r.metric == "peak" for r in rows)  # a CPU does not say


def test_a_clock_that_waits_takes_the_place_of_processor_time() -> None:
    times = iter(range(100))
    seconds = take_turns({"a": int, "b": int}, rounds=3, warmup=1, clock=lambda: float(next(times)))
    assert seconds == {"a": [1.0] * 3, "b": [1.0] * 3}


@pytest.mark.filterwarnings("ignore")
def test_the_llama_table_runs_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    out = tmp_path / "llama.json"
    try:
        small = "--tiny --device cpu --rounds 2 --burst 1 --cases hidden --rows graftwork* full*"
        code = command.main([*small.split(), "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    assert code == 0
    record = validate_record(out)
    assert record.record == "speed/llama-cpu" and record.command.startswith(
        "python -m benchmarks.sp"
    )
    names = {r.variant for r in record.rows}
    assert {"floor", "graftwork LoRA 16", "graftwork DoRA 16", "graftwork DiaBlo 64"} <= names
    assert {"full fine-tuning, pure bf16", "full fine-tuning, fp32 masters"} <= names
    absent = {r.variant: r.note for r in record.rows if r.value is None}
    assert set(absent) == {"graftwork LoRA 16, liger"}  # its kernels need a GPU and say so
    assert "Error: " in absent["graftwork LoRA 16, liger"]
    assert "ratio to floor" in capsys.readouterr().out
    # a second command adds the case with a head and keeps the first one's rows
    try:
        more = "--tiny --device cpu --rounds 2 --burst 1 --cases head --dtype float32 --merge"
        rows = ["--rows", "graftwork LoRA 16", "full*", "peft LoRA 16"]
        assert command.main([*more.split(), *rows, "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    both = validate_record(out)
    assert both.rows[: len(record.rows)] == record.rows
    added = {r.variant for r in both.rows if r.case.startswith("head") and "float32" in r.case}
    assert added == {"floor", "graftwork LoRA 16", "full fine-tuning", "peft LoRA 16"}
    assert " && " in both.command


def test_no_row_is_built_after_the_time() -> None:
    rows = measure(CASE, Turns(rounds=2, burst=1, rows=["more"], seconds=-1.0))
    assert {r.variant: r.note for r in rows} == dict.fromkeys(
        ["floor", "more"], "TimeoutError: not begun after -1 s"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "nope"], "--cases 'nope': the table 'llama' has hidden, head"),
        (["--rounds", "1"], "--rounds must be at least 2"),
        (["--rows", "nope"], "--rows 'nope' matches no variant"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--tiny", "--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_verdict_counts_the_limits_that_hold() -> None:
    def rows(lora: float, dora: float) -> list[Row]:
        found = {"graftwork LoRA 16": lora, "graftwork DoRA 16": dora}
        return [
            Row(case="hidden: small", variant=v, metric=limits.RATIO, value=r)
            for v, r in found.items()
        ]

    said = limits.verdict("llama", rows(1.12, 1.36))
    assert said.startswith(
        "partly: 1 of 4 limits hold: hidden, graftwork LoRA 16: 1.12 (limit 1.13)"
    )
    assert "DiaBlo 64: not measured" in said
    assert limits.verdict("llama", rows(1.14, 1.36)).startswith("not seen at this scale: 0 of 4")
    assert limits.verdict("llama", []).startswith("not testable here: ")
    told = limits.verdict("llama", rows(1.12, 1.36), "cpu")
    assert told.startswith("not testable here: the limits are for a GPU") and "1.36" in told


def test_the_command_of_a_record_names_no_file() -> None:
    argv = ["--table", "llama", "--out", "here/r.json", "--rows", "peft LoRA 16", "*"]
    said = command_of("benchmarks.speed", argv)
    assert said == "python -m benchmarks.speed --table llama --rows 'peft LoRA 16' '*'"
    options = Namespace(cases=["a", "b"], steps=3, work="here")
    assert words_of(options, ["cases", "steps"]) == ["--cases", "a", "b", "--steps", "3"]
