"""A graft on a frozen base in fewer bits: what a step costs over that base's own floor, and what a merge loses.

    python -m benchmarks.quantised
    python -m benchmarks.quantised --tiny --device cpu

The base is the Llama-shaped decoder of `benchmarks.speed`, its linear layers stored in each form in turn. In a form all
variants take turns in one process on the same inputs, and each ratio is taken over the floor of that form: its own
forward pass and the backward pass to its input. Then a random change of rank 16 and a set size is merged, by us and by
peft. What is finished lies in `--work` and is not measured again; a form that cannot be made, and a row that fails, is
recorded with its error. `--tiny` rehearses in small; such figures, and those of a CPU, are written only where `--out`
says.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.commands import command_of
from benchmarks.quantised import judging
from benchmarks.quantised.forms import FORMS, Form, store, stored_bytes
from benchmarks.quantised.merges import merge_rows, said
from benchmarks.rows import figure
from benchmarks.speed.llama import LINEARS, add_arguments, decoder, variants
from benchmarks.speed.measure import Case, Turns, measure
from graftwork.errors import GraftError
from graftwork_runs import Record, Row, environment
from graftwork_runs.files import write_atomic

OUT = Path(__file__).parents[1] / "records" / "scale" / "quantised.json"
NOTES = [
    "Bounds are quartiles, of times over the rounds of one run, of errors over the layers.",
    "A ratio is taken within a round, over the floor of the same form.",
    "peak: as if the row were alone in memory with the base and the inputs.",
    "linear layers: bytes of their weights with all scales.",
    "Errors are Frobenius norms against the unmerged layer in float32; 1 is what leaving the change out would cost.",
    "The change is random, of rank 16, and the same on both sides.",
    "The network's outputs are computed in bfloat16, so its error holds the rounding of two passes too.",
]


def main(argv: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantised",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--forms", nargs="+", choices=tuple(FORMS), default=list(FORMS))
    parser.add_argument("--sizes", nargs="+", type=float, default=[0.01, 0.03, 0.1])
    parser.add_argument("--rows", nargs="+", default=list(judging.VARIANTS), metavar="GLOB")
    parser.add_argument("--rounds", type=int, default=5, help="figures per row, at least 2")
    parser.add_argument("--burst", type=int, default=3, help="steps per figure")
    parser.add_argument("--tiny", action="store_true", help="rehearse every row in small")
    parser.add_argument("--work", type=Path, default=Path("quantised-rows"))
    parser.add_argument("--out", type=Path, help="the record's file")
    add_arguments(parser)
    options = parser.parse_args(given)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch sees no GPU here; use --device cpu", file=sys.stderr)
        return 2
    if options.rounds < 2 or options.burst < 1 or min(options.sizes) <= 0:
        print("--rounds is at least 2, --burst at least 1, --sizes above 0", file=sys.stderr)
        return 2
    if options.tiny:
        options.layers, options.hidden, options.batch, options.tokens = 1, 64, 2, 16
        options.vocabulary = 128
    warnings.filterwarnings("ignore", category=UserWarning)
    begun = time.perf_counter()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = [row for name in options.forms for row in kept(name, options)]
    record = recorded(rows, options, given, time.perf_counter() - begun)
    print(record.verdict)
    out = options.out or (None if options.tiny or options.device == "cpu" else OUT)
    if out is not None:
        print(record.write(out))
    return 0


def kept(name: str, options: argparse.Namespace) -> list[Row]:
    """A form's rows, from an earlier run where they are there; one row that says why where the form cannot be made."""
    file = options.work / f"{name}.json"
    same = {k: v for k, v in vars(options).items() if k not in ("work", "out", "forms")}
    if file.exists():
        found = json.loads(file.read_text())
        if found["settings"] == same:
            print(f"{name}: measured before", flush=True)
            return [Row(**row) for row in found["rows"]]
    print(f"{name}: started", flush=True)
    try:
        rows = form_rows(FORMS[name], options)
    except (
        Exception
    ) as error:  # a package is not installed, or has no kernel for this device: the others go on
        rows = [figure(speed_case(FORMS[name], options), "floor", "step", None, "ms", said(error))]
    for row in rows:
        spread = "" if row.lo is None else f" ({row.lo} to {row.hi})"
        value = row.note if row.value is None else f"{row.value}{spread} {row.unit or ''}"
        print(f"{row.case}: {row.variant}: {row.metric} {value}", flush=True)
    if any(row.value is not None for row in rows):
        text = json.dumps({"settings": same, "rows": [row.model_dump() for row in rows]})
        write_atomic(file, text)
    return rows


def speed_case(form: Form, options: argparse.Namespace) -> str:
    size = f"{options.layers} layers of {options.hidden}, {options.batch} x {options.tokens} tokens"
    return f"step, {form.title}: {size}"


def form_rows(form: Form, options: argparse.Namespace) -> list[Row]:
    """Steps and merges on a base in one form."""
    base = _base(form, options)
    case = speed_case(form, options)
    built = variants(lambda: base, "hidden", options)
    turns = Turns(options.device, options.rounds, 1, options.burst, options.rows)
    sites = len(LINEARS) * options.layers
    rows = measure(Case(case, built, lambda: base, lambda: sites), turns)
    rows.append(figure(case, "floor", judging.BYTES, stored_bytes(base), "bytes"))
    del built
    _collect()
    for size in options.sizes:
        merge = f"merge, {form.title}: a change of {size:.3g} of the weight"
        rows += merge_rows(merge, base, size, min(options.tokens, 512))
        _collect()
    return rows


def _base(form: Form, options: argparse.Namespace) -> torch.nn.Module:
    base = decoder(options)
    store(base, form)
    _collect()
    return base


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def recorded(
    rows: list[Row], options: argparse.Namespace, argv: Sequence[str], seconds: float
) -> Record:
    """The record of all forms."""
    verdict = judging.verdict(rows)
    if options.device == "cpu" or options.tiny:
        verdict = "not testable here: a rehearsal on small sizes"
    about: dict[str, Any] = environment(options.device)
    about["versions"] = {**about["versions"], **judging.versions()}
    return Record(
        record="scale/quantised",
        claim=judging.CLAIM,
        command=command_of("benchmarks.quantised", argv, ("--out", "--work")),
        seeds=[0],
        seconds=round(seconds, 1),
        rows=rows,
        notes=NOTES,
        details={k: v for k, v in vars(options).items() if k not in ("out", "work")},
        verdict=verdict,
        **about,
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GraftError as failure:
        print(failure, file=sys.stderr)
        sys.exit(2)
