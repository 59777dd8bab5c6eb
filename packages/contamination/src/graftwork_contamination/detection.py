"""Two groups of items, all detectors, with and without the base as a reference, and the gate's verdict."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

import graftwork as gw
from graftwork.cli.table import table
from graftwork.errors import GraftError
from graftwork_contamination import statistics
from graftwork_contamination.items import CLEAN, SUSPECTED, Item, check_items
from graftwork_contamination.parameters import Parameters
from graftwork_contamination.scoring import BLACK_BOX, CDD, NGRAMS, Score, score
from graftwork_contamination.statistics import HeldOut, Interval, Threshold
from graftwork_contamination.wordgrams import training_ngrams

NOTHING_FOUND = "no memorisation found"
MINUS_BASE = "minus base"
UNREFERENCED = "Without a base as reference a difference in difficulty between the groups reads as memorisation."


@dataclass(frozen=True)
class Scored:
    """An item's scores under the model, and under the base where there is a reference."""

    id: str
    group: str
    model: Score
    base: Score | None = None

    def of(self, detector: str, minus_base: bool = False) -> float | None:
        """The score; `None` where the item is no evidence."""
        mine = self.model.of(detector)
        if not minus_base or mine is None:
            return mine
        theirs = None if self.base is None else self.base.of(detector)
        return None if theirs is None else mine - theirs

    def as_dict(self) -> dict[str, Any]:
        """For a line of JSON."""
        base = None if self.base is None else self.base.as_dict()
        return {"id": self.id, "group": self.group, "model": self.model.as_dict(), "base": base}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Scored:
        """What `as_dict` wrote."""
        base = None if raw["base"] is None else Score.from_dict(raw["base"])
        return cls(raw["id"], raw["group"], Score.from_dict(raw["model"]), base)


