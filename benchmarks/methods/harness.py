"""What the experiments of methods share: rates swept before the seeds, intervals, one record and one command line.

An arm's rate is chosen on `SWEEP`, seeds that are in no figure; then the arm runs on the record's own seeds at that
rate. Spreads are the smallest and the largest seed; comparisons are paired by seed, with a bootstrap interval.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods.kept import Failed, Figures, Kept
from graftwork_runs import Record, Row, environment, validate_record

RECORDS = Path(__file__).parents[1] / "records" / "methods"
#: seeds on which rates are chosen
SWEEP = (1000, 1001, 1002)
RATE, NUMBERS = "rate", "trained numbers"
LARGER, FAILED = "larger/", "failed"
#: how to read the rows of `compare`
BOUNDS = (
    "median over seeds, lo and hi the smallest and largest; ratios are geometric means with a 95 % bootstrap interval "
    "over seeds"
)

#: (seed, rate) -> figures by metric
Trial = Callable[[int, float], Figures]


@dataclass(frozen=True)
class Experiment:
    """One experiment: what its paper expects, how it is measured, and how its rows are judged.

    Attributes:
        name: of the record `methods/<name>` and of the module.
        claim: what the paper expects.
        model, data: what it was measured on; the page prints them beside every figure.
        measure: (seeds, options) -> rows.
        judge: rows -> a verdict of the record's kinds, from the rows alone.
        shown: (case, variant, metric) of the rows that the page shows.
        notes: on method; `remarks` may add some that depend on the rows.
        sizes: further whole-number options of the command line, with their defaults.
        files: name -> sha256 of the data that was read.
        larger: the same at a size that asks for a GPU or many cores, `--larger`; its name is `larger/<name>`.
    """

    name: str
    claim: str
    model: str
    data: str
    measure: Callable[[list[int], argparse.Namespace], list[Row]]
    judge: Callable[[list[Row]], str]
    shown: Sequence[tuple[str, str, str]]
    notes: Sequence[str] = ()
    remarks: Callable[[list[Row]], list[str]] = lambda rows: []
    sizes: Mapping[str, int] = field(default_factory=dict)
    files: Callable[[], dict[str, str]] = dict
    details: Mapping[str, Any] = field(default_factory=dict)
    larger: Experiment | None = None

    @property
    def target(self) -> Path:
        """Where the record lies."""
        return RECORDS / f"{self.name}.json"

    def words(self, rows: list[Row]) -> dict[str, Any]:
        """The fields of a record that follow from its rows and from this file."""
        about = {"model": self.model, "data": self.data, "shown": [list(s) for s in self.shown]}
        return {
            "claim": self.claim,
            "notes": [*self.notes, *self.remarks(rows)],
            "details": {**about, **self.details},
            "verdict": self.verdict(rows),
        }

    def verdict(self, rows: list[Row]) -> str:
        """What the rows say, or that some that it rests on are not there because their trials failed."""
        try:
            return self.judge(rows)
        except (LookupError, TypeError) as error:  # a row that is not there, or has no value
            if not any((r.note or "").startswith(FAILED) for r in rows):
                raise
            return f"not testable here: trials failed, {error}"

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """The command: measure, write the record, print its verdict."""
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        if self.larger is not None and "--larger" in arguments:
            return self.larger.main([a for a in arguments if a != "--larger"])
        module, larger = self.name.removeprefix(LARGER), self.name.startswith(LARGER)
        command = f"python -m benchmarks.methods.{module}{' --larger' if larger else ''}"
        parser = argparse.ArgumentParser(prog=command)
        if self.larger is not None:
            parser.add_argument("--larger", action="store_true", help="the larger plan")
        if self.larger is not None or larger:
            parser.add_argument(
                "--jobs", type=Path, default=self.target.with_suffix(".jobs.jsonl") if larger else None,
                help="keep finished trials in this file, and do not run them again",
            )  # fmt: skip
        parser.add_argument("--out", type=Path, default=self.target)
        parser.add_argument("--device", default="cpu")
        parser.add_argument(
            "--retell", action="store_true", help="measure nothing; judge the rows of --out again"
        )
        given = {"seeds": 5, **self.sizes}
        for name, default in given.items():
            parser.add_argument(f"--{name}", type=int, default=default)
        options = parser.parse_args(arguments)
        if options.retell:
            kept = validate_record(options.out)
            words = self.words(kept.rows)
            words["details"] = {**kept.details, **words["details"]}
            record = kept.model_copy(update=words)
        else:
            torch.set_num_threads(1)
            began, seeds = time.perf_counter(), list(range(options.seeds))
            sizes = {n: getattr(options, n) for n in given if n != "seeds"}
            options.kept = Kept(
                getattr(options, "jobs", None),
                {"experiment": self.name, "device": options.device, **sizes},
            )
            rows = self.measure(seeds, options)
            told = " ".join(f"--{name} {getattr(options, name)}" for name in given)
            device = "" if options.device == "cpu" else f" --device {options.device}"
            record = Record(
                record=f"methods/{self.name}",
                command=f"{command} {told}{device}",
                seeds=seeds,
                seconds=round(time.perf_counter() - began + options.kept.before, 1),
                rows=rows,
                data=self.files(),
                **self.words(rows),
                **environment(options.device),
            )
        for r in record.rows:
            bounds = "" if r.lo is None else f" ({r.lo:.4g} to {r.hi:.4g})"
            value = r.note if r.value is None else f"{r.value:.4g}"
            print(f"{r.case}: {r.variant}: {r.metric}: {value}{bounds}")
        print(record.verdict)
        print(record.write(options.out))
        return 0


def only(rows: Sequence[Row], case: str, variant: str, metric: str) -> Row:
    """The one row of these names.

    Raises:
        LookupError: none, or several.
    """
    found = [r for r in rows if (r.case, r.variant, r.metric) == (case, variant, metric)]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows of {case}: {variant}: {metric}")
    return found[0]


def summary(case: str, variant: str, metric: str, values: Sequence[float], **more: Any) -> Row:
    """Median over seeds, bounded by the smallest and the largest."""
    lost = sum(not math.isfinite(v) for v in values)
    if lost:
        note = f"diverged in {lost} of {len(values)} seeds"
        return Row(
            case=case, variant=variant, metric=metric, value=None, n=len(values), note=note, **more
        )
    low, middle, high = (_short(f(values)) for f in (min, statistics.median, max))
    return Row(
        case=case, variant=variant, metric=metric, value=middle, lo=low, hi=high, n=len(values), **more
    )  # fmt: skip


def bootstrap(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values`; the same for the same values."""
    rng = random.Random(0)
    means = sorted(statistics.fmean(rng.choices(values, k=len(values))) for _ in range(draws))
    return means[round(0.025 * (draws - 1))], means[round(0.975 * (draws - 1))]


