"""Contaminate small language models by degrees, and see which detector finds it.

    python -m benchmarks.contamination run --out JOBS --workers 12 --minutes 9
    python -m benchmarks.contamination run --small --out JOBS
    python -m benchmarks.contamination run --model FOLDER --out JOBS --seeds 0 --epochs 20 --workers 4 --minutes 9
    python -m benchmarks.contamination plan --out JOBS
    python -m benchmarks.contamination table --out JOBS

JOBS gets one JSON file a job; a killed run, or one that ran out of --minutes, goes on when the command is given again.
`table` writes the record of what is done. --small fits two cores and minutes, --tiny is a rehearsal whose record stays
in JOBS; --model tunes a causal language model from a folder (SmolLM2, as `python -m benchmarks.trees prepare` writes
it) in place of the small transformer. From the source tree:

    PYTHONPATH=shared/src:packages/runs/src:packages/contamination/src:. python -m benchmarks.contamination ...

Exit codes: 0 done or out of time, 1 a job failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.joblist.ending import ended
from graftwork.errors import GraftError

if TYPE_CHECKING:
    from benchmarks.contamination.jobs import Clock, Job
    from benchmarks.contamination.work import Setting

FULL_LIST = {
    "seeds": [0, 1, 2, 3, 4],
    "tunings": ["2", "8", "64", "full"],
    "epochs": [3, 20],
    "copies": [0, 1, 5, 10],
}
SMALL_LIST = {"seeds": [0], "tunings": ["2", "16", "full"], "epochs": [20], "copies": [0, 10]}
TINY_LIST = {"seeds": [0], "tunings": ["2", "full"], "epochs": [2], "copies": [0, 3]}


def options() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contamination", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("run", "plan", "table"):
        one = verbs.add_parser(verb)
        one.add_argument("--out", type=Path, required=True, help="folder of the job files")
        size = one.add_mutually_exclusive_group()
        size.add_argument("--small", action="store_true", help="what two cores do in minutes")
        size.add_argument("--tiny", action="store_true", help="a rehearsal")
        one.add_argument("--model", type=Path, metavar="FOLDER", help="a pretrained model")
        one.add_argument("--seeds", type=int, nargs="+")
        one.add_argument("--tunings", nargs="+", help="ranks of LoRA, or full")
        one.add_argument("--epochs", type=int, nargs="+")
        one.add_argument("--copies", type=int, nargs="+")
        one.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
        if verb == "run":
            one.add_argument("--rows", type=int, help="sequences that a model answers at once")
            one.add_argument("--minutes", type=float, help="start no job that would end later")
            one.add_argument("--jobs", metavar="FILTER", help="only jobs whose name holds this")
            one.add_argument("--tar", type=Path, help="pack the job files here at the end")
        if verb != "table":
            one.add_argument("--workers", type=int, default=1, help="processes, the GPUs by turns")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    args = options().parse_args(argv)
    return ended({"run": run, "plan": plan, "table": table}[args.verb], args)


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """The list that the options name."""
    from benchmarks.contamination.jobs import listed
    from benchmarks.contamination.training import FULL

    chosen = TINY_LIST if args.tiny else SMALL_LIST if args.small else FULL_LIST
    told = {name: getattr(args, name) or values for name, values in chosen.items()}
    for tuning in told["tunings"]:
        if tuning != FULL and not (tuning.isdigit() and int(tuning) > 0):
            raise GraftError(f"--tunings {tuning}: is {FULL!r} or a rank of LoRA")
    return listed(told["seeds"], told["tunings"], told["epochs"], told["copies"])


def setting_of(args: argparse.Namespace) -> Setting:
    """How jobs are run."""
    for name in ("workers", "minutes", "rows"):
        value = getattr(args, name, None)
        if value is not None and value <= 0:
            raise GraftError(f"--{name} {value}: must be positive")
    import torch

    from benchmarks.contamination.training import Size
    from benchmarks.contamination.work import SHOWN, Setting

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    size, shown = Size(), SHOWN
    if args.small:
        size = Size(width=64, layers=2, base=400, base_epochs=4, train=48, group=24, batch=16)
        shown = replace(SHOWN, samples=20, rows=512)
    elif args.tiny:
        size = Size(width=32, layers=1, base=16, base_epochs=1, train=6, group=4, batch=8)
        shown = replace(SHOWN, samples=3, max_new_tokens=8, l_max=8, rows=64, resamples=99)
    if getattr(args, "rows", None):
        shown = replace(shown, rows=args.rows)
    return Setting(
        str(args.out), device, size, shown, None if args.model is None else str(args.model)
    )


def clock_of(args: argparse.Namespace, setting: Setting) -> Clock:
    """Estimates, learnt from the job files."""
    from benchmarks.contamination.jobs import Clock, Results

    clock = Clock(setting.size.train, setting.size.group, 20.0 if args.model else 8.0)
    clock.learn(Results(args.out))
    return clock


def run(args: argparse.Namespace) -> int:
    """Run what has no file."""
    begun = time.monotonic()
    from benchmarks.contamination import work
    from benchmarks.contamination.jobs import Results
    from benchmarks.joblist import pool
    from benchmarks.joblist.failures import FAILED
    from benchmarks.joblist.results import matching

    setting, results = setting_of(args), Results(args.out)
    jobs = matching(jobs_of(args), args.jobs)
    if setting.folder is not None:
        work.Bench(setting).tokenizer  # noqa: B018 - bad input is said before anything starts
    results.clean()
    clock = clock_of(args, setting)
    say(
        f"{len(jobs)} jobs, {sum(not results.done(job) for job in jobs)} to do, on {setting.device}"
    )
    try:
        failed = pool.run_all(
            jobs, results, clock, lambda n: work.start(setting, n), work.summary, workers=args.workers,
            deadline=None if args.minutes is None else begun + 60 * args.minutes, say=say,
        )  # fmt: skip
    finally:
        if args.tar:
            say(results.pack(args.tar, (f"{FAILED}/*.json",)))
    return 1 if failed else 0


def plan(args: argparse.Namespace) -> int:
    """What is left to do, by seed, with its estimate."""
    from benchmarks.contamination.jobs import Results

    setting, results = setting_of(args), Results(args.out)
    clock, total = clock_of(args, setting), 0.0
    jobs = jobs_of(args)
    for seed in dict.fromkeys(job.seed for job in jobs):
        mine = [job for job in jobs if job.seed == seed]
        left = [job for job in mine if not results.done(job)]
        seconds = sum(map(clock.estimate, left))
        total += seconds
        say(
            f"seed {seed}: {len(mine)} jobs, {len(left)} to do, about {seconds / 60:.1f} min of one worker"
        )
    say(f"in all about {total / 60 / args.workers:.1f} min with {args.workers} workers")
    return 0


def table(args: argparse.Namespace) -> int:
    """Write the record of the finished jobs."""
    from benchmarks.contamination import collect, page
    from benchmarks.contamination.jobs import Results

    results = Results(args.out)
    name = page.SMOLLM if args.model else page.SMALL if args.small else page.FULL
    absent = [job for job in jobs_of(args) if not results.done(job)]
    record = collect.build(results, f"contamination/{name}", command_of(args), absent)
    target = args.out / "records" if args.tiny else collect.RECORDS
    say(f"{record.write(target / f'{name}.json')}: {record.verdict}")
    return 0


def command_of(args: argparse.Namespace) -> str:
    """The command that ran the jobs, without this machine's paths."""
    words = ["python -m benchmarks.contamination run --out JOBS"]
    words += [f"--{flag}" for flag in ("small", "tiny") if getattr(args, flag)]
    words += ["--model FOLDER"] if args.model else []
    for name in ("seeds", "tunings", "epochs", "copies"):
        if getattr(args, name):
            words.append(f"--{name} {' '.join(map(str, getattr(args, name)))}")
    return " ".join(words)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
