"""Rows and verdict of the comparison, from what the runs found."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.fit.runs import OURS, PEFT, Found, Run, comparable
from graftwork.errors import GraftError
from graftwork_runs import Row

#: of peft's at its best: wall time, peak memory
TIME, MEMORY = 0.75, 0.85
#: largest difference of two losses of one step, by the base's dtype
CURVE = {"bfloat16": 1e-3, "float32": 1e-4}
FIGURES = {
    "process": ("process_seconds", "s", 1.0),
    "before the steps": ("before_seconds", "s", 1.0),
    "all steps": ("steps_seconds", "s", 1.0),
    "after the steps": ("after_seconds", "s", 1.0),
    "step": ("step_seconds", "ms", 1e3),
    "peak": ("peak_bytes", "GiB", 2.0**-30),
}


def fastest(found: Mapping[str, Found], *, float32: bool = False) -> str | None:
    """The peft setting with the shortest step; of those with float32 factors alone if asked."""
    good = {
        name: f["step_seconds"]
        for name, f in found.items()
        if name.startswith(PEFT)
        and "error" not in f
        and (not float32 or f["trained_dtypes"] == ["torch.float32"])
    }
    return min(good, key=good.__getitem__) if good else None


def difference(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest distance between two loss curves of one length."""
    if len(a) != len(b):
        raise GraftError(f"loss curves of {len(a)} and {len(b)} steps cannot be compared")
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def rows(case: str, found: Mapping[Run, Found]) -> list[Row]:
    """Figures of each variant over its repetitions, and ours over peft's at its best, repetition by repetition."""
    by_variant: dict[str, list[Found]] = {}
    for run, f in found.items():
        by_variant.setdefault(run.variant, []).append(f)
    out: list[Row] = []
    for variant, all_runs in by_variant.items():
        good = [f for f in all_runs if "error" not in f]
        out += [
            Row(case=case, variant=variant, metric="process", value=None, note=f["error"])
            for f in all_runs[:1]
            if not good
        ]
        if good:
            for metric, (key, unit, times) in FIGURES.items():
                out.append(_spread(case, variant, metric, [times * f[key] for f in good], unit))
            out.append(_spread(case, variant, "first loss", [f["losses"][0] for f in good]))
            out.append(_spread(case, variant, "last loss", [f["losses"][-1] for f in good]))
        if len(good) > 1:
            apart = difference(good[0]["losses"], good[1]["losses"])
            out.append(_one(case, variant, "curve of the repetition", apart))
    sides = {v: [f for f in fs if "error" not in f] for v, fs in by_variant.items()}
    for ours in (v for v in sides if v.startswith(OURS) and sides[v]):
        for theirs in (v for v in sides if v.startswith(PEFT) and sides[v]):
            out += _compared(case, ours, theirs, sides[ours], sides[theirs])
    return out


def _compared(
    case: str, ours: str, theirs: str, a: Sequence[Found], b: Sequence[Found]
) -> list[Row]:
    if not comparable(a[0], b[0]):
        raise GraftError(f"{case}: {ours} and {theirs} did not start from the same model")
    variant = f"{ours} / {theirs}"
    out = []
    for metric in ("process", "before the steps", "all steps", "peak"):
        key = FIGURES[metric][0]
        ratios = [x[key] / y[key] for x, y in zip(a, b, strict=False)]
        out.append(_spread(case, variant, f"{metric} ratio", ratios))
    apart = [difference(x["losses"], y["losses"]) for x, y in zip(a, b, strict=False)]
    return [*out, _spread(case, variant, "curve difference", apart)]


def _spread(
    case: str, variant: str, metric: str, values: Sequence[float], unit: str | None = None
) -> Row:
    low, middle, high = (float(f"{f(values):.5g}") for f in (min, statistics.median, max))
    return Row(
        case=case, variant=variant, metric=metric, value=middle, lo=low, hi=high, n=len(values), unit=unit
    )  # fmt: skip


def _one(case: str, variant: str, metric: str, value: float) -> Row:
    return Row(case=case, variant=variant, metric=metric, value=float(f"{value:.5g}"))


def verdict(rows: Sequence[Row], best: Mapping[str, tuple[str, str]], dtypes: Mapping[str, str],
            cuda: bool) -> str:  # fmt: skip
    """Which bars hold against each opponent: peft's fastest that trains the same, and its fastest of all if another.

    Args:
        rows: of all cases.
        best: case -> (peft's fastest setting, its fastest with float32 factors, which trains what ours does).
        dtypes: case -> dtype of its base.
        cuda: memory is the device's; a CPU's is the whole process, libraries included, and is not judged.
    """
    bars = {
        "process ratio": TIME,
        "all steps ratio": TIME,
        **({"peak ratio": MEMORY} if cuda else {}),
    }
    same: list[tuple[bool, str]] = []
    other: list[tuple[bool, str]] = []
    for case, (quick, wide) in best.items():
        same += _judged(rows, case, wide, {**bars, "curve difference": CURVE[dtypes[case]]})
        if quick != wide:
            other += _judged(rows, case, quick, bars)
    if not same:
        return "not testable here: no side could be measured."
    held = [good for good, _ in same + other]
    word = "seen" if all(held) else "partly" if any(held) else "not seen at this scale"
    said = f"{word}: beside peft's fastest that trains the same {_limits(same)}"
    if other:
        said += f"; beside its fastest, whose factors are not float32, {_limits(other)}"
    return f"{said}."


def _judged(
    rows: Sequence[Row], case: str, theirs: str, bars: Mapping[str, float]
) -> list[tuple[bool, str]]:
    """Whether each bar holds, and its words."""
    found = {r.metric: r.value for r in rows if (r.case, r.variant) == (case, f"{OURS} / {theirs}")}
    out = []
    for metric, limit in bars.items():
        value = found.get(metric)
        shown = "not measured" if value is None else f"{value:.3g}"
        words = f"{case.partition(':')[0]}, {metric}: {shown} (limit {limit:g})"
        out.append((value is not None and value <= limit, words))
    return out


def _limits(judged: Sequence[tuple[bool, str]]) -> str:
    held = sum(good for good, _ in judged)
    return f"{held} of {len(judged)} limits hold: {'; '.join(words for _, words in judged)}"
