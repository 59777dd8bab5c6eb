"""From job files to the record: figures with intervals, comparisons in pairs, and the verdict by a fixed rule.

The rule, written before the first run. Seen: every arm of ours is more often exact than the best of the baselines that
see what it sees (copies, the ungrafted model), the interval of the paired difference above 0. Partly: some are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.trees import baselines
from benchmarks.trees.arms import ARMS, NONE, OURS, PEFT, TWINS
from benchmarks.trees.episodes import Episode, Episodes, read
from benchmarks.trees.jobs import SEEDS, STEPS_FILE, Job, Results, best, rate_jobs
from benchmarks.trees.judge import METRICS, Mean, Values, mean, over_seeds, scores
from benchmarks.trees.work import test_hash
from graftwork.errors import GraftError
from graftwork_llm.smollm2 import origin_of
from graftwork_runs import Record, Row, environment, validate_record

RECORDS = Path(__file__).parents[1] / "records" / "trees"
ALL, UNGRAFTED = "all", "ungrafted model"
KINDS = {
    "plain": ("base",),
    "synonyms": ("base_lexical",),
    "augmented": ("augmented", "augmented_lexical"),
}
EXACT, NOT_RUN = METRICS[0], "not run"
CLAIM = (
    "Adapted, SmolLM2-135M writes exact behaviour trees for robots of other laboratories more often than copies of "
    "training's trees and the ungrafted model do."
)
NOTES = [
    "Bounds are 95 % intervals over the test's instructions (episodes of one instruction are resampled together).",
    "all: every test example; plain, synonyms, augmented: its kinds. What only the scene shows cannot be known.",
    "Rates: the most exact of three on one seed, on laboratories that are neither training's nor the test's.",
    "The published list of allowed actions is the tree's own set of actions; no arm sees it but the lookup, a warning.",
    "Synonyms that are shown are names of the tree: in those examples a part of that list is given away to all.",
]
Found = dict[str, dict[str, Values]]  # variant -> metric -> a value for each test example


def variant(library: str, arm: str) -> str:
    """An arm's name in the record."""
    return f"{arm}, peft" if library == PEFT else arm


def write(model: Path, episodes: Path, out: Path, tiny: bool) -> list[Record]:
    """Write the records; of a rehearsal into `out`.

    Raises:
        GraftError: damaged files, or results of another test or of different settings.
    """
    known = read(episodes, 3 if tiny else None)
    records = [build(known, Results(out), origin_of(model))]
    if (out / STEPS_FILE).is_file():
        records.append(validate_record(out / STEPS_FILE))
    target = out / "records" if tiny else RECORDS
    for record in records:
        record.write(target / f"{record.record.rpartition('/')[2]}.json")
    return records


