"""Scores what `run` left, and writes the record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.maritime.slots import score
from benchmarks.maritime.slots.sets import COMPOSED, labelled
from benchmarks.maritime.slots.spans import Labelled, read
from benchmarks.maritime.slots.work import ARMS, LORA, RULES, SMALL, listed, spans_in
from graftwork.errors import GraftError
from graftwork_runs import Record, Row, environment
from graftwork_runs.files import digest

TARGET = Path(__file__).parents[2] / "records" / "maritime" / "slots.json"
TRAINED, NOT_RUN = "training", "not run yet"


def results(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The results of each arm that has some, by seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for arm in ARMS:
        files = [out / f"{job.name}.json" for job in listed([arm])]
        known = [json.loads(file.read_text()) for file in files if file.is_file()]
        if known:
            found[arm] = known
    return found


def scored(
    name: str, labels: Sequence[Labelled], arm: str, each: list[dict[str, Any]], known: dict[str, set[str]]
) -> list[Row]:  # fmt: skip
    """The rows of an arm on a set: F1 by slot, shares by kind of wording, and slots filled that nobody said."""
    seeds = [spans_in(result, name) for result in each]
    rows = [
        Row(case=f"{name}: {slot}", variant=arm, metric=metric, value=round(f.value, 4), lo=round(f.lo, 4),
            hi=round(f.hi, 4), n=len(labels))
        for (metric, slot), f in score.figures(labels, seeds).items()
    ]  # fmt: skip
    if name == COMPOSED:
        return rows
    for (slot, kind), (n, exact, near) in sorted(score.by_wording(labels, seeds, known).items()):
        case = f"{name}: {slot}: {kind}"
        rows.append(
            Row(case=case, variant=arm, metric="filled exactly", value=round(exact, 4), n=n)
        )
        rows.append(Row(case=case, variant=arm, metric="half right", value=round(near, 4), n=n))
    for slot, (n, share) in score.invented(labels, seeds).items():
        case = f"{name}: {slot}: not said"
        rows.append(
            Row(case=case, variant=arm, metric="filled all the same", value=round(share, 4), n=n)
        )
    return rows


def write(data: Path, out: Path, target: Path = TARGET) -> Record:
    """Score every arm on every set whose labels are there; an arm or a set without a result has a row that says so."""
    sets, found = labelled(data), results(out)
    known = score.vocabulary(read(data / "train.jsonl"))
    rows: list[Row] = []
    for name, labels in sets.items():
        for arm in ARMS:
            each = [r for r in found.get(arm, []) if name in r["found"]]
            for r in each:
                if lacking := {one.dialogue.id for one in labels} - set(r["found"][name]):
                    raise GraftError(
                        f"{out}: {arm}, seed {r['seed']}, has not read {len(lacking)} dialogues of the {name}; it is a "
                        "rehearsal's, or of other data: remove it and run it again"
                    )
            if each:
                rows += scored(name, labels, arm, each, known)
            else:
                rows.append(
                    Row(case=f"{name}: {score.ALL}", variant=arm, metric=score.EXACT, value=None, note=NOT_RUN)
                )  # fmt: skip
    for arm, each in found.items():
        if arm != RULES:
            seconds = [r["training seconds"] for r in each]
            rows.append(
                Row(case=TRAINED, variant=arm, metric="parameters", value=each[0]["trained"])
            )
            rows.append(
                Row(case=TRAINED, variant=arm, metric="time", value=round(fmean(seconds), 1), lo=min(seconds),
                    hi=max(seconds), n=len(each), unit="s", note=each[0]["device"])
            )  # fmt: skip
    record = Record(
        record="maritime/slots",
        claim="A slot extractor that learns from composed dialogues alone fills the slots of dialogues which nobody "
        "composed, better than rules do.",
        command="python -m benchmarks.maritime.slots table --data DATA --out OUT",
        rows=rows,
        seeds=sorted({r["seed"] for each in found.values() for r in each}),
        data={f"{split}.jsonl": digest(data / f"{split}.jsonl") for split in ("train", "test")},
        notes=[
            "F1: means over seeds; bounds: 95 % percentiles when dialogues, and seeds, are drawn again; n dialogues.",
            f"Exact: a slot has the words of a true span. {score.OVERLAP}: of the words of all dialogues together.",
            "Filled exactly, half right (words in common at least half of both): shares of the n slots so worded.",
            "Labels of the first set were written by who wrote the extractor, after it, without sight of its output.",
            "The second and the third set are of others, who labelled them; no extractor was changed afterwards.",
            "The grammar that the rules rest on was mended with the first two sets known; the third is a first look.",
        ],
        details={"jobs": [
            {k: v for k, v in r.items() if k not in ("found", "losses")} | {"loss": (r.get("losses") or [None])[-1]}
            for each in found.values() for r in each
        ]},
        verdict=verdict(rows, list(sets)),
        **environment("cpu"),
    )  # fmt: skip
    record.write(target)
    return record


def verdict(rows: list[Row], sets: Sequence[str]) -> str:
    """Whether the grafted model, or the small tagger while it is not measured, beats the rules on dialogues that were
    not composed: the mean over slots of the exact F1, on every set."""
    values = {
        (r.case, r.variant): r.value
        for r in rows
        if r.metric == score.EXACT and r.value is not None
    }
    told, better = [], []
    for name in sets:
        case = f"{name}: {score.ALL}"
        arm = LORA if (case, LORA) in values else SMALL
        mine, rules = values.get((case, arm)), values.get((case, RULES))
        if name == COMPOSED or mine is None or rules is None:
            continue
        better.append(mine > rules)
        told.append(f"{name}: {arm} {mine:.2f}, rules {rules:.2f}")
    if not told:
        return "not testable here: no arm has a result yet."
    word = "seen" if all(better) else "partly" if any(better) else "not seen at this scale"
    return f"{word}: exact F1, mean of the slots; {'; '.join(told)}."
