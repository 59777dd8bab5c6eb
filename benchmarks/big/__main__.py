"""What a graft costs on a 7B-shaped model beside its training, ours beside peft.

    python -m benchmarks.big --parts lifecycle decoding
    python -m benchmarks.big --parts compiled
    python -m benchmarks.big --parts swap
    python -m benchmarks.big --size tiny --tokens 4 --rounds 2 --out here.json

Parts: `lifecycle` (graft, save, load, merge, unmerge, remove: seconds and peak memory), `decoding` (one token at a
time with a key-value cache, eager and as a recorded graph), `compiled` (the same on a fixed cache, compiled), `swap`
(what a switch of the adapter compiles). Each command fills its rows of one record and leaves the others.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.big import decoding, lifecycle
from benchmarks.big.model import SIZES, Size
from benchmarks.commands import command_of, words_of
from benchmarks.merging import merged
from graftwork.errors import GraftError
from graftwork_runs import Record, Row, environment

RECORDS = Path(__file__).parents[1] / "records" / "speed"
#: options that say what is measured
SETTING = ("size", "tokens", "rounds", "threads", "backend", "forms")
PARTS = ("lifecycle", "decoding", "compiled", "swap")
#: times the base's token latency
LATENCY = 1.10


def rows_of(part: str, size: Size, device: str, options: argparse.Namespace) -> list[Row]:
    """One part's rows; an error becomes a row that says why."""
    timed = {"tokens": options.tokens, "rounds": options.rounds}
    parts: dict[str, Callable[[], list[Row]]] = {
        "lifecycle": lambda: lifecycle.measure(size, device),
        "decoding": lambda: decoding.measure(
            size, device, compiled=False, chosen=options.forms, **timed
        ),
        "compiled": lambda: decoding.measure(
            size, device, compiled=True, backend=options.backend, minutes=options.minutes, **timed
        ),
        "swap": lambda: decoding.swaps(size, device, options.backend),
    }
    try:
        return parts[part]()
    except Exception as error:  # whatever stops one part, the others are measured
        note = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        print(f"{part}: {note}", file=sys.stderr, flush=True)
        return [Row(case=part, variant="all", metric="failed", value=None, note=note)]
    finally:
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def verdict(rows: Sequence[Row]) -> str:
    """Whether the latency of unmerged decoding and the recompilations of a swap stay within their limits."""
    said, held, measured = [], 0, 0
    limits = [
        ("decoding, loop", decoding.OURS, "ratio to base", LATENCY),
        ("decoding, generate", decoding.OURS, "ratio to base", LATENCY),
        ("decoding, recorded loop", decoding.OURS, "ratio to base", LATENCY),
        ("decoding, compiled loop", decoding.PLAIN, "ratio to base", LATENCY),
        ("hot swap", "graftwork", "recompilations", 0),
    ]
    for case, variant, metric, limit in limits:
        found = [r.value for r in rows if (r.case, r.variant, r.metric) == (case, variant, metric)]
        value = found[0] if found else None
        measured += value is not None
        held += value is not None and value <= limit
        said.append(
            f"{case}: {'not measured' if value is None else f'{value:g}'} (limit {limit:g})"
        )
    if not measured:
        return "not testable here: of decoding and of a swap nothing was measured."
    word = "seen" if held == len(limits) else "partly" if held else "not seen at this scale"
    return f"{word}: {held} of {len(limits)} limits hold: {'; '.join(said)}."


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.big",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", choices=[*SIZES], default="7b" if cuda else "tiny")
    parser.add_argument(
        "--forms", nargs="+", choices=[*decoding.FORMS], default=[*decoding.FORMS],
        help="of the part decoding",
    )  # fmt: skip
    parser.add_argument("--tokens", type=int, default=64, help="tokens per figure")
    parser.add_argument("--rounds", type=int, default=6, help="figures per side, at least 2")
    parser.add_argument(
        "--minutes", type=float, default=7.0, help="after them no further side is compiled"
    )
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument("--out", type=Path, help="the record's file")
    options = parser.parse_args(argv)
    if options.rounds < 2 or options.tokens < 1:
        print("--rounds must be at least 2 and --tokens at least 1", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    device, size = ("cuda" if cuda else "cpu"), SIZES[options.size]
    out = options.out or (RECORDS / f"big-{options.size}.json" if cuda else None)
    for part in options.parts:  # the record is written after each, so that a time limit loses one
        begun = time.perf_counter()
        rows = rows_of(part, size, device, options)
        record = Record(
            record=f"speed/big-{options.size}",
            claim="Unmerged decoding takes at most 1.10 of the base's time a token, and a hot swap compiles nothing.",
            command=command_of("benchmarks.big", ["--parts", part, *words_of(options, SETTING)]),
            seeds=[0],
            seconds=round(time.perf_counter() - begun, 1),
            rows=rows,
            notes=NOTES,
            details={"size": vars(size), "rank": 16, "prompt": decoding.PROMPT},
            verdict=verdict(rows),
            **environment(device),
        )
        if out is None:
            print(record.verdict)
            continue
        try:
            record = merged(record, out, verdict)
        except GraftError as error:
            print(error, file=sys.stderr)
            return 2
        print(record.verdict)
        print(record.write(out), flush=True)
    return 0


NOTES = [
    "LoRA 16 on all seven linears of a block, float32 factors, bf16 base, batch 1; base, ours and peft share it.",
    "Latencies are medians over the rounds with quartiles; a ratio is taken within a round. generate: prompt included.",
    "serving: inside graftwork.serving, which keeps stacked factors in the layers' dtype and, on a GPU, folds weights.",
    "recorded: a cache of fixed size, a token's step one CUDA graph.",
    "save and load hash the adapted weights of the base, which peft does not.",
    "recompilations: graphs made by five switches among three adapters, two of them not seen before.",
]


if __name__ == "__main__":
    sys.exit(main())
