"""What many tasks on one backbone cost, over the least that their rows can cost, and many adapters in one batch.

    python -m benchmarks.tenants --parts training --minutes 8
    python -m benchmarks.tenants --parts training --only "graftwork, all tasks*" "*recorded"
    python -m benchmarks.tenants --parts batch resident
    python -m benchmarks.tenants --parts parallel --gpus 2
    python -m benchmarks.tenants --tiny --device cpu

Each row is measured beside the floor and written at once; a command that is run again goes on with what is missing
(`--again`: measures it all anew). A row that fails says why, and the others go on. `--label` names a second run's
record.
`--tiny` rehearses every row in small; such figures mean nothing and are written where `--out` says, or nowhere.
"""

from __future__ import annotations

import argparse
import functools
import gc
import math
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.merging import merged
from benchmarks.speed.llama import decoder
from benchmarks.tenants import inference, isolation, parallel, training
from graftwork.errors import GraftError
from graftwork_runs import Record, Row, environment, validate_record

RECORDS = Path(__file__).parents[1] / "records" / "tenants"
PARTS = ("isolation", "training", "batch", "resident")
CLAIM = (
    "A step of eight tasks in one pass costs at most 1.5 times one frozen batch of their rows, and a batch of 64 rows "
    "under 64 adapters at most 15 % more than under one, with nothing compiled anew."
)
#: (start of the case, variant, metric, limit)
LIMITS = (
    ("training: 8 tasks", training.OURS, "ratio to floor", 1.5),
    ("training: 8 tasks", training.RECORDED, "ratio to floor", 1.5),
    ("inference: prefill", inference.SHELF.format(64), "ratio to one adapter", 1 / 0.85),
    ("inference: decoding", inference.SHELF.format(64), "ratio to one adapter", 1 / 0.85),
    ("inference: 1000 adapters", inference.SHELF.format("random"), "compiled anew", 0),
    *(
        ("isolation: 100 steps, float64", name, "relative distance", 1e-10)
        for name in isolation.TASKS
    ),
    ("isolation: 100 steps, float64", "bits", "tensors changed by a NaN", 0),
)
#: shown while it is measured
SHOWN = (
    "step",
    "ratio to floor",
    "ratio to one adapter",
    "compiled anew",
    "relative distance",
    "tensors changed by a NaN",
)
DROPPED = ("--out", "--label", "--minutes", "--limit")


def main(argv: Sequence[str] | None = None) -> int:
    options = parsed(argv)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    command = command_of(sys.argv[1:] if argv is None else argv)
    if "parallel" in options.parts:
        own = options.out or (None if options.tiny else RECORDS / "parallel.json")
        return parallel.run(options, command, own)
    name = "isolation" if options.parts == ["isolation"] else "engine"
    name += "" if options.label is None else f"-{options.label}"
    if not options.device.startswith("cuda"):
        name += "-cpu"
    out = options.out or (None if options.tiny else RECORDS / f"{name}.json")
    record = f"tenants/{name}"
    begun = time.monotonic()
    done = set() if out is None or options.again else measured(out)
    found: list[Row] = []
    before = begun
    for label, rows in work(options, done, begun):
        found += rows
        before, spent = time.monotonic(), time.monotonic() - before
        print(f"[{time.monotonic() - begun:6.1f} s] {label}: {shown(rows)}", flush=True)
        if out is not None:
            written = made(record, rows, options, command, spent)
            begun_rows = merged(written, out, judge)
            begun_rows.write(out)
    said = judge(validate_record(out).rows if out is not None and out.exists() else found)
    print(said)
    return 0


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; `--tiny` sets every size."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tenants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, "parallel"), default=list(PARTS))
    parser.add_argument("--gpus", type=int, default=2, help="of the part parallel")
    parser.add_argument(
        "--limit", type=float, default=200, help="seconds a row of the part parallel may take"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--tiny", action="store_true", help="rehearse every row in small")
    parser.add_argument("--tasks", nargs="+", type=int, default=[8, 1, 2, 4, 16, 64])
    parser.add_argument("--only", nargs="+", default=["*"], help="globs over the training rows")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=512, help="of each task's row")
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--rows", type=int, default=64, help="of an inference batch")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a row's prompt")
    parser.add_argument("--decode", type=int, default=16, help="tokens decoded at a time")
    parser.add_argument("--resident", type=int, default=1000, help="adapters in store")
    parser.add_argument("--visits", type=int, default=1000, help="batches of random adapters")
    parser.add_argument("--steps", type=int, default=100, help="of the tasks beside training alone")
    parser.add_argument("--rounds", type=int, default=5, help="figures per row, at least 2")
    parser.add_argument("--burst", type=int, default=1, help="steps per figure")
    parser.add_argument(
        "--backend", default="inductor", help="of the compiled rows; none: no such rows"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="no further row begins after them"
    )
    parser.add_argument("--again", action="store_true", help="measure what the record has, too")
    parser.add_argument("--label", help="of another run's record")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument("--out", type=Path, help="the record's file")
    options = parser.parse_args(argv)
    if options.rounds < 2 or options.burst < 1:
        parser.error("--rounds must be at least 2 and --burst at least 1")
    if "parallel" in options.parts and len(options.parts) > 1:
        parser.error("--parts parallel has a record and a command of its own")
    if options.device == "cuda" and not cuda:
        parser.error("--device cuda: there is no GPU here")
    options.extra, options.visit_tokens, options.compiled_visits = 8, 16, 50
    if "training" in options.parts and not training.rows_of(options.extra, options):
        parser.error(f"--only: no training row matches {options.only}")
    options.distinct = [n for n in inference.DISTINCT if n <= options.rows]
    if options.tiny:
        options.tasks, options.steps = [8, 2], 3
        options.layers, options.hidden, options.tokens, options.vocabulary = 2, 64, 16, 128
        options.rows, options.prompt, options.decode = 8, 8, 2
        options.resident, options.visits, options.visit_tokens = 20, 20, 2
        options.compiled_visits, options.distinct = 3, [1, 8]
        options.backend = "none" if options.backend == "none" else "eager"
    return options


