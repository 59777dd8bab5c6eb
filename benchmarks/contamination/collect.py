"""From job files to the record, and the verdict by a fixed rule.

The rule, written before the first run, has four parts; figures are means over seeds.

1. Controls: with no copy of the suspected group in training, each black-box detector's AUC is within 0.1 of 0.5.
2. Copies: in each tuning and length, the AUC of perplexity and of Min-K % is higher at the most copies than at none.
3. CDD needs memorisation: its AUC is within 0.1 of 0.5 wherever copies were trained on and under 5 % of the answers are
   recalled, and it is 0.7 or more wherever at least half are.
4. CDD is never best: where its AUC is above 0.6, that of perplexity or Min-K % is at most 0.02 below it.

Seen: all four hold. Partly: some do. A part without a condition to test it on is said, and counts as not tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contamination.jobs import BASE, Job, Results
from benchmarks.contamination.training import FULL
from graftwork.errors import GraftError
from graftwork_contamination.items import CLEAN, SUSPECTED
from graftwork_contamination.scoring import BLACK_BOX, CDD, MIN_K, NGRAMS, PERPLEXITY
from graftwork_runs import Record, Row

RECORDS = Path(__file__).parents[1] / "records" / "contamination"
CLAIM = (
    "Perplexity and Min-K % find contamination that was learnt; CDD finds it only where answers are memorised "
    "word by word."
)
NOTES = [
    "Means over seeds with the range; of a single seed the AUC's bounds are a 95 % interval over items.",
    "Held-out: the threshold is fitted on one half of each group and reported on the other.",
    "Minus base: the score under the fine-tuned model minus that under the base.",
    "Gate: the share of seeds in which the gate finds memorisation, by scores minus the base's (level 5 %).",
]
NEAR, PEAK, RECALL, LOSS, GATE = (
    "near duplicates",
    "mean peak",
    "recall",
    "loss",
    "gate finds memorisation",
)


@dataclass(frozen=True)
class Condition:
    """A tuning, its epochs and the copies of the suspected group."""

    tuning: str
    epochs: int
    copies: int

    @property
    def variant(self) -> str:
        """Its name in the record."""
        return "full fine-tuning" if self.tuning == FULL else f"LoRA r={self.tuning}"

    @property
    def case(self) -> str:
        """Its place in the record."""
        return f"{self.epochs} epochs, {self.copies} {'copy' if self.copies == 1 else 'copies'}"


Found = dict[Condition, list[dict[str, Any]]]
Means = Mapping[Condition, Mapping[str, float]]


def build(results: Results, record: str, command: str, absent: Sequence[Job] = ()) -> Record:
    """The record of all finished jobs.

    Args:
        absent: jobs of the list without a result; they are named in the notes.

    Raises:
        GraftError: no fine-tuning is done, or the files are of different settings.
    """
    files = results.all()
    found = grouped(files)
    if not found:
        raise GraftError(f"{results.folder}: no fine-tuning is done; run the jobs first")
    if len({str(f["setting"]) for f in files}) > 1:
        raise GraftError(f"{results.folder}: files of different settings; keep those of one")
    rows = [row for condition, runs in found.items() for row in rows_of(condition, runs)]
    means = means_of(rows, found)
    seeds = sorted({f["job"]["seed"] for f in files if f["job"]["tuning"] != BASE})
    rows += correlations(means)
    notes = list(NOTES)
    if absent:
        why: dict[str, list[str]] = {}
        for job in absent:
            why.setdefault(results.why(job), []).append(job.name)
        notes += [f"{', '.join(names)}: {told}." for told, names in why.items()]
    bases = [f for f in files if f["job"]["tuning"] == BASE]
    return Record(
        record=record, claim=CLAIM, command=command, seeds=seeds,
        seconds=round(sum(f["wall"] for f in files), 1), rows=rows, notes=notes,
        details={
            **files[0]["setting"], "parameters of the base": bases[0]["parameters"] if bases else None,
            "loss of the bases": [b["loss"] for b in bases],
        },
        verdict=verdict(means), **files[-1]["where"],
    )  # fmt: skip


def grouped(files: Iterable[dict[str, Any]]) -> Found:
    """The fine-tunings by condition, in the order of tuning, length and copies."""
    out: Found = {}
    for f in files:
        job = Job(**f["job"])
        if job.tuning != BASE:
            out.setdefault(Condition(job.tuning, job.epochs, job.copies), []).append(f)
    return dict(sorted(out.items(), key=lambda kv: _order(kv[0])))


def _order(c: Condition) -> tuple[Any, ...]:
    return (c.epochs, c.tuning == FULL, 0 if c.tuning == FULL else int(c.tuning), c.copies)


def rows_of(condition: Condition, runs: Sequence[dict[str, Any]]) -> list[Row]:
    """A condition's figures."""
    values: dict[str, list[float]] = {
        LOSS: [],
        RECALL: [],
        f"{RECALL}, clean": [],
        PEAK: [],
        f"{PEAK}, clean": [],
    }
    bounds: dict[str, tuple[float, float]] = {}
    gates = []
    for r in runs:
        values[LOSS].append(r["loss"])
        for name, key in ((RECALL, "recall"), (PEAK, "peak")):
            values[name].append(r[key][SUSPECTED])
            values[f"{name}, clean"].append(r[key][CLEAN])
        for group, suffix in ((SUSPECTED, ""), (CLEAN, ", clean")):
            values.setdefault(NEAR + suffix, []).append(r["copying"][group]["near"])
            distinct = r["copying"][group]["distinct"].get("3")
            if distinct is not None:
                values.setdefault("distinct-3" + suffix, []).append(distinct)
        for f in r["result"]["findings"]:
            if f["auc"] is None:
                continue
            name = f"AUC, {f['detector']}" + (", minus base" if f["minus_base"] else "")
            values.setdefault(name, []).append(f["auc"]["value"])
            bounds[name] = (f["auc"]["lo"], f["auc"]["hi"])
            if f["held_out"] is not None:
                values.setdefault(name.replace("AUC", "held-out", 1), []).append(
                    f["held_out"]["balanced"]
                )
        gates.append(r["result"]["verdict"].startswith("memorisation found"))
    values[GATE] = [float(g) for g in gates]
    out = []
    for name, each in values.items():
        lo, hi = (min(each), max(each)) if len(each) > 1 else bounds.get(name, (None, None))
        if name == GATE:
            lo = hi = None
        out.append(
            Row(
                case=condition.case,
                variant=condition.variant,
                metric=name,
                value=_short(float(np.mean(each))),
                lo=lo if lo is None else _short(lo),
                hi=hi if hi is None else _short(hi),
                n=len(each),
            )
        )
    return out