def versus(
    case: str, variant: str, metric: str, mine: Sequence[float], other: Sequence[float],
    *, as_ratio: bool = True,
) -> Row:  # fmt: skip
    """What an arm has against another, seed by seed: the geometric mean of ratios, or the mean difference.

    Bounds are the bootstrap interval of that mean. A seed that diverged leaves no figure.
    """
    pairs = list(zip(mine, other, strict=True))
    if not all(math.isfinite(a) and math.isfinite(b) for a, b in pairs):
        return summary(case, variant, metric, [a + b for a, b in pairs])
    if as_ratio:
        logs = [math.log(max(a, 1e-300) / max(b, 1e-300)) for a, b in pairs]
        found = [math.exp(v) for v in (statistics.fmean(logs), *bootstrap(logs))]
    else:
        gaps = [a - b for a, b in pairs]
        found = [statistics.fmean(gaps), *bootstrap(gaps)]
    value, low, high = (_short(v) for v in found)
    return Row(
        case=case, variant=variant, metric=metric, value=value, lo=min(low, value), hi=max(high, value), n=len(pairs)
    )  # fmt: skip


def chosen_rate(
    trial: Trial, rates: Sequence[float], by: str, seeds: Sequence[int] = SWEEP
) -> float:
    """The rate with the lowest mean of the metric `by` on `seeds`; one that diverged or failed is the worst."""

    def score(rate: float) -> float:
        found = [trial(seed, rate).get(by, math.inf) for seed in seeds]
        return statistics.fmean(found) if all(map(math.isfinite, found)) else math.inf

    return min(rates, key=score)


