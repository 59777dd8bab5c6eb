"""What a training step costs over the frozen floor: ours, peft, full fine-tuning.

    python -m benchmarks.speed --table llama
    python -m benchmarks.speed --table vision --tiny --device cpu
    python -m benchmarks.speed --table vision --anatomy         # operations and kernels, not times
    python -m benchmarks.speed --check                          # do the fast forms agree with plain autograd?

All variants of a case take turns in one process on the same inputs; each ratio to the floor is taken within a
round. The floor is what no adapter can avoid: the frozen network's forward pass and the backward pass to its
input. All others are whole steps, AdamW included. `--tiny` rehearses every row in small; such figures mean nothing
and are not written among the records unless `--out` says so. With `--merge` short commands fill one record, each
with rows of its own:

    python -m benchmarks.speed --cases hidden --rows 'graftwork LoRA ?*' --merge
    python -m benchmarks.speed --cases hidden --modes compiled --rows 'graftwork LoRA 16' --merge
"""

from __future__ import annotations

import argparse
import functools
import importlib
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Protocol

import torch

from benchmarks.commands import command_of
from benchmarks.merging import merged
from benchmarks.speed import limits
from benchmarks.speed.anatomy import NOTES as ANATOMY
from benchmarks.speed.anatomy import anatomy
from benchmarks.speed.check import check
from benchmarks.speed.measure import Case, Turns, measure
from graftwork.errors import GraftError
from graftwork_runs import Record, Row, environment

RECORDS = Path(__file__).parents[1] / "records" / "speed"
TABLES = ("llama", "vision")
MEASURED = [
    "Bounds are quartiles over the rounds of one run; a ratio is taken within a round.",
    "eager: over the eager floor, of a row that is compiled or recorded.",
    "issue: the time until a step's work is handed over; on a CPU it is the wall time.",
    "peak: as if the row were alone in memory with the base and the inputs.",
]


class Table(Protocol):
    """What a table's module offers."""

    CLAIM: str
    NOTES: list[str]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Options of this table alone."""

    def cases(self, options: argparse.Namespace) -> list[Case]:
        """The cases to measure; `options.device` and `options.tiny` are set."""


def main(argv: list[str] | None = None) -> int:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--table", choices=TABLES, default="llama")
    name: str = first.parse_known_args(argv)[0].table
    table: Table = importlib.import_module(f"benchmarks.speed.{name}")  # type: ignore[assignment]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        parents=[first],
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--tiny", action="store_true", help="rehearse every row in small")
    parser.add_argument("--rounds", type=int, default=8, help="figures per row, at least 2")
    parser.add_argument("--burst", type=int, default=3, help="steps per figure")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="a case builds no further row after them"
    )
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="GLOB", help="variants by name")
    parser.add_argument(
        "--cases",
        nargs="+",
        metavar="NAME",
        help="cases by the first word of their names (default: all)",
    )
    parser.add_argument(
        "--anatomy", action="store_true", help="count operations and kernels instead of timing"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare the fast forms with plain autograd instead"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument("--out", type=Path, help="the record's file")
    parser.add_argument(
        "--merge", action="store_true", help="keep what the record's file has of other rows"
    )
    table.add_arguments(parser)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    argv = sys.argv[1:] if argv is None else argv
    if options.merge and (options.check or options.anatomy):
        parser.error("--merge is for figures of a table, without --check and --anatomy")
    try:
        if options.check:
            _needs_device(options)
            record = check(options, command_of("benchmarks.speed", argv))
        else:
            record = run(name, table, options, argv)
        kept = None if options.tiny else RECORDS.parent / f"{record.record}.json"
        out = options.out or kept
        if out is not None and options.merge:
            judge = functools.partial(limits.verdict, name, device=options.device)
            record = merged(record, out, judge)
    except GraftError as error:
        print(error, file=sys.stderr)
        return 2
    print(record.verdict)
    if out is not None:
        print(record.write(out))
    return 0


def target(table: str, device: str) -> Path:
    """Where a table's record lies."""
    return RECORDS / f"{table}{'' if device == 'cuda' else '-cpu'}.json"


def run(name: str, table: Table, options: argparse.Namespace, argv: list[str]) -> Record:
    """Measure the chosen cases and rows of a table.

    Raises:
        GraftError: an unknown case or row, no GPU where one is asked for, fewer than two rounds.
    """
    _needs_device(options)
    if options.rounds < 2 or options.burst < 1:
        raise GraftError("--rounds must be at least 2 and --burst at least 1")
    turns = Turns(
        options.device, options.rounds, 1, options.burst, options.rows, 60 * options.minutes
    )
    cases = table.cases(options)
    if options.cases:
        short = {c.name.split(":")[0]: c for c in cases}
        unknown = set(options.cases) - set(short)
        if unknown:
            raise GraftError(f"--cases {min(unknown)!r}: the table {name!r} has {', '.join(short)}")
        cases = [short[name] for name in options.cases]
    begun = time.perf_counter()
    rows: list[Row] = []
    for case in cases:
        found = anatomy(case, options) if options.anatomy else measure(case, turns)
        rows += found
        for r in found:
            spread = "" if r.lo is None else f" ({r.lo} to {r.hi})"
            value = r.note if r.value is None else f"{r.value}{spread} {r.unit or ''}"
            note = f" [{r.note}]" if r.note and r.value is not None else ""
            print(f"{r.case}: {r.variant}: {r.metric} {value}{note}", flush=True)
    told = limits.verdict(name, rows, options.device)
    if options.anatomy:
        told = "seen: counts, no claim about time."
    return Record(
        record=f"speed/{target(name, options.device).stem}"
        + ("-anatomy" if options.anatomy else ""),
        claim="What a step consists of." if options.anatomy else table.CLAIM,
        command=command_of("benchmarks.speed", argv),
        seeds=[0],
        seconds=round(time.perf_counter() - begun, 1),
        rows=rows,
        notes=[*(ANATOMY if options.anatomy else MEASURED), *table.NOTES],
        details={
            k: str(v) if isinstance(v, Path) else v
            for k, v in vars(options).items()
            if k not in ("out", "table", "merge", "minutes")
        },
        verdict=told,
        **environment(options.device),
    )


def _needs_device(options: argparse.Namespace) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise GraftError("--device cuda: torch sees no GPU here; use --device cpu")


if __name__ == "__main__":
    sys.exit(main())
