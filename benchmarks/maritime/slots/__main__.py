"""A slot extractor that learns from composed dialogues alone: vessel, position, nature, persons, help wanted.

    python -m benchmarks.maritime.slots prepare --data DATA
    python -m benchmarks.maritime.slots run --data DATA --out OUT --arms "small tagger" rules
    python -m benchmarks.maritime.slots run --data DATA --out OUT --arms LoRA "head alone" "LoRA read once" \\
        --base FOLDER --minutes 5
    python -m benchmarks.maritime.slots table --data DATA --out OUT

`prepare` composes dialogues and finds in them what the scenarios say. `run` trains each arm with each seed and extracts
the slots of held-out composed dialogues and of the hand-written sets of tests/maritime/cases; it starts no job after
--minutes, and goes on when the command is given again. What was trained stays, so that a set that comes later costs a
reading. A job that fails leaves its error in OUT. `table` scores what is there and writes the record. Arms on a model
want a GPU and need neither the land mask nor the grammar's parser. --tiny rehearses each in seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.maritime.headline import run, share
from benchmarks.maritime.slots.work import ARMS, COUNTS, Size, Work, listed, prepare
from graftwork.errors import GraftError


def options() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maritime.slots", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("prepare", "run", "table"):
        one = verbs.add_parser(verb)
        one.add_argument("--data", type=Path, required=True, help="what `prepare` writes")
        if verb != "table":
            one.add_argument("--tiny", action="store_true", help="a rehearsal")
        if verb != "prepare":
            one.add_argument("--out", type=Path, required=True, help="folder of the results")
        if verb == "run":
            one.add_argument("--arms", nargs="+", default=list(ARMS), help=", ".join(ARMS))
            one.add_argument("--base", default="smollm2", help="tiny, smollm2, or a folder")
            one.add_argument("--minutes", type=float, help="start no job that would end later")
            one.add_argument("--part", default="0/1", help="0/4, 1/4 ...: of several processes")
            one.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU, if any")
        if verb == "table":
            one.add_argument("--record", type=Path, help="default: that of the tree")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 1 a job failed, 2 bad input."""
    args = options().parse_args(argv)
    try:
        if args.verb == "prepare":
            prepare(args.data, dict.fromkeys(COUNTS, 12) if args.tiny else COUNTS)
            return 0
        if args.verb == "table":
            from benchmarks.maritime.slots.collect import TARGET, write

            print(write(args.data, args.out, args.record or TARGET).verdict)
            return 0
        import torch

        jobs = list(share(listed(args.arms), args.part))
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        work = Work(args.data, args.base, args.out, device, Size.tiny() if args.tiny else Size())
        work.forget_partial(jobs)
        return int(run(work, jobs, args.minutes) > 0)
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