@dataclass(frozen=True)
class Finding:
    """A detector's figures over the two groups; all `None`, with a note, where a group has no evidence.

    Args:
        auc: with half credit for ties and its 95 % interval.
        auprc: average precision.
        fitted: Youden's threshold on all items; the accuracy on them is optimistic.
        held_out: the threshold of one half, reported on the other; `None` below two items a group.
        p: of the permutation test.
        left_out: items that are no evidence, such as those whose answers are all empty.
    """

    detector: str
    minus_base: bool
    suspected: int
    clean: int
    left_out: int
    auc: Interval | None = None
    auprc: float | None = None
    fitted: Threshold | None = None
    held_out: HeldOut | None = None
    p: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Result:
    """What was found, with the parameters."""

    parameters: Parameters
    scored: tuple[Scored, ...]
    findings: tuple[Finding, ...]
    verdict: str
    notes: tuple[str, ...]

    def find(self, detector: str, minus_base: bool = False) -> Finding:
        """A detector's figures."""
        return next(
            f for f in self.findings if (f.detector, f.minus_base) == (detector, minus_base)
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no infinity: a threshold there is "inf" or "-inf". Without the single items."""
        return {
            "verdict": self.verdict, "notes": list(self.notes), "parameters": self.parameters.as_dict(),
            "findings": [_finite(asdict(f)) for f in self.findings],
        }  # fmt: skip

    def table(self) -> str:
        """The figures as plain text, then the verdict."""
        head = [
            "detector",
            "AUC",
            "95 %",
            "AUPRC",
            "held-out accuracy",
            "fitted (optimistic)",
            "p",
            "items",
        ]
        rows = [_row(f) for f in self.findings]
        return "\n".join([table(head, rows), "", f"verdict: {self.verdict}", *self.notes])


def detect(
    model: nn.Module,
    tokenizer: Any,
    items: Sequence[Item],
    parameters: Parameters | None = None,
    *,
    graft: gw.Graft | None = None,
    reference: nn.Module | None = None,
    training: Sequence[str] | None = None,
    known: Sequence[Scored] = (),
    keep: Callable[[Scored], None] | None = None,
    at_once: int | None = None,
) -> Result:
    """Score the items by every detector, and compare the two groups.

    Args:
        model: a causal language model as in transformers, grafted or not.
        tokenizer: its tokenizer.
        items: prompts of both groups, drawn from one distribution.
        graft: the adapter of `model`; the base behind `graft.off()` is the reference.
        reference: another model as the base, for full fine-tuning.
        training: training texts, for the n-gram overlap; a clean prompt among them is refused.
        known: items that are scored already, with the same parameters.
        keep: is told each newly scored item, for a file.
        at_once: items between two calls of `keep`; as many as the rows take where left out.

    Raises:
        GraftError: what `check_items` and `score` refuse, or both a graft and a reference.
    """
    told = parameters or Parameters()
    check_items(items, training)
    if graft is not None and reference is not None:
        raise GraftError("reference: a graft has its own base; give the one or the other")
    grams = None if training is None else training_ngrams(training, told.n)
    done = {s.id: s for s in known}
    step = at_once or max(1, told.rows // (told.samples + 1))
    for at in range(0, len(items), step):
        # a batch that was left half-done is scored whole again: what shares a batch moves the rounding
        some = items[at : at + step]
        if all(item.id in done for item in some):
            continue
        streams = range(at, at + len(some))
        mine = score(model, tokenizer, some, told, grams=grams, streams=streams)
        bases: Sequence[Score | None] = [None] * len(some)
        if graft is not None or reference is not None:
            with _base(model, graft, reference) as base:
                bases = score(base, tokenizer, some, told, grams=grams, streams=streams)
        for item, m, b in zip(some, mine, bases, strict=True):
            if item.id not in done:
                done[item.id] = Scored(item.id, item.group, m, b)
                if keep is not None:
                    keep(done[item.id])
    return compare([done[item.id] for item in items], told)


def compare(scored: Sequence[Scored], parameters: Parameters) -> Result:
    """The figures of scored items, and the gate's verdict.

    The gate asks the black-box detectors, their scores minus the base's where there is a base: memorisation is
    found by those whose permutation p is at most the level over their number (Bonferroni), so that with exchangeable
    groups any of them errs at most at the level.
    """
    detectors = [*BLACK_BOX]
    if any(s.model.overlap is not None for s in scored):
        detectors.append(NGRAMS)
    findings = [finding(scored, d, False, parameters) for d in detectors]
    referenced = all(s.base is not None for s in scored)
    if referenced:
        findings += [finding(scored, d, True, parameters) for d in BLACK_BOX]
    asked = [f for f in findings if f.detector in BLACK_BOX and f.minus_base == referenced]
    testable = [f for f in asked if f.p is not None]
    notes = [] if referenced else [UNREFERENCED]
    notes += [f"{f.detector}: {f.note}" for f in asked if f.note]
    if not testable:
        return Result(
            parameters, tuple(scored), tuple(findings), "not testable: no evidence", tuple(notes)
        )
    bar = parameters.level / len(testable)
    if 1 / (parameters.resamples + 1) > bar:
        notes.append(f"With {parameters.resamples} resamples no p can reach {bar:.2g}: take more.")
    by = [f.detector for f in testable if f.p is not None and f.p <= bar]
    verdict = f"memorisation found by {', '.join(by)}" if by else NOTHING_FOUND
    return Result(parameters, tuple(scored), tuple(findings), verdict, tuple(notes))


def finding(
    scored: Sequence[Scored], detector: str, minus_base: bool, parameters: Parameters
) -> Finding:
    """One detector's figures."""
    values: dict[str, list[float]] = {SUSPECTED: [], CLEAN: []}
    for s in scored:
        value = s.of(detector, minus_base)
        if value is not None:
            values[s.group].append(value)
    a, b = values[SUSPECTED], values[CLEAN]
    counts = (detector, minus_base, len(a), len(b), len(scored) - len(a) - len(b))
    if not a or not b:
        why = "all answers are empty" if detector == CDD else "all prompts are too short"
        return Finding(*counts, note=f"{why} in a group; no evidence")
    seed, times = parameters.seed, parameters.resamples
    half = statistics.held_out(a, b, seed) if min(len(a), len(b)) > 1 else None
    interval = statistics.bootstrap(statistics.auc, a, b, times, seed)
    p = statistics.permutation_p(a, b, times, seed)
    left = f"{counts[-1]} items are left out as no evidence" if counts[-1] else ""
    return Finding(
        *counts, interval, statistics.auprc(a, b), statistics.youden(a, b), half, p, left
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and math.isinf(value) else value


@contextlib.contextmanager
def _base(
    model: nn.Module, graft: gw.Graft | None, reference: nn.Module | None
) -> Iterator[nn.Module]:
    if reference is not None:
        yield reference
    else:
        assert graft is not None
        with graft.off():
            yield model


def _row(f: Finding) -> list[str]:
    name = f"{f.detector}, {MINUS_BASE}" if f.minus_base else f.detector
    items = f"{f.suspected} + {f.clean}"
    if f.auc is None or f.auprc is None or f.fitted is None or f.p is None:
        return [name, "-", f.note, "-", "-", "-", "-", items]
    half = "-" if f.held_out is None else f"{f.held_out.balanced:.2f} of {f.held_out.n}"
    return [
        name, f"{f.auc.value:.3f}", f"{f.auc.lo:.3f} to {f.auc.hi:.3f}", f"{f.auprc:.3f}", half,
        f"{(f.fitted.j + 1) / 2:.2f}", f"{f.p:.4f}", items,
    ]  # fmt: skip
