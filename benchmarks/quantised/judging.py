"""What the record claims, and which of its rows do not keep it."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.quantised.forms import FORMS
from benchmarks.quantised.merges import APART, OURS, PLAIN, REFUSED, RESTORED
from graftwork_runs import Row
from graftwork_runs.surroundings import versions as versions_of

CLAIM = (
    "On a base in 4 bits a step of a graft takes no longer over that base's floor than peft's at its best setting and "
    "needs no more memory; a merge is refused unless asked for, tells what each layer loses, and is undone bit for bit."
)
LORA, PEFT, HALF = "graftwork LoRA 16", "peft LoRA 16", "peft LoRA 16, autocast_adapter_dtype=False"
VARIANTS = (LORA, PEFT, HALF)
BYTES = "linear layers"
#: how far the reported error of a layer may be from the measured one
NEAR = 0.01
#: up to which ratio a figure counts as no more than another
MORE = 1.02
#: the forms that the claim is about
CLAIMED = ("nf4",)


def verdict(rows: Sequence[Row]) -> str:
    """The record's verdict; without a claimed form measured, nothing was testable."""
    titles = [FORMS[name].title for name in CLAIMED]
    there = [t for t in titles if _value(rows, t, LORA, "ratio to floor") is not None]
    if not there:
        return f"not testable here: no step was measured on {', '.join(titles)}"
    missed = [miss for title in there for miss in misses(rows, title)]
    if not missed:
        return f"seen: {'; '.join(_kept(rows, title) for title in there)}"
    return f"{'partly' if len(missed) < 3 else 'not seen at this scale'}: {'; '.join(missed)}"


def misses(rows: Sequence[Row], title: str) -> list[str]:
    """What of the claim does not hold, or was not measured, on one form."""
    out = []
    for metric in ("ratio to floor", "peak"):
        ours = _value(rows, title, LORA, metric)
        theirs = [v for n in (PEFT, HALF) if (v := _value(rows, title, n, metric)) is not None]
        if ours is None or not theirs:
            out.append(f"{title}: {metric} was not measured on both sides")
        elif ours > MORE * min(theirs):
            out.append(f"{title}: {metric} {ours:.3g}, peft's best {min(theirs):.3g}")
    merged = [r for r in rows if r.case.startswith(f"merge, {title}:")]
    for variant, metric in ((PLAIN, REFUSED), (OURS, RESTORED), (OURS, APART)):
        found = [r for r in merged if (r.variant, r.metric) == (variant, metric)]
        if not found:
            out.append(f"{title}: {variant}: {metric} was not measured")
        out += [
            f"{r.case}: {metric} {r.value:g} {r.unit or ''}".rstrip()
            for r in found
            if not _holds(r)
        ]
    return out


def _kept(rows: Sequence[Row], title: str) -> str:
    """The figures of a form on which the claim holds."""
    ours = _value(rows, title, LORA, "ratio to floor")
    theirs = min(v for n in (PEFT, HALF) if (v := _value(rows, title, n, "ratio to floor")))
    return f"{title}: {ours:.3g} of its floor, peft's best {theirs:.3g}; merges refused, told and undone"


def _holds(row: Row) -> bool:
    value = row.value or 0.0
    if row.metric == RESTORED:
        return row.unit == f"of {int(value)}"
    return value <= NEAR if row.metric == APART else value == 1


def _value(rows: Sequence[Row], title: str, variant: str, metric: str) -> float | None:
    case = f"step, {title}:"
    found = [
        r for r in rows if r.case.startswith(case) and (r.variant, r.metric) == (variant, metric)
    ]
    return found[0].value if found else None


def versions() -> dict[str, str]:
    """Of the packages that quantise, where installed."""
    return {
        n: v for n, v in versions_of(("bitsandbytes", "torchao", "peft")).items() if n != "python"
    }