def build(known: Episodes, results: Results, origin: Mapping[str, Any]) -> Record:
    """The record of all answers."""
    check(results, known)
    test, train = known.parts["test"], known.parts["train"]
    given = {
        "most frequent tree": baselines.most_frequent(train, test),
        "most frequent order": baselines.most_frequent_order(train, test),
        "nearest instruction": baselines.nearest(train, test),
        baselines.LEAKED: baselines.lookup(train, test),
        baselines.CEILING: baselines.ceiling(known.prompt, test),
    }
    found: Found = {n: scores(a, test, known.palette) for n, a in given.items()}
    rows = [r for name, values in found.items() for r in figures(name, values, test)]
    rivals = ["most frequent tree", "most frequent order", "nearest instruction"]
    ungrafted = Job(NONE, "none")
    if results.done(ungrafted):
        answers = results.read(ungrafted)["answers"]
        found[UNGRAFTED] = scores(answers, test, known.palette)
        rows += figures(UNGRAFTED, found[UNGRAFTED], test)
        rivals.append(UNGRAFTED)
    else:
        rows.append(absent(UNGRAFTED, missing(results, [ungrafted])))
    counts: dict[str, int] = {}
    for library, names in ((OURS, tuple(ARMS)), (PEFT, TWINS)):
        for arm in names:
            name = variant(library, arm)
            runs = finished(results, library, arm)
            if not runs:
                rows.append(absent(name, missing(results, rate_jobs(library, arm, 3))))
                continue
            each = [scores(r["answers"], test, known.palette) for r in runs]
            found[name], counts[name] = over_seeds(each), len(runs)
            rows += [*figures(name, found[name], test), *facts(name, runs, each)]
    against = max(rivals, key=lambda n: float(found[n][EXACT].mean()))
    gains = [gain(n, found[n], against, found[against], test) for n in ARMS if n in found]
    pairs = [(n, variant(PEFT, n)) for n in TWINS]
    twins = [gain(a, found[a], b, found[b], test) for a, b in pairs if a in found and b in found]
    return Record(
        record="trees/smollm2",
        claim=CLAIM,
        command="python -m benchmarks.trees all",
        seeds=list(range(max(counts.values(), default=0))),
        seconds=round(sum(r.get("wall", 0.0) for r in results.all()), 1),
        data={**known.hashes, "model.safetensors": origin["files"]["model.safetensors"]},
        rows=[*rows, *gains, *twins],
        notes=[*NOTES, *remarks(results, known)],
        details={
            "model": {k: origin[k] for k in ("package", "licence", "parameters", "checks")},
            "laboratories": {part: list(labs) for part, labs in known.labs.items()},
            "examples": {part: len(found) for part, found in known.parts.items()},
            "seeds": counts,
            "rates": rates_of(results),
        },
        verdict=verdict(gains, twins, against),
        **surroundings(results),
    )


def surroundings(results: Results) -> dict[str, Any]:
    """Where the jobs ran: the newest one's surroundings, with the devices of all."""
    found = sorted((r["where"] for r in results.all() if "where" in r), key=lambda w: w["date"])
    keep = ("commit", "date", "device", "cores", "memory_bytes", "versions")
    seen = found[-1] if found else environment("cpu")
    devices = sorted({where["device"] for where in found})
    return {
        **{k: seen[k] for k in keep if k in seen},
        **({"device": ", ".join(devices)} if devices else {}),
    }


def figures(name: str, values: Mapping[str, Values], test: Sequence[Episode]) -> list[Row]:
    """The metrics over all examples, and over each kind."""
    rows = []
    for case, variants in {ALL: None, **KINDS}.items():
        chosen = np.array([variants is None or e.variant in variants for e in test])
        if not chosen.any():
            continue
        some = [e for e, wanted in zip(test, chosen, strict=True) if wanted]
        for metric in METRICS:
            rows.append(_row(case, name, metric, mean(values[metric][chosen], some)))
    return rows


def facts(
    name: str, runs: Sequence[dict[str, Any]], each: Sequence[Mapping[str, Values]]
) -> list[Row]:
    """What an arm trains, its file, its rate, and the spread over seeds."""
    last = runs[0]
    share = 100 * last["trained"] / last["parameters"]
    exact = [float(one[EXACT].mean()) for one in each]

    def row(metric: str, value: float, **more: Any) -> Row:
        return Row(case=ALL, variant=name, metric=metric, value=value, **more)

    return [
        row("trained", last["trained"]),
        row("trained share", _short(share), unit="%"),
        row("adapter file", last["adapter_bytes"], unit="bytes"),
        row("rate", last["rate"]),
        row("choice, exact match", _short(last["choice"][EXACT])),
        row(
            f"{EXACT} by seed", _short(float(np.median(exact))), lo=_short(min(exact)),
            hi=_short(max(exact)), n=len(exact),
        ),
    ]  # fmt: skip


def gain(
    name: str, mine: Mapping[str, Values], other: str, theirs: Mapping[str, Values], test: Sequence[Episode]
) -> Row:  # fmt: skip
    """How much more often one is exact than the other, example by example."""
    difference = mean(mine[EXACT] - theirs[EXACT], test)
    return _row(ALL, name, f"{EXACT}, minus {other}", difference)


