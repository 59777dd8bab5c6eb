"""The page of the few-shot benchmark: what stands around the tables, and the tables from the record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from graftwork_runs import Record, Row, validate_record
from graftwork_runs.tables import markdown, source

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "benchmarks" / "records" / "medseg" / "few-shot.json"
PAGE = ROOT / "docs" / "medseg-few-shot.md"
REFUSED = "does not fit"  # how a note begins where a cap holds no form of an arm
CLAIM = (2.4, 2.8)  # Dice points over the best fixed choice, arXiv 2603.05822

TEXT = """# Few-shot segmentation, measured

Two sites whose organs the bases never saw: hippocampus MR (anterior and posterior part; the base knows the whole
hippocampus from synthetic images) and head-and-neck CT of coarse in-plane spacing (larynx and oesophagus; the base
knows five other organs from finer CT). One case more than the shots is labelled, for the search's audits. Every arm
has the same cases, patches, steps, loss, seed and head rate; its own rate was chosen by a sweep on other draws. The
test cases are the same in every fold.

<!-- table: few-shot-claim -->
<!-- /table -->

![Dice of every arm at each cap, a panel for each site and number of shots](medseg-few-shot.png)

## Dice, surface distance, parameters, seconds

<!-- table: few-shot -->
<!-- /table -->