def means_of(rows: Sequence[Row], found: Found) -> dict[Condition, dict[str, float]]:
    """The rows' values by condition."""
    out: dict[Condition, dict[str, float]] = {}
    for c in found:
        mine = [r for r in rows if (r.case, r.variant) == (c.case, c.variant)]
        out[c] = {r.metric: r.value for r in mine if r.value is not None}
    return out


def correlations(means: Means) -> list[Row]:
    """Rank correlations of CDD's AUC over all conditions: with recall, with the loss, with copies."""
    area = [m.get(f"AUC, {CDD}") for m in means.values()]
    if any(a is None for a in area):
        return []
    others = {
        RECALL: [m[RECALL] for m in means.values()],
        LOSS: [m[LOSS] for m in means.values()],
        "copies": [float(c.copies) for c in means],
    }
    out = []
    for name, values in others.items():
        found = spearman([float(a) for a in area if a is not None], values)
        out.append(
            Row(
                case="all conditions",
                variant=f"AUC of {CDD}",
                metric=f"rank correlation with {name}",
                value=None if found is None else _short(found),
                n=len(area),
                note="one of the two does not vary" if found is None else None,
            )
        )
    return out


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; `None` where one is constant."""
    x, y = _ranks(a), _ranks(b)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def verdict(means: Means) -> str:
    """By the rule above."""
    parts = {
        "controls at chance": controls(means),
        "perplexity and Min-K % rise with copies": rises(means),
        "CDD needs memorisation": needs_memorisation(means),
        "CDD is never best": never_best(means),
    }
    held = [n for n, (yes, of) in parts.items() if of and yes == of]
    word = "seen" if len(held) == len(parts) else "partly" if held else "not seen at this scale"
    told = [f"{n} in {yes} of {of}" if of else f"{n} not tested" for n, (yes, of) in parts.items()]
    return f"{word}: {'; '.join(told)}"


Count = tuple[int, int]


def controls(means: Means) -> Count:
    """Part 1."""
    values = [
        m[f"AUC, {d}"]
        for c, m in means.items()
        if c.copies == 0
        for d in BLACK_BOX
        if f"AUC, {d}" in m
    ]
    return sum(abs(v - 0.5) <= 0.1 for v in values), len(values)


def rises(means: Means) -> Count:
    """Part 2."""
    yes = of = 0
    for key in dict.fromkeys((c.tuning, c.epochs) for c in means):
        mine = {c.copies: m for c, m in means.items() if (c.tuning, c.epochs) == key}
        most = max(mine)
        if 0 not in mine or most == 0:
            continue
        for d in (PERPLEXITY, MIN_K):
            of += 1
            yes += mine[most][f"AUC, {d}"] > mine[0][f"AUC, {d}"]
    return yes, of


def needs_memorisation(means: Means) -> Count:
    """Part 3; tested only where there are conditions of both kinds."""
    trained = [m for c, m in means.items() if c.copies > 0 and f"AUC, {CDD}" in m]
    little = [abs(m[f"AUC, {CDD}"] - 0.5) <= 0.1 for m in trained if m[RECALL] < 0.05]
    much = [m[f"AUC, {CDD}"] >= 0.7 for m in trained if m[RECALL] >= 0.5]
    if not little or not much:
        return 0, 0
    return sum(little) + sum(much), len(little) + len(much)


def never_best(means: Means) -> Count:
    """Part 4."""
    above = [m for m in means.values() if m.get(f"AUC, {CDD}", 0) > 0.6]
    good = [
        max(m[f"AUC, {PERPLEXITY}"], m[f"AUC, {MIN_K}"]) >= m[f"AUC, {CDD}"] - 0.02 for m in above
    ]
    return sum(good), len(good)


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    _, inverse, counts = np.unique(
        np.asarray(values, float), return_inverse=True, return_counts=True
    )
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])


def _short(value: float) -> float:
    return float(f"{value:.4g}")


SHOWN = [
    LOSS,
    RECALL,
    *(f"AUC, {d}" for d in (*BLACK_BOX, NGRAMS)),
    f"held-out, {CDD}",
    f"held-out, {MIN_K}",
    GATE,
]
