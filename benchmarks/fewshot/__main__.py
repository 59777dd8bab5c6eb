"""Few-shot segmentation on real scans: run the grid, plan it, and write its table.

    python -m benchmarks.fewshot run --data FOLDER --out JOBS --minutes 9 --workers 7 --task hippocampus
    python -m benchmarks.fewshot plan --data FOLDER --out JOBS --workers 7
    python -m benchmarks.fewshot timing --data FOLDER
    python -m benchmarks.fewshot table --out JOBS
    python -m benchmarks.fewshot devices --data FOLDER --out RUNS --device cpu --fold 0

FOLDER holds `hippocampus` and `openkbp` as `data_cards/prepare.py` writes them (of openkbp the shifted site's files are
enough). JOBS gets one JSON file a job; a killed run, or one that ran out of --minutes, goes on when the command is
given again. --stage: rates (a sweep on a draw that the table does not have), grid, verdict; all of them in this
order when none is named. --tar FILE packs the job files at the end. --tiny rehearses everything in two steps,
two test cases and patches of 32 voxels. From the source tree:

    PYTHONPATH=shared/src:packages/runs/src:apps/medseg/src:. python -m benchmarks.fewshot run ...

Exit codes: 0 done or out of time, 1 a job failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.joblist.ending import ended
from benchmarks.joblist.results import matching
from graftwork.errors import GraftError

from .jobs import (
    Job,
    Results,
    grid_jobs,
    rate_jobs,
    sweep_jobs,
    verdict_jobs,
    with_rates,
)

TASKS = ("hippocampus", "openkbp-site")
STAGES = ("rates", "grid", "verdict")


def options() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fewshot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("run", "plan"):
        one = verbs.add_parser(verb)
        one.add_argument("--data", type=Path, required=True, help="folder of the prepared sets")
        one.add_argument("--out", type=Path, required=True, help="folder of the job files")
        one.add_argument("--stage", action="append", choices=STAGES, help="default: all, in order")
        one.add_argument("--task", action="append", choices=TASKS, help="default: both")
        one.add_argument("--jobs", metavar="FILTER", help="only jobs whose name holds this")
        one.add_argument("--workers", type=int, default=1)
        one.add_argument("--minutes", type=float, help="start no job that would end later")
        one.add_argument("--device", help="default: cuda where there is one")
        one.add_argument("--steps", type=int, help="of every training")
        one.add_argument("--tiny", action="store_true", help="a rehearsal")
        one.add_argument("--untuned", action="store_true", help="let cuDNN guess its kernels")
        one.add_argument("--tar", type=Path, help="pack the job files into this .tar.gz at the end")
    one = verbs.add_parser("timing")
    one.add_argument("--data", type=Path, required=True, help="folder of the prepared sets")
    one.add_argument("--task", action="append", choices=TASKS, help="default: both")
    one.add_argument("--steps", type=int, default=50, help="of a training")
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument("--device", help="default: cuda where there is one")
    one.add_argument("--record", type=Path, help="file to write; default: the one in the tree")
    one.add_argument("--tiny", action="store_true", help="a rehearsal")
    one.add_argument("--untuned", action="store_true", help="let cuDNN guess its kernels")
    one = verbs.add_parser(
        "devices", help="medseg adapt as typed; without --device the record of RUNS"
    )
    one.add_argument("--data", type=Path, help="folder of the prepared sets")
    one.add_argument("--out", type=Path, required=True, help="folder of the runs")
    one.add_argument("--device", choices=("cpu", "gpu"))
    one.add_argument("--fold", type=int, default=0)
    one.add_argument(
        "--unjudged", action="store_true", help="without the verdict, for the Dice alone"
    )
    one.add_argument("--record", type=Path, help="file to write; default: the one in the tree")
    one = verbs.add_parser("table")
    one.add_argument("--out", type=Path, required=True, help="folder of the job files")
    one.add_argument("--task", action="append", choices=TASKS, help="default: both")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    args = options().parse_args(argv)
    verbs = {"table": write_table, "timing": time_trainings, "devices": compare_devices}
    return ended(verbs.get(args.verb, run), args)


def run(args: argparse.Namespace) -> int:
    """Run the stages that were asked for, or print their plan."""
    begun = time.monotonic()
    for name in ("workers", "minutes", "steps"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise GraftError(f"--{name} {value} must be positive")
    from .pool import Clock, run_all
    from .work import STEPS, Setting

    setting = Setting(
        str(args.data), str(args.out), device_of(args), args.steps or STEPS, args.tiny,
        not args.untuned,
    )  # fmt: skip
    results = Results(args.out)
    tasks, stages = args.task or TASKS, args.stage or STAGES
    check_data(args.data, tasks)
    if args.verb == "plan":
        clock = Clock.read(results, setting.training_steps)
        print_plan(results, clock, tasks, stages, args)
        return 0
    results.clean()
    deadline = None if args.minutes is None else begun + 60 * args.minutes
    failed = 0
    try:
        for stage in stages:
            for listed_now in passes(results, stage, tasks, args.jobs):
                wanted = listed_now()
                failed += run_all(wanted, setting, workers=args.workers, deadline=deadline, say=say)
                if not all(map(results.done, wanted)):
                    say(f"{stage}: not finished")
                    return 1 if failed else 0  # what follows builds on it
    finally:
        if args.tar:
            say(results.pack(args.tar))
    return 1 if failed else 0


def passes(
    results: Results, stage: str, tasks: Sequence[str], pattern: str | None
) -> list[Callable[[], list[Job]]]:
    """The lists of a stage, each made when the one before it is done: rates follow from files."""

    def some(jobs: list[Job]) -> list[Job]:
        return matching_if_any(jobs, pattern)

    def rated(make: Callable[[str], list[Job]]) -> list[Job]:
        found = [(task, some(make(task))) for task in tasks]
        return by_turns([with_rates(results, task, jobs) for task, jobs in found if jobs])

    if stage == "rates":
        return [
            lambda: some([j for t in tasks for j in rate_jobs(t, None)]),
            lambda: some([j for t in tasks for j in sweep_jobs(results, t)]),
        ]
    return [lambda: rated(grid_jobs if stage == "grid" else verdict_jobs)]


def by_turns(lists: Sequence[list[Job]]) -> list[Job]:
    """Fold by fold, one task after the other."""
    jobs = [job for jobs in lists for job in jobs]
    place = {job.name: i for jobs in lists for i, job in enumerate(jobs)}
    extra = {job.name: is_extra(job) for job in jobs}
    return sorted(jobs, key=lambda j: (extra[j.name], j.fold, place[j.name]))


def is_extra(job: Job) -> bool:
    """Whether a job is beyond the least grid: further random sets, openkbp's smaller budgets."""
    return job.draw > 0 or (job.task != "hippocampus" and job.budget not in (None, 0.01))


