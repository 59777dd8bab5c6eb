"""How much of what the headline's arms wrote stands in their training text, and how varied it is.

    python -m benchmarks.maritime.copying --data DATA --out OUT

Words in lower case without punctuation. The composer's own dialogues of the same scenarios are the yardstick: what a
grammar says twice is no copying.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.maritime.headline import ARMS, SEEDS, Job
from graftwork.errors import GraftError
from graftwork_maritime.dialogues import Dialogue, read
from graftwork_runs import Record, Row, environment, validate_record

TARGET = Path(__file__).parents[1] / "records" / "maritime" / "copying.json"
COMPOSER = "composer, no model"
GRAM = 8  # words in a row
NEAR = 0.8  # share of a dialogue's runs of words that one training dialogue has
CASE = "1,000 unseen scenarios"
METRICS = (
    "copied whole",
    "near duplicates",
    "runs in training",
    "distinct-1",
    "distinct-2",
    "distinct-3",
)


def words(dialogue: Dialogue) -> tuple[str, ...]:
    """A dialogue's words without its labels."""
    return tuple(re.findall(r"[a-z0-9']+", " ".join(t.text for t in dialogue.turns).lower()))


def grams(said: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words."""
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]


class Training:
    """The training text, by whole dialogues and by runs of words."""

    def __init__(self, dialogues: Iterable[Dialogue]) -> None:
        self.whole: set[tuple[str, ...]] = set()
        self.having: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for n, one in enumerate(dialogues):
            said = words(one)
            self.whole.add(said)
            for gram in set(grams(said, GRAM)):
                self.having[gram].append(n)

    def shares(self, said: Sequence[str]) -> tuple[float, float]:
        """Of a dialogue's different runs, how many stand anywhere here, and how many in the one nearest dialogue."""
        own = set(grams(said, GRAM))
        if not own:
            return 0.0, 0.0
        counts: Counter[int] = Counter()
        known = 0
        for gram in own:
            found = self.having.get(gram, ())
            known += bool(found)
            counts.update(found)
        nearest = max(counts.values(), default=0)
        return known / len(own), nearest / len(own)


def distinct(every: Sequence[Sequence[str]], n: int) -> float:
    """Different runs of `n` words over all of them (Li et al. 2016, arXiv 1510.03055); 0 without any."""
    found = [gram for said in every for gram in grams(said, n)]
    return len(set(found)) / len(found) if found else 0.0


def measured(dialogues: Iterable[Dialogue], training: Training) -> dict[str, float]:
    """The metrics of one set of dialogues; raises GraftError for an empty one."""
    every = [words(d) for d in dialogues]
    if not every:
        raise GraftError("no dialogue to compare")
    shares = [training.shares(said) for said in every]
    values = (
        mean(float(said in training.whole) for said in every),
        mean(float(near >= NEAR) for _, near in shares),
        mean(known for known, _ in shares),
        *(distinct(every, n) for n in (1, 2, 3)),
    )
    return dict(zip(METRICS, values, strict=True))


def write(data: Path, out: Path, target: Path = TARGET) -> Record:
    """Compare what is there and write the record.

    Jobs of which `out` has no dialogues keep what the record says of them. Raises GraftError when that was found
    beside other data.
    """
    training = Training(read(data / "train.jsonl"))
    own = measured(read(data / "test.jsonl"), training)
    jobs = _earlier(target, own, out)
    for job in (Job(arm, seed) for arm in ARMS for seed in SEEDS):
        if (out / f"{job.name}.json").is_file():
            jobs[job.name] = measured(read(out / f"{job.name}.jsonl"), training)
    found = {COMPOSER: [own]}
    for arm in ARMS:
        found[arm] = [jobs[n] for s in SEEDS if (n := Job(arm, s).name) in jobs]
    rows = []
    for arm, each in found.items():
        for metric in METRICS:
            values = [e[metric] for e in each]
            known = (
                {"lo": round(min(values), 4), "hi": round(max(values), 4), "n": len(values)}
                if values
                else {}
            )
            rows.append(Row(case=CASE, variant=arm, metric=metric, value=round(mean(values), 4) if values else None,
                            note=None if values else "not run yet", **known))  # fmt: skip
    record = Record(
        record="maritime/copying",
        claim="Tuned models write no training dialogue again, and are near one no more often than the grammar is.",
        command="python -m benchmarks.maritime.copying --data DATA --out OUT",
        rows=rows,
        seeds=list(SEEDS),
        notes=[
            f"Near duplicate: one training dialogue has {NEAR:.0%} of its different runs of {GRAM} words.",
            "Runs in training: those that stand anywhere there. Distinct-n: different runs of n words over all.",
            "lo and hi are the worst and the best seed, n is the number of seeds.",
            "Jobs whose dialogues were not at hand keep what the record said of them.",
        ],
        details={"jobs": jobs},
        verdict=verdict(rows),
        **environment("cpu"),
    )
    record.write(target)
    return record


def _earlier(target: Path, own: dict[str, float], out: Path) -> dict[str, dict[str, float]]:
    """What a record says of jobs; `own`: the composer's figures beside the data that are there now."""
    if not target.is_file():
        return {}
    record = validate_record(target)
    jobs: dict[str, dict[str, float]] = (record.details or {}).get("jobs", {})
    then = {r.metric: r.value for r in record.find(variant=COMPOSER)}
    lost = sorted(name for name in jobs if not (out / f"{name}.json").is_file())
    if lost and any(then.get(m) != round(v, 4) for m, v in own.items()):
        raise GraftError(
            f"{target}: its {', '.join(lost)} were compared with other data, and {out} has no dialogues of them; run "
            "these jobs again, or write another --record"
        )
    return jobs


def verdict(rows: Sequence[Row]) -> str:
    """Whether no tuned arm copies, nor is near training more often than the composer."""
    known = {(r.variant, r.metric): r.value for r in rows if r.value is not None}
    tuned = [arm for arm in ARMS[1:] if (arm, METRICS[0]) in known]
    if not tuned:
        return "not testable here: no tuned arm has a result yet."
    whole = max(known[arm, "copied whole"] for arm in tuned)
    near, own = (
        max(known[arm, "near duplicates"] for arm in tuned),
        known[COMPOSER, "near duplicates"],
    )
    word = "seen" if whole == 0 and near <= own else "not seen at this scale"
    return f"{word}: at most {whole:.1%} copied whole, {near:.1%} near duplicates; the composer {own:.1%}."


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maritime.copying", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="what `headline prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="what `headline run` wrote")
    parser.add_argument("--record", type=Path, default=TARGET)
    args = parser.parse_args(argv)
    try:
        print(write(args.data, args.out, args.record).verdict)
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