def run_arms(
    case: str, arms: Mapping[str, Trial], rates: Sequence[float], seeds: Sequence[int], by: str,
    *, fixed: float | None = None, kept: Kept | None = None, sweep: int | None = None,
) -> tuple[list[Row], dict[str, list[Figures]]]:  # fmt: skip
    """Rows of every arm, its rate and its figures, and the figures by seed of the arms of which no trial failed.

    Args:
        rates: of which each arm gets the one with the lowest `by` on `SWEEP`, unless `fixed` gives one to all.
        kept: where finished trials wait.
        sweep: how many of the seeds of `SWEEP` choose a rate; all of them without.
    """
    rows, found, kept = [], {}, kept or Kept()

    def keeping(arm: str) -> Trial:
        def run(seed: int, rate: float) -> Figures:
            name = f"{case}: {arm}: seed {seed}, rate {rate:g}"
            return kept.run(name, lambda: arms[arm](seed, rate))

        return run

    for arm in arms:
        trial = keeping(arm)
        rate = chosen_rate(trial, rates, by, SWEEP[:sweep]) if fixed is None else fixed
        mine = [trial(seed, rate) for seed in seeds]
        rows.append(Row(case=case, variant=arm, metric=RATE, value=rate))
        why = next((f.note for f in mine if isinstance(f, Failed)), None)
        if why is None:
            found[arm] = mine
            rows += [summary(case, arm, m, [f[m] for f in mine]) for m in mine[0]]
        else:
            note = f"{FAILED}: {why}"
            rows.append(Row(case=case, variant=arm, metric=by, value=None, n=len(seeds), note=note))
        print(f"{case}: {arm}: rate {rate:g}", flush=True)
    return rows, found


def compare(
    case: str, arms: Mapping[str, Trial], rates: Sequence[float], seeds: Sequence[int], by: str,
    pairs: Sequence[tuple[str, str]], *, also: Sequence[str] = (), fixed: float | None = None,
    kept: Kept | None = None, sweep: int | None = None,
) -> list[Row]:  # fmt: skip
    """Rows of every arm (`run_arms`), and the ratios of some to those of another arm.

    Args:
        pairs: arms, and the arms that they are compared with.
        also: further metrics whose ratio is taken beside that of `by`.
    """
    rows, found = run_arms(case, arms, rates, seeds, by, fixed=fixed, kept=kept, sweep=sweep)
    for arm, other in pairs:
        if arm in found and other in found:
            for metric in (by, *also):
                mine, theirs = ([f[metric] for f in found[name]] for name in (arm, other))
                rows.append(versus(case, arm, ratio(metric, other), mine, theirs))
    return rows


def ratio(metric: str, other: str) -> str:
    """The metric of a comparison."""
    return f"{metric}, ratio to {other}"


def edges(rates: Sequence[float]) -> Callable[[list[Row]], list[str]]:
    """A remark on the arms whose rate is at an end of the grid, where a wider one may do better."""

    def remark(rows: list[Row]) -> list[str]:
        ends = (min(rates), max(rates))
        swept = [r for r in rows if r.metric == RATE and "fixed" not in r.case]
        at = [f"{r.variant} ({r.case})" for r in swept if r.value in ends]
        return [f"best at an end of the grid of rates: {'; '.join(at) or 'no arm'}"]

    return remark


def below(row: Row, level: float = 1.0) -> bool:
    """Whether the whole interval lies below `level`."""
    return row.hi is not None and row.hi < level


def above(row: Row, level: float = 1.0) -> bool:
    """Whether the whole interval lies above `level`."""
    return row.lo is not None and row.lo > level


def as_good(row: Row, slack: float = 1.05) -> bool:
    """Whether a ratio of errors is at most `slack`, or its whole interval below 1."""
    return below(row) or (row.value is not None and row.value <= slack)


def told(row: Row) -> str:
    """A row's value and bounds in a verdict."""
    if row.value is None:
        return str(row.note)
    return f"{row.value:.3g} ({row.lo:.3g} to {row.hi:.3g})"


def _short(value: float) -> float:
    return float(f"{value:.4g}")