def matching_if_any(jobs: list[Job], pattern: str | None) -> list[Job]:
    """`matching`, where a stage without such a job is passed over."""
    try:
        return matching(jobs, pattern)
    except GraftError:
        return []


def write_table(args: argparse.Namespace) -> int:
    """The record and the page of the job files."""
    from . import table

    record = table.write(args.out, args.task or TASKS, "python -m benchmarks.fewshot run")
    print(record.verdict)
    return 0


def compare_devices(args: argparse.Namespace) -> int:
    """One run of adapt and test, or the record of all of them."""
    from . import devices

    if args.device is None:
        say(devices.collect(args.out, args.record or devices.RECORD).verdict or "")
        return 0
    if args.data is None:
        raise GraftError("--data: name the folder of the prepared sets")
    check_data(args.data, [devices.TASK])
    more = ["--judge", "false"] if args.unjudged else []
    say(str(devices.measure(args.data, args.out, args.device, args.fold, more)))
    return 0


def time_trainings(args: argparse.Namespace) -> int:
    """The seconds of trainings, side by side."""
    if args.steps < 1 or args.rounds < 2:
        raise GraftError("--steps must be at least 1, --rounds at least 2: a figure has quartiles")
    tasks = tuple(args.task or TASKS)
    check_data(args.data, tasks)
    from . import timing
    from .pool import prepare_process
    from .work import Setting

    device = device_of(args)
    prepare_process(device, not args.untuned)
    setting = Setting(str(args.data), ".", device, tiny=args.tiny)
    record = timing.write(setting, tasks, args.steps, args.rounds, args.record or timing.RECORD)
    for row in record.rows:
        say(f"{row.case}: {row.variant}: {row.metric} {row.value} ({row.lo} to {row.hi})")
    say(record.verdict or "")
    return 0


def device_of(args: argparse.Namespace) -> str:
    """The device that was asked for, or a GPU where there is one."""
    import torch

    return str(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def check_data(data: Path, tasks: Sequence[str]) -> None:
    """Raise GraftError unless each task's folder is there."""
    from .sites import FOLDERS

    for task in tasks:
        if not (data / FOLDERS[task] / "dataset.json").is_file():
            raise GraftError(
                f"--data {data}: holds no {FOLDERS[task]}/dataset.json; write it with "
                f"data_cards/prepare.py {FOLDERS[task]}"
            )


def print_plan(results, clock, tasks, stages, args) -> None:  # type: ignore[no-untyped-def]
    """What is left to do, by stage and task, with its estimate."""
    for stage in stages:
        for task in tasks:
            jobs = listed(stage, task)
            jobs = matching_if_any(jobs, args.jobs)
            left = [j for j in jobs if not results.done(j)]
            seconds = sum(map(clock.estimate, left))
            print(
                f"{stage} {task}: {len(jobs)} jobs, {len(left)} to do, about {seconds:.0f} s of one worker, "
                f"{seconds / args.workers / 60:.1f} min with {args.workers}"
            )
            for job in left:
                if args.jobs:
                    print(f"  {job.name}: about {clock.estimate(job):.0f} s")


def listed(stage: str, task: str) -> list[Job]:
    """A stage's jobs by name, whatever their rates."""
    if stage == "rates":
        return [*rate_jobs(task, None), *rate_jobs(task, 0.0)]
    return grid_jobs(task) if stage == "grid" else verdict_jobs(task)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
