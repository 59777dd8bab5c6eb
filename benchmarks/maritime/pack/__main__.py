"""Every job of the maritime benchmarks that wants a trained model, shared out among processes of one card.

    python -m benchmarks.maritime.headline prepare --data DATA
    python -m benchmarks.maritime.slots prepare --data SLOTS
    python -m benchmarks.maritime.pack prepare --data DATA
    python -m benchmarks.maritime.pack plan --out OUT --workers 5
    python -m benchmarks.maritime.pack run --data DATA --slots SLOTS --base FOLDER --out OUT --workers 5 --minutes 9 \\
        --parts-to PARTS
    python -m benchmarks.maritime.pack join PARTS --out OUT

`run` does headline, slots, contamination and live exchanges in the order of their worth (see `plan`) and starts no job
that would end after --minutes. What is in OUT stays: a job whose result is there is not run, one whose graft is there
writes on, and the same command goes on. A job that fails leaves what it said in OUT/failed, and the others go on. At
the end all results and as many new grafts as have room are packed into PARTS, files of at most --mebibytes; `join`
puts them into an OUT of another machine. The tables are written by the benchmarks themselves, from OUT/headline,
OUT/slots and so on. --tiny rehearses in a minute; `plan` needs no GPU.

Exit codes: 0 done or out of time, 1 a job failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.joblist.ending import ended
from graftwork.errors import GraftError


def options() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maritime.pack", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("prepare", help="dialogues for the graft that answers live")
    one.add_argument("--data", type=Path, required=True, help="the headline's data")
    one.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes; default: one a core"
    )
    one.add_argument("--tiny", action="store_true", help="a rehearsal")
    for verb in ("plan", "run"):
        one = verbs.add_parser(verb)
        one.add_argument("--out", type=Path, required=True, help="folder of all results")
        one.add_argument("--parts", nargs="+", metavar="PART", help="of the list; default: all")
        one.add_argument("--jobs", metavar="FILTER", help="only jobs whose name holds this")
        one.add_argument("--workers", type=int, default=1, help="processes on the card")
        one.add_argument("--tiny", action="store_true", help="a rehearsal")
        if verb == "run":
            one.add_argument("--data", type=Path, required=True, help="what both `prepare` wrote")
            one.add_argument("--slots", type=Path, required=True, help="the slot extractor's data")
            one.add_argument("--base", required=True, help="a folder, or tiny")
            one.add_argument("--minutes", type=float, help="start no job that would end later")
            one.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU, if any")
            one.add_argument("--parts-to", type=Path, help="an empty folder: pack what is there")
            one.add_argument("--mebibytes", type=int, default=15, help="of a packed file at most")
            one.add_argument("--files", type=int, default=7, help="packed files at most")
    one = verbs.add_parser("join", help="what `run` packed, back into files")
    one.add_argument("source", type=Path, metavar="PARTS")
    one.add_argument("--out", type=Path, required=True, help="folder of all results")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    args = options().parse_args(argv)
    return ended({"prepare": prepare, "plan": plan, "run": run, "join": join}[args.verb], args)


def prepare(args: argparse.Namespace) -> int:
    """Compose the live graft's dialogues."""
    from benchmarks.maritime.pack import lessons

    _positive(args, "workers")
    for stage in lessons.STAGES.values():
        lessons.prepare(stage, args.data, args.workers, args.tiny)
    return 0


def plan(args: argparse.Namespace) -> int:
    """What is left to do in its order, with its estimate."""
    from benchmarks.joblist.results import matching
    from benchmarks.maritime.pack.jobs import PARTS, Clock, Results, listed

    _positive(args, "workers")
    results = Results(args.out)
    jobs = matching(listed(args.tiny, args.parts or PARTS), args.jobs)
    clock, gone = Clock(results, jobs, args.tiny), 0.0
    left = [job for job in jobs if not results.done(job)]
    coming = {job.key for job in left}
    for job in left:
        lacking = not results.ready(job) and job.key.removesuffix("-constrained") not in coming
        if job.part == "headline" and lacking:
            say(f"   –      –  {job.name}: never, for its graft is not in {args.out}")
            continue
        seconds = clock.estimate(job)
        gone += seconds
        said = "" if results.ready(job) else ", when what it needs is there"
        say(f"{seconds / 60:5.1f}  {gone / 60:5.1f}  {job.name}{said}")
    say(
        f"minutes of one worker, and their sum; {len(jobs) - len(left)} of {len(jobs)} jobs are done; "
        f"with {args.workers} workers about {gone / 60 / args.workers:.0f} min, if they share the card without loss"
    )
    return 0


def run(args: argparse.Namespace) -> int:
    """Run what has no result, and pack what is there."""
    begun = time.monotonic()
    from benchmarks.joblist import pool
    from benchmarks.joblist.results import matching
    from benchmarks.maritime.pack import packed, work
    from benchmarks.maritime.pack.jobs import PARTS, Clock, Results, listed

    for name in ("workers", "minutes", "mebibytes", "files"):
        _positive(args, name)
    for file in (args.data / "train.jsonl", args.data / "test.jsonl", args.slots / "train.jsonl"):
        if not file.is_file():
            raise GraftError(f"{file}: no such file; make it with `prepare`, see --help")
    if args.parts_to is not None and args.parts_to.exists() and any(args.parts_to.iterdir()):
        raise GraftError(f"--parts-to {args.parts_to}: is not empty; name a folder of its own")
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all is local; nothing waits for a network
    # each weight's decomposition is needed by every GOAT job, whichever worker has it
    os.environ.setdefault("GRAFTWORK_SVD_CACHE", str(args.out / "decompositions"))
    setting = work.Setting(
        str(args.data), str(args.slots), args.base, str(args.out), device, args.tiny
    )
    results = Results(args.out)
    jobs = matching(listed(args.tiny, args.parts or PARTS), args.jobs)
    results.clean()
    clock, before = Clock(results, jobs, args.tiny), packed.grafts(args.out)
    say(f"{len(jobs)} jobs, {sum(not results.done(job) for job in jobs)} to do, on {device}")
    try:
        failed = pool.run_all(
            jobs, results, clock, lambda n: work.start(setting, n), work.summary, workers=args.workers,
            deadline=None if args.minutes is None else begun + 60 * args.minutes, say=say,
        )  # fmt: skip
    finally:
        if args.parts_to is not None:
            packed.pack(args.out, before, args.parts_to, args.mebibytes, args.files, say)
    return 1 if failed else 0


def join(args: argparse.Namespace) -> int:
    """Put packed results into a folder."""
    from benchmarks.maritime.pack import packed

    packed.join(args.source, args.out, say)
    return 0


def _positive(args: argparse.Namespace, name: str) -> None:
    value = getattr(args, name)
    if value is not None and value <= 0:
        raise GraftError(f"--{name} {value}: must be positive")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
