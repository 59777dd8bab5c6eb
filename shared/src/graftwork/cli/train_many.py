"""`graftwork train-many`: the jobs of any apps on one frozen backbone."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", metavar="JOBS.yaml", help="the jobs: names, apps, configs")
    parser.add_argument(
        "--resume", action="store_true", help="go on with all jobs of the run folder"
    )
    parser.add_argument(
        "--check", action="store_true", help="build and plan; refuse what is wrong; train nothing"
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        help="GPUs (processes, on a CPU) that share every job's batches; a job's batch size is that of one",
    )
    parser.add_argument("--quiet", action="store_true", help="print results and errors only")


def run(options: argparse.Namespace) -> int | None:
    from graftwork.lightning.many.jobs import read

    jobs = read(options.jobs)
    from graftwork.lightning.many.run import train_many

    return train_many(
        jobs,
        resume=options.resume,
        quiet=options.quiet,
        check=options.check,
        devices=options.devices,
    )
