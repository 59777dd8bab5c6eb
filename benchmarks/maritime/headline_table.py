"""Judges the dialogues of `headline`, and writes its record."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.maritime.headline import ARMS, SEEDS, Job, pairs
from graftwork.errors import GraftError
from graftwork_maritime.dialogues import Dialogue, read
from graftwork_maritime.filters.paper import PAPER
from graftwork_maritime.filters.reading import case_of
from graftwork_maritime.filters.scores import scores
from graftwork_maritime.filters.sets import SETS, judge
from graftwork_maritime.filters.unique import Texts
from graftwork_runs import Record, Row, environment, validate_record

TARGET = Path(__file__).parents[1] / "records" / "maritime" / "headline.json"
POOL = 500  # training dialogues of its category that a dialogue is compared with, as in the paper
COMPOSER = "composer, no model"
PAPER_8B = "paper, 8B"
# arXiv 2603.04423, recomputed from its published result files; the script's reading.
PUBLISHED = {
    "published format": 0.987,
    "published information": 0.935,
    "accepted": 0.880,
    "R <= 0.7": 0.971,
}
CONSTRAINED = ", constrained"  # behind an arm's name
TOKENS = "tokens refused a dialogue"
METRICS = (
    "format", "information", "uniqueness", "R <= 0.7", "all 27", "accepted", "published format",
    "published information", "stricter",
)  # fmt: skip


def pools(training: Iterable[Dialogue]) -> dict[str, Texts]:
    """By category, the texts that dialogues are compared with."""
    found: dict[str, Texts] = defaultdict(Texts)
    for one in training:
        pool = found[str(one.category)]
        if len(pool) < POOL:
            pool.add(one.text)
    return found


def measured(dialogues: Iterable[Dialogue], against: Mapping[str, Texts]) -> dict[str, float]:
    """Means over dialogues: the paper's scores by table and script, and the share that ours and the grammar pass.

    Raises GraftError when there is no dialogue.
    """
    values: dict[str, list[float]] = defaultdict(list)
    stricter = [*SETS["house"], *SETS["grammar"]]
    for one in dialogues:
        case = case_of(one, against.get(str(one.category), Texts()))
        found = scores(case)
        for name, value in (
            ("format", found.format), ("information", found.information), ("uniqueness", found.uniqueness),
            ("R <= 0.7", float(found.uniqueness > 0)), ("all 27", float(found.every)),
            ("accepted", float(found.accepted)), ("published format", found.published_format),
            ("published information", found.published_information),
            ("stricter", float(not judge(case, stricter))),
        ):  # fmt: skip
            if value is not None:
                values[name].append(value)
    if not values:
        raise GraftError("no dialogue to judge")
    return {name: mean(values[name]) for name in METRICS}


def failing(dialogues: Iterable[Dialogue], against: Mapping[str, Texts]) -> dict[str, int]:
    """How many dialogues each of the paper's rows refuses."""
    counts = dict.fromkeys((f.name for f in PAPER), 0)
    for one in dialogues:
        case = case_of(one, against.get(str(one.category), Texts()))
        for name in {f.filter for f in judge(case, PAPER)}:
            counts[name] += 1
    return counts


