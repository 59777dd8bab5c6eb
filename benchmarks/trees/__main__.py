"""SmolLM2-135M writes behaviour trees: prepare the model, run the list of jobs, write the records.

    python -m benchmarks.trees prepare --package FOLDER --to MODEL
    python -m benchmarks.trees pack MODEL EPISODES --to PARTS --mebibytes 48
    python -m benchmarks.trees all --parts PARTS --data DATA --out JOBS --workers 4 --minutes 18
    python -m benchmarks.trees plan --out JOBS --workers 4
    python -m benchmarks.trees table --model MODEL --episodes EPISODES --out JOBS

`all` joins the parts, times a step of each arm, and runs the jobs; `steps` and `run` do the last two alone, on
--model and --episodes. JOBS gets one JSON file a job; a killed run, or one that ran out of --minutes, goes on when
the command is given again. --tiny rehearses everything in two steps. From the source tree:

    PYTHONPATH=shared/src:packages/runs/src:packages/llm/src:. python -m benchmarks.trees ...

Exit codes: 0 done or out of time, 1 a job failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.joblist.ending import ended
from graftwork.errors import GraftError

if TYPE_CHECKING:
    from benchmarks.trees.work import Setting

MIB = 2**20


def options() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trees",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("prepare", help="the package's model as a folder for transformers")
    one.add_argument("--package", type=Path, help="its unpacked wheel; default: the installed one")
    one.add_argument("--to", type=Path, required=True)
    one = verbs.add_parser("pack", help="files and folders in parts")
    one.add_argument("what", nargs="+", type=Path)
    one.add_argument("--to", type=Path, required=True)
    one.add_argument("--mebibytes", type=int, default=48, help="of a part at most")
    for verb in ("all", "steps", "run", "plan", "table"):
        one = verbs.add_parser(verb)
        one.add_argument("--out", type=Path, required=True, help="folder of the job files")
        if verb == "all":
            one.add_argument("--parts", type=Path, required=True, help="what `pack` wrote")
            one.add_argument("--data", type=Path, required=True, help="where its files go")
        elif verb != "plan":
            one.add_argument("--model", type=Path, required=True, help="what `prepare` wrote")
            one.add_argument("--episodes", type=Path, required=True, help="see data_cards")
        if verb in ("all", "run", "plan"):
            one.add_argument("--rates", type=int, default=3, help="that an arm tries: 1 or 3")
            one.add_argument(
                "--seeds", type=int, default=3, help="that an arm has at its best rate"
            )
            one.add_argument("--workers", type=int, default=1, help="processes, the GPUs by turns")
        if verb in ("all", "run"):
            one.add_argument("--minutes", type=float, help="start no job that would end later")
            one.add_argument("--jobs", metavar="FILTER", help="only jobs whose name holds this")
            one.add_argument("--steps", type=int, default=240, help="of every training")
            one.add_argument(
                "--tar", type=Path, help="pack the job files into this .tar.gz at the end"
            )
        if verb in ("all", "steps"):
            one.add_argument("--rounds", type=int, default=6, help="figures of a step, at least 2")
            one.add_argument(
                "--rows", nargs="+", default=["*"], metavar="GLOB", help="of the steps' table"
            )
        if verb in ("all", "steps", "run", "table"):
            one.add_argument("--tiny", action="store_true", help="a rehearsal")
        if verb in ("all", "steps", "run"):
            one.add_argument(
                "--device", choices=("cpu", "cuda"), help="default: a GPU if there is one"
            )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    args = options().parse_args(argv)
    verbs = {
        "prepare": prepare, "pack": pack, "all": everything, "steps": time_steps, "run": run,
        "plan": plan, "table": table,
    }  # fmt: skip
    return ended(verbs[args.verb], args)


def prepare(args: argparse.Namespace) -> int:
    """Convert and check the model."""
    from graftwork_llm import smollm2

    origin = smollm2.prepare(smollm2.package_file(args.package), args.to)
    say(f"{args.to}: {origin['parameters']:,d} parameters, {origin['checks']}")
    return 0


def pack(args: argparse.Namespace) -> int:
    """Files in parts."""
    from benchmarks.joblist import parts

    for path in parts.pack(args.what, args.to, args.mebibytes * MIB):
        say(f"{path}: {path.stat().st_size / MIB:.1f} MiB")
    return 0


def everything(args: argparse.Namespace) -> int:
    """Parts, steps, jobs."""
    begun = time.monotonic()
    from benchmarks.joblist import parts
    from benchmarks.trees.jobs import STEPS_FILE

    for path in parts.join(args.parts, args.data):
        say(f"{path}: joined, as its hash says")
    args.model, args.episodes = folders_in(args.data)
    if not (args.out / STEPS_FILE).is_file():
        time_steps(args)
        say(f"steps: {time.monotonic() - begun:.0f} s gone")
    plan(args)
    if args.minutes is not None:
        args.minutes = max(0.1, args.minutes - (time.monotonic() - begun) / 60)
    return run(args)


def folders_in(data: Path) -> tuple[Path, Path]:
    """The model's folder and the episodes', among what was joined.

    Raises GraftError when one is missing.
    """
    from benchmarks.trees.episodes import FILES
    from graftwork_llm.smollm2 import ORIGIN

    found = []
    for name in (ORIGIN, FILES[0]):
        paths = sorted(data.glob(f"*/{name}"))
        if len(paths) != 1:
            raise GraftError(f"--data {data}: {len(paths)} folders with {name}, expected one")
        found.append(paths[0].parent)
    return found[0], found[1]


def setting_of(args: argparse.Namespace) -> Setting:
    """How jobs are run."""
    for name in ("workers", "minutes", "steps"):
        value = getattr(args, name, None)
        if value is not None and value <= 0:
            raise GraftError(f"--{name} {value} must be positive")
    import torch

    from benchmarks.trees.work import Setting

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all is local; nothing waits for a network
    # each weight's decomposition is needed by every GOAT job, whichever worker has it
    os.environ.setdefault("GRAFTWORK_SVD_CACHE", str(args.out / "decompositions"))
    steps = getattr(args, "steps", 240)
    return Setting(str(args.model), str(args.episodes), str(args.out), device, steps, args.tiny)


def time_steps(args: argparse.Namespace) -> int:
    """A step of each arm over the floor."""
    from benchmarks.trees import steps
    from benchmarks.trees.jobs import STEPS_FILE

    steps.measure(setting_of(args), args.rounds, args.rows, say).write(args.out / STEPS_FILE)
    return 0


def run(args: argparse.Namespace) -> int:
    """Run the stages."""
    begun = time.monotonic()
    from benchmarks.joblist import pool
    from benchmarks.joblist.failures import FAILED
    from benchmarks.joblist.results import matching
    from benchmarks.trees import work
    from benchmarks.trees.jobs import STEPS_FILE, Clock, Results, listed

    setting, results = setting_of(args), Results(args.out, args.rates)
    jobs = matching(listed(args.rates, args.seeds), args.jobs)
    setting.read()  # bad input is said before anything starts
    results.clean()
    clock = Clock(args.out, args.steps)
    clock.learn(results)
    say(f"{len(jobs)} jobs, {sum(not results.done(job) for job in jobs)} to do")
    try:
        failed = pool.run_all(
            jobs, results, clock, lambda n: work.start(setting, n), work.summary,
            workers=args.workers, deadline=None if args.minutes is None else begun + 60 * args.minutes,
            say=say,
        )  # fmt: skip
    finally:
        if args.tar:
            say(results.pack(args.tar, (STEPS_FILE, f"{FAILED}/*.json")))
    return 1 if failed else 0


def plan(args: argparse.Namespace) -> int:
    """What is left to do, by library and seed, with its estimate."""
    if args.workers < 1:
        raise GraftError(f"--workers {args.workers} must be positive")
    from benchmarks.trees.jobs import Clock, Results, listed

    results, clock, total = Results(args.out, args.rates), Clock(args.out), 0.0
    clock.learn(results)
    jobs = listed(args.rates, args.seeds)
    for key in dict.fromkeys((job.library, job.seed) for job in jobs):
        mine = [job for job in jobs if (job.library, job.seed) == key]
        left = [job for job in mine if not results.done(job)]
        seconds = sum(map(clock.estimate, left))
        total += seconds
        say(
            f"{key[0]}, seed {key[1]}: {len(mine)} jobs, {len(left)} to do, "
            f"about {seconds / 60:.1f} min of one worker"
        )
    say(f"in all about {total / 60 / args.workers:.1f} min with {args.workers} workers")
    return 0


def table(args: argparse.Namespace) -> int:
    """The record of the job files, and that of the steps."""
    from benchmarks.trees import collect

    for record in collect.write(args.model, args.episodes, args.out, args.tiny):
        say(f"{record.record}: {record.verdict or ''}")
    return 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