def work(
    options: argparse.Namespace, done: set[tuple[str, str]], begun: float
) -> Iterator[tuple[str, list[Row]]]:
    """Row by row: what was measured, or why it was not."""
    base = functools.cache(lambda: decoder(options, getattr(torch, options.dtype)))

    def late() -> bool:
        return time.monotonic() - begun > 60 * options.minutes

    if "isolation" in options.parts and not late() and not _has(done, "isolation"):
        small = argparse.Namespace(**{**vars(options), "layers": 2, "hidden": 64, "tokens": 33})
        small.vocabulary, small.batch = 64, 1
        yield "isolation", _safe("isolation", "all", options, lambda: isolation.figures(small))
    if "training" in options.parts:
        for tasks in options.tasks:
            for name in training.rows_of(tasks, options):
                case = training.case_of(tasks, options)
                if (case, name) in done or late():
                    continue
                yield (
                    f"{case}, {name}",
                    _safe(
                        case,
                        name,
                        options,
                        lambda t=tasks, n=name: training.figures(base, t, n, options),
                    ),
                )
    if "batch" in options.parts and not late() and not _has(done, "inference: decoding"):
        try:
            for rows in inference.batch(base, options):
                yield rows[0].case, rows
        except Exception as error:  # the other parts are measured
            yield "inference", [_failed("inference: batch", "all", error)]
        _free(options)
    if "resident" in options.parts and not late() and not _has(done, "inference: 1000 adapters"):
        case = "inference: resident"
        yield case, _safe(case, "all", options, lambda: inference.resident(base, options))


def _has(done: set[tuple[str, str]], start: str) -> bool:
    return any(case.startswith(start) for case, _ in done)


def _safe(case: str, name: str, options: argparse.Namespace, call: Any) -> list[Row]:
    try:
        rows: list[Row] = call()
        return rows
    except Exception as error:  # whatever stops one row, the others are measured
        return [_failed(case, name, error)]
    finally:
        _free(options)


def _failed(case: str, name: str, error: Exception) -> Row:
    text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return Row(case=case, variant=name, metric="failed", value=None, note=text)


def _free(options: argparse.Namespace) -> None:
    torch._dynamo.reset()
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()


def measured(path: Path) -> set[tuple[str, str]]:
    """The (case, variant) that a record has figures of."""
    if not path.exists():
        return set()
    return {(r.case, r.variant) for r in validate_record(path).rows if r.value is not None}


def made(
    name: str, rows: Sequence[Row], options: argparse.Namespace, command: str, seconds: float
) -> Record:
    """A record of some rows."""
    return Record(
        record=name,
        claim=CLAIM,
        command=command,
        rows=list(rows),
        seeds=[0],
        seconds=round(seconds, 1),
        notes=[*training.NOTES, *inference.NOTES, *isolation.NOTES],
        verdict=judge(rows),
        **environment(options.device),
    )


def command_of(argv: Sequence[str]) -> str:
    """The command that measures this again, without where its record was written and when it had to end."""
    kept = list(argv)
    for word in DROPPED:
        if word in kept:
            at = kept.index(word)
            del kept[at : at + 2]
    return shlex.join(["python", "-m", "benchmarks.tenants", *(k for k in kept if k != "--again")])


def judge(rows: Sequence[Row]) -> str:
    """Which limits hold, of the parts of which there are rows."""
    said, held, known = [], 0, 0
    parts = {r.case.partition(":")[0] for r in rows}
    limits = [limit for limit in LIMITS if limit[0].partition(":")[0] in parts]
    for start, variant, metric, limit in limits:
        found = [
            r
            for r in rows
            if r.case.startswith(start) and (r.variant, r.metric) == (variant, metric)
        ]
        value = found[0].value if found else None
        known += value is not None
        held += value is not None and value <= limit
        text = "not measured" if value is None else f"{value:.3g}"
        said.append(f"{start}, {variant}, {metric}: {text} (limit {limit:.3g})")
    listed = "; ".join(said)
    if not known:
        return f"not testable here: {listed}."
    word = "seen" if held == len(limits) else "partly" if held else "not seen at this scale"
    return f"{word}: {held} of {len(limits)} limits hold: {listed}."


def shown(rows: Sequence[Row]) -> str:
    """A line's worth of figures."""
    said = [r for r in rows if r.metric in SHOWN or r.value is None]
    return ", ".join(
        f"{r.variant} {r.metric} {r.note if r.value is None else f'{r.value:g}'}" for r in said
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GraftError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
