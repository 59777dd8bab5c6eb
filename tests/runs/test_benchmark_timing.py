"""Benchmarks take turns, count processor time, and judge themselves by their rows."""

from __future__ import annotations

import time

from benchmarks import import_cost
from benchmarks.timing import median_row, take_turns
from graftwork_runs import Row


def test_variants_take_turns_in_a_shuffled_order() -> None:
    calls: list[str] = []
    variants = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    seconds = take_turns(variants, rounds=10, warmup=2)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 10, "b": 10, "c": 10}
    rounds = [tuple(calls[i : i + 3]) for i in range(0, 36, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1


def test_waiting_is_not_work() -> None:
    def work() -> None:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass

    seconds = take_turns({"sleep": lambda: time.sleep(0.02), "work": work}, rounds=3, warmup=0)
    assert max(seconds["sleep"]) < 0.01 < min(seconds["work"])


def test_a_row_has_the_median_and_the_quartiles() -> None:
    row = median_row("case", "ours", "step", [5.0, 1.0, 2.0, 3.0, 4.0], "ms")
    assert (row.value, row.lo, row.hi, row.n, row.unit) == (3.0, 2.0, 4.0, 5, "ms")


def a_wait(case: str, variant: str, seconds: float) -> Row:
    return Row(case=case, variant=variant, metric="wait", value=seconds, unit="s")


def test_a_figure_over_its_limit_is_named_in_the_verdict() -> None:
    good = [a_wait("`medseg --help`", "graftwork", 0.9), a_wait("import, beyond torch", "peft", 9)]
    assert import_cost.verdict(good).startswith("seen")
    slow = [*good, a_wait("import, beyond torch", "graftwork", 0.051)]
    assert (
        import_cost.verdict(slow) == "partly: import, beyond torch took 0.051 s, promised 0.05 s."
    )