def write(data: Path, out: Path, target: Path = TARGET) -> Record:
    """Judge what is there and write the record.

    Jobs of which `out` has no dialogues keep what the record says of them; an arm without any says why.

    Raises GraftError when the record's jobs were judged by other filters.
    """
    against = pools(d for d, _ in pairs(data / "train.jsonl"))
    composed = [replace(d, line=None) for d, _ in pairs(data / "test.jsonl")]
    own = {m: round(v, 4) for m, v in measured(composed, against).items()}
    rows = [
        Row(case="paper context", variant=PAPER_8B, metric=m, value=v, note="published")
        for m, v in PUBLISHED.items()
    ]
    rows += [
        Row(case="paper context", variant=COMPOSER, metric=m, value=v, n=len(composed))
        for m, v in own.items()
    ]
    refused: dict[str, dict[str, int]] = {COMPOSER: failing(composed, against)}
    jobs = _earlier(target, own, out) | {j.name: _judged(out, j, against) for j in _done(out)}
    for arm, constrained in [(a, c) for c in (False, True) for a in ARMS]:
        variant = f"{arm}{CONSTRAINED}" if constrained else arm
        every = [Job(arm, seed, constrained) for seed in SEEDS]
        known = [jobs[job.name] for job in every if job.name in jobs]
        if not known:
            why = _why(out, every)
            rows += [
                Row(case="paper context", variant=variant, metric=m, value=None, note=why)
                for m in METRICS
            ]
            continue
        refused[variant] = {f.name: sum(job["refused"][f.name] for job in known) for f in PAPER}
        for name in METRICS:
            found = [job["scores"][name] for job in known]
            rows.append(
                Row(case="paper context", variant=variant, metric=name, value=round(mean(found), 4),
                    lo=round(min(found), 4), hi=round(max(found), 4), n=len(found))
            )  # fmt: skip
        if constrained:
            tokens = [job[TOKENS] for job in known]
            rows.append(
                Row(case="paper context", variant=variant, metric=TOKENS,
                    value=round(mean(tokens), 2), n=len(tokens))
            )  # fmt: skip
    record = Record(
        record="maritime/headline",
        claim="A 135 M model with a graft writes dialogues of unseen scenarios that pass the paper's 27 rules as "
        "often as the paper's tuned 8 B model: 88 %.",
        command="python -m benchmarks.maritime.headline table --data DATA --out OUT",
        rows=rows,
        seeds=list(SEEDS),
        notes=[
            "lo and hi are the worst and the best seed; n is the number of seeds, for the composer of dialogues.",
            "One sample a scenario, without rejection or repair; scenarios are not those of the paper.",
            "Constrained: the same grafts with each fact held to the scenario's words.",
            "Claim and verdict are of the arms that are not constrained.",
            "Jobs whose dialogues were not at hand keep what the record said of them.",
            "The paper's row is of its own scenarios and its own reading: published format and information, accepted.",
        ],
        details={"refused": refused, "jobs": jobs},
        verdict=verdict(rows),
        **environment("cpu"),
    )
    record.write(target)
    return record


def verdict(rows: list[Row]) -> str:
    """Whether an arm reaches the paper's share of accepted dialogues."""
    known = {r.variant: r.value for r in rows if r.metric == "accepted"}
    arms = {a: v for a in ARMS if (v := known.get(a)) is not None}
    if not arms:
        return "not testable here: no arm has a result yet."
    best = max(arms, key=lambda a: arms[a])
    reached = arms[best] >= PUBLISHED["accepted"]
    word = "seen" if reached else "not seen at this scale"
    return f"{word}: {best} has {arms[best]:.1%} accepted, the paper {PUBLISHED['accepted']:.1%}."


def _earlier(target: Path, own: Mapping[str, float], out: Path) -> dict[str, Any]:
    """What a record says of jobs; `own`: the composer's scores by the filters as they are now."""
    if not target.is_file():
        return {}
    record = validate_record(target)
    jobs: dict[str, Any] = (record.details or {}).get("jobs", {})
    then = {r.metric: r.value for r in record.find(variant=COMPOSER)}
    lost = sorted(set(jobs) - {job.name for job in _done(out)})
    if lost and then != own:
        raise GraftError(
            f"{target}: its {', '.join(lost)} were judged by other filters or beside other data, and {out} has no "
            "dialogues of them; run these jobs again, or write another --record"
        )
    return jobs


def _judged(out: Path, job: Job, against: Mapping[str, Texts]) -> dict[str, Any]:
    """A job's result, scores and refusals."""
    written = _written(out, job)
    scores = {m: round(v, 4) for m, v in measured(written, against).items()}
    known = {"scores": scores, "refused": failing(written, against)}
    if job.constrained:
        known[TOKENS] = mean(d.provenance.get("refused", 0) for d in written)
    return {**json.loads((out / f"{job.name}.json").read_text()), **known}


def _written(out: Path, job: Job) -> list[Dialogue]:
    return list(read(out / f"{job.name}.jsonl"))


def _why(out: Path, jobs: Iterable[Job]) -> str:
    errors = [file for job in jobs if (file := out / f"{job.name}.error.txt").is_file()]
    return errors[0].read_text().strip().splitlines()[-1][:200] if errors else "not run yet"


def _done(out: Path) -> list[Job]:
    jobs = [Job(arm, s, held) for held in (False, True) for arm in ARMS for s in SEEDS]
    return [job for job in jobs if (out / f"{job.name}.json").is_file()]