def verdict(gains: Sequence[Row], twins: Sequence[Row], against: str) -> str:
    """By the rule above."""
    if not gains:
        return "not testable here: no arm was trained"
    ahead = [r.variant for r in gains if r.lo is not None and r.lo > 0]
    behind = [r.variant for r in gains if r.variant not in ahead]
    lacks = [n for n in ARMS if n not in {r.variant for r in gains}]
    full = not behind and not lacks
    word = "seen" if full else "partly" if ahead else "not seen at this scale"
    text = f"{word}: {len(ahead)} of {len(ARMS)} arms are above {against}"
    if behind:
        text += f"; not {', '.join(behind)}"
    if lacks:
        text += f"; not run: {', '.join(lacks)}"
    apart = [
        r.variant for r in twins if r.lo is not None and r.hi is not None and not r.lo <= 0 <= r.hi
    ]
    if twins:
        text += (
            f"; {len(twins) - len(apart)} of {len(twins)} pairs with peft agree within the interval"
        )
    return text


def finished(results: Results, library: str, arm: str) -> list[dict[str, Any]]:
    """The best first seed and the further seeds at its rate."""
    first = best(results, library, arm)
    if first is None:
        return []
    more = [Job(library, arm, seed) for seed in range(1, SEEDS)]
    found = [results.read(job) for job in more if results.done(job)]
    return [first, *(r for r in found if r["status"] == "done" and r["rate"] == first["rate"])]


def check(results: Results, known: Episodes) -> None:
    """Raise GraftError for answers to another test, or of trainings that were not equally long."""
    wanted, plans = test_hash(known), dict[str, str]()
    for r in results.all():
        if r["status"] != "done":
            continue
        name = Job(**r["job"]).name
        if r["test"] != wanted:
            raise GraftError(
                f"{name}.json answers another test; keep the files of one set of episodes"
            )
        plans.setdefault(str(r["plan"]), name)
    if len(plans) > 1:
        raise GraftError(
            f"{', '.join(plans.values())}: trained for {' and '.join(plans)} steps and examples"
        )


def absent(name: str, why: str) -> Row:
    """The row of an arm without a result."""
    return Row(case=ALL, variant=name, metric=EXACT, value=None, note=why)


def missing(results: Results, jobs: Sequence[Job]) -> str:
    """Why an arm has no result."""
    for job in jobs:
        if results.note(job).is_file():
            return f"failed: {json.loads(results.note(job).read_text(encoding='utf-8'))['error']}"[
                :300
            ]
    return "diverged at every rate" if any(map(results.done, jobs)) else NOT_RUN


def remarks(results: Results, known: Episodes) -> list[str]:
    """What the results themselves give cause to say."""
    edges, diverged = [], []
    for library, names in ((OURS, tuple(ARMS)), (PEFT, TWINS)):
        for arm in names:
            first, tried = best(results, library, arm), ARMS[arm].rates
            if first is not None and first["rate"] in (min(tried), max(tried)):
                edges.append(variant(library, arm))
    for r in results.all():
        if r["status"] == "diverged":
            diverged.append(Job(**r["job"]).name)
    failed = sorted(p.stem for p in results.note(Job(NONE, "none")).parent.glob("*.json"))
    found = [
        f"Best at an end of its three rates, where more might do better: {', '.join(edges) or 'no arm'}."
    ]
    if diverged:
        found.append(f"Diverged: {', '.join(diverged)}.")
    if failed:
        found.append(f"Failed, and not mended by another try: {', '.join(failed)}.")
    if known.damaged:
        found.append(
            f"Left out, its list of actions is damaged upstream: {', '.join(known.damaged)}."
        )
    return found


def rates_of(results: Results) -> dict[str, dict[str, float | None]]:
    """Exact matches on the laboratories of the choice, by arm and rate; `None` where the training diverged."""
    out: dict[str, dict[str, float | None]] = {}
    for r in results.all():
        job = Job(**r["job"])
        if job.library != NONE and job.seed == 0:
            done = r["status"] == "done"
            value = round(r["choice"][EXACT], 4) if done else None
            out.setdefault(variant(job.library, job.arm), {})[f"{job.rate:g}"] = value
    return out


def _row(case: str, name: str, metric: str, m: Mean) -> Row:
    value, lo, hi = map(_short, (m.value, m.lo, m.hi))
    return Row(case=case, variant=name, metric=metric, value=value, lo=lo, hi=hi, n=m.n)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