`lora` and `adaptformer` sit on every layer; where their smallest form is above every cap of these narrow networks they
are measured without one. `lora-last`, `lora-first` and `adaptformer-last` take as many layers as a cap holds, from
the output or from the input. `random` draws units of the search's own list until the cap is full. `full` and
`scratch` have no cap: full fine-tuning, and nnU-Net's residual-encoder U-Net from random weights on the same cases
for as many seconds as full fine-tuning took. Seconds are those of training (the search's included), on a card shared
by several workers.

## SEA-PEFT against its rivals

<!-- table: few-shot-compared -->
<!-- /table -->

Paired by fold and case. The best fixed choice is the one with the highest mean test Dice at that cap and number of
shots, known in hindsight only; the one fixed choice is the same over all numbers of shots.

## What the searches did

<!-- table: few-shot-searches -->
<!-- /table -->

Spearman's correlation is between an audit's outcome as the moving average foresaw it and as it was found. Audit minus
test is in soft Dice on crops, of the network that was trained afresh with the chosen set.

## Is the verdict right?

<!-- table: few-shot-verdict -->
<!-- /table -->

A task is an organ of a site with one draw of shots. The word comes from leaving out each of the six labelled cases in
turn; it is right where the test cases give the same word. Too careful: no evidence, where the test decides. Unproven:
a decided word, where the test has no evidence. Wrong: the opposite.

## Measure it again

```sh
python -m benchmarks.fewshot plan --data FOLDER --out JOBS --workers 7  # what is left, and how long it takes
python -m benchmarks.fewshot run --data FOLDER --out JOBS --workers 7 --minutes 9  # as often as it takes
python -m benchmarks.fewshot timing --data FOLDER
python -m benchmarks.fewshot table --out JOBS
```

FOLDER holds `hippocampus` and `openkbp` as `data_cards/prepare.py` writes them. Each job is one file in JOBS; what
has a file is not run again.
"""
#: follow where their record was measured
SECTIONS = {
    "medseg/few-shot-seconds": """
## A training's time against full fine-tuning

<!-- table: medseg/few-shot-seconds -->
<!-- /table -->
""",
    "medseg/few-shot-devices": """
## The same command on a CPU and on a GPU

<!-- table: medseg/few-shot-devices -->
<!-- /table -->

`medseg adapt --organ anterior,posterior --shots 5 --budget 1%` on 12 hippocampus cases, then `medseg test` on 40. On
the CPU it had two cores. Training agrees: the set that the GPU's search chose gives the same Dice where it is trained
afresh on the CPU. The searches do not: at the first reallocation rounding decides between units of nearly equal score,
and from there on they choose other sets.
""",
}


def _number(row: Row | None, digits: int, bounds: bool = True) -> str:
    if row is None or row.value is None:
        return "–"
    text = f"{row.value:.{digits}f}"
    if bounds and row.lo is not None and row.hi is not None:
        text += f" ({row.lo:.{digits}f} to {row.hi:.{digits}f})"
    return text.replace("-", "−")


def _find(record: Record, row: Row, metric: str) -> Row | None:
    found = record.find(case=row.case, variant=row.variant, metric=metric)
    return found[0] if found else None


def results(record: Record) -> str:
    """The large table."""
    columns = [
        "site",
        "arm, cap",
        "Dice (95 %)",
        "HD95 mm",
        "NSD",
        "trained",
        "s",
        "in audits",
        "n",
    ]
    rows = []
    refused: dict[str, dict[str, None]] = {}
    for row in record.rows:
        if row.metric != "dice":
            continue
        start = [row.case, row.variant]
        if row.value is None:
            said = (row.note or "").partition(":")[0]
            if said != REFUSED:
                rows.append([*start, f"– ({said})", *["–"] * 5, "0"])
            else:
                site, arm = row.case.partition(",")[0], row.variant
                arm, _, cap = arm.partition(", ")
                refused.setdefault(f"{arm} ({site})", {})[cap] = None
            continue
        trained, share = (
            _find(record, row, m) for m in ("trained parameters", "share of time in audits")
        )
        assert trained is not None and trained.value is not None
        shown = "–" if share is None or not share.value else f"{100 * share.value:.0f} %"
        rows.append(
            [
                row.case,
                row.variant + _within(record, row, trained.value),
                _number(row, 3),
                _number(_find(record, row, "hd95"), 1, False),
                _number(_find(record, row, "nsd"), 3, False),
                f"{trained.value:,.0f}",
                _number(_find(record, row, "seconds"), 1, False),
                shown,
                f"{row.n} ({row.note})",
            ]
        )
    listed = "; ".join(f"{arm} at {', '.join(caps)}" for arm, caps in refused.items())
    above = f"\n\nAbove the cap even at their smallest: {listed}." if refused else ""
    return f"{markdown(columns, rows)}{above}\n\n{notes(record)}\n"


def _within(record: Record, row: Row, trained: float) -> str:
    """The smallest cap that holds a fixed choice without a size."""
    if row.variant not in record.details["without a size"]:
        return ""
    caps = record.details["caps"][row.case.partition(",")[0]]
    held = [float(share) for share, cap in caps.items() if trained <= cap]
    return f" (within {100 * min(held):g} %)" if held else " (above every cap)"


def notes(record: Record) -> str:
    """Where and how it was measured."""
    return " ".join([source(record), *record.notes])


def compared(record: Record) -> str:
    """SEA-PEFT minus each rival."""
    rows = [
        [row.case, row.variant, _number(row, 3), f"{row.n}", row.note or ""]
        for row in record.rows
        if row.metric == "Dice difference"
    ]
    return markdown(["site", "difference", "Dice (95 %)", "n", "rival; scores"], rows)


def searches(record: Record) -> str:
    """What the searches did, a line for each site, k and cap."""
    columns = {
        "Spearman of foreseen and found": ("Spearman", 2),
        "audit minus test, soft Dice": ("audit minus test", 3),
        "share of the search in audits": ("search's share in audits", 2),
        "units chosen": ("units", 1),
        "units to choose from": ("of", 0),
        "cost": ("cost", 0),
        "budget": ("budget", 0),
        "cap binds": ("binds", 2),
    }
    rows = []
    for row in record.rows:
        if row.metric == "units chosen":
            found = [_number(_find(record, row, m), d) for m, (_, d) in columns.items()]
            rows.append([row.case, row.variant, *found, f"{row.n}"])
    return markdown(["site", "arm, cap", *(t for t, _ in columns.values()), "n"], rows)


def verdicts(record: Record) -> str:
    """How often the word was right, and what accepted grafts lost."""
    rows = [
        [row.case.partition(", ")[2], row.metric, _number(row, 3), row.note or "", f"{row.n}"]
        for row in record.rows
        if row.case.startswith("verdict, ") and not row.metric.startswith("said ")
    ]
    return markdown(["tasks", "measure", "value", "which", "n"], rows)


def claim_of(rows: list[Row]) -> tuple[str, str]:
    """The verdict on the paper's claim, as a word and a sentence, from the comparisons alone."""
    found = [
        r for r in rows
        if r.metric == "Dice difference" and r.variant.endswith("minus best fixed choice")
        and r.value is not None
    ]  # fmt: skip
    if not found:
        return "not testable here", "no comparison with a fixed choice is complete"
    above = [r for r in found if r.lo is not None and r.lo > 0]
    below = [r for r in found if r.hi is not None and r.hi < 0]
    points = [100 * (r.value or 0.0) for r in found]
    reached = [r for r in above if 100 * (r.value or 0.0) >= CLAIM[0]]
    word = (
        "seen" if len(reached) == len(found) else "partly" if reached else "not seen at this scale"
    )
    sentence = (
        f"over the best fixed choice in hindsight SEA-PEFT gains {min(points):+.1f} to {max(points):+.1f} Dice points, "
        f"{sum(points) / len(points):+.1f} on average over {len(found)} comparisons (site, shots, cap); "
        f"the interval lies above 0 in {len(above)} and below 0 in {len(below)} of them"
    )
    return word, f"{sentence}{against_random(rows)}"


def against_random(rows: list[Row]) -> str:
    """The same comparisons with random sets of units, where there are any."""
    found = [
        r for r in rows
        if r.metric == "Dice difference" and r.variant.endswith("minus random") and r.value is not None
    ]  # fmt: skip
    if not found:
        return ""
    points = [100 * (r.value or 0.0) for r in found]
    above = sum(r.lo is not None and r.lo > 0 for r in found)
    below = sum(r.hi is not None and r.hi < 0 for r in found)
    return (
        f"; over random sets of the same units {min(points):+.1f} to {max(points):+.1f}, "
        f"{sum(points) / len(points):+.1f} on average, above 0 in {above} and below 0 in {below} of {len(found)}"
    )


def claim(record: Record) -> str:
    """What is seen of the paper's claim."""
    word, sentence = claim_of(list(record.rows))
    return (
        f"The paper claims {CLAIM[0]:+} to {CLAIM[1]:+} Dice points over the best fixed choice. **Here: {word}.** "
        f"{sentence[0].upper()}{sentence[1:]}."
    )


TABLES: dict[str, Callable[[Record], str]] = {
    "few-shot": results,
    "few-shot-claim": claim,
    "few-shot-compared": compared,
    "few-shot-searches": searches,
    "few-shot-verdict": verdicts,
}
#: the same, of the record that is in the tree
GENERATORS: dict[str, Callable[[], str]] = {
    name: lambda make=make: make(validate_record(RECORD))  # type: ignore[misc]
    for name, make in TABLES.items()
}
