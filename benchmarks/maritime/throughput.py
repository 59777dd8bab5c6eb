"""Dialogues a minute: one by one and in batches, the base, a graft on it, and the graft constrained to the facts.

    python -m benchmarks.maritime.throughput --data DATA --base FOLDER --threads 2 --batches 1 8
    python -m benchmarks.maritime.throughput --data DATA --base FOLDER --device cuda --batches 1 16 128 512 --repeats 3

DATA is what `benchmarks.maritime.headline prepare` wrote. Each dialogue has as many tokens as the composed ones have in
the mean, whatever the model says, so that all rows do the same work; --length says another number. Without --adapter
the graft is a new LoRA, which computes what a trained one does. A row that fails has its error, and what is measured
is written at once. --tiny rehearses in seconds. It needs neither the land mask nor the grammar's parser.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.commands import command_of
from benchmarks.maritime.headline import FORM, free, pairs
from graftwork.errors import GraftError
from graftwork_maritime import NOTICE
from graftwork_maritime.scenario import Scenario
from graftwork_runs import Record, Row, environment

RECORDS = Path(__file__).parents[1] / "records" / "maritime"
BASE, GRAFT, CONSTRAINED = "base", "graft", "graft, constrained"
RATE, TOKENS = "dialogues a minute", "tokens a second"
SAMPLE = 50  # composed dialogues whose lengths are averaged


class Bench:
    """The model with and without a graft, and the prompts.

    Args:
        data: the folder of the scenarios.
        base: tiny, smollm2, or a folder.
        adapter: a graft's folder; None: a new LoRA.
        device: cpu or cuda.
        length: tokens of a dialogue; None: the mean of the composed ones.
    """

    def __init__(
        self, data: Path, base: str, adapter: Path | None, device: str, length: int | None
    ) -> None:
        import graftwork as gw
        from graftwork_llm import bases
        from graftwork_llm.batches import encode
        from graftwork_llm.pieces import Pieces
        from graftwork_maritime.model.prompts import SYSTEM, answer, prompt

        model, self.words = bases.load(base, "float32" if device == "cpu" else "bfloat16")
        known = pairs(data / "test.jsonl")
        self.scenarios: list[Scenario] = [s for _, s in known]
        self.prompts = [
            encode(self.words, prompt(s, FORM), system=SYSTEM).prompt for s in self.scenarios
        ]
        told = [
            self.words(answer(d.turns), add_special_tokens=False)["input_ids"]
            for d, _ in known[:SAMPLE]
        ]
        self.length = length or round(mean(map(len, told)))
        self.device, self.pieces = device, Pieces(self.words)
        model = model.to(device)
        self.graft = (
            gw.load(model, adapter) if adapter else gw.graft(model, gw.LoRA(rank=32), seed=0)
        )
        self.model = self.graft.model.eval()
        # a token that the model does not use ends nothing
        self.end = max(self.words.all_special_ids)

    def write(self, variant: str, batch: int, count: int) -> float:
        """Seconds for `count` dialogues, `batch` at once."""
        begun = time.perf_counter()
        with self._graft(variant):
            for at in range(0, count, batch):
                rows = [n % len(self.prompts) for n in range(at, min(at + batch, count))]
                self._complete(variant, rows, self.length)
        return time.perf_counter() - begun

    def warm(self, variant: str, batch: int) -> None:
        """What a device does once for a size of batch."""
        with self._graft(variant):
            self._complete(variant, [n % len(self.prompts) for n in range(batch)], 2)

    def _graft(self, variant: str) -> AbstractContextManager[Any]:
        return self.graft.off() if variant == BASE else nullcontext()

    def _complete(self, variant: str, rows: Sequence[int], most: int) -> list[list[int]]:
        from graftwork_llm.decoding import Sampling, complete
        from graftwork_maritime.model.constrained import FactGuide

        held = variant == CONSTRAINED
        return complete(
            self.model, [self.prompts[n] for n in rows], rows, end=self.end, sampling=Sampling(most=most),
            device=self.device,
            guides=[FactGuide(self.scenarios[n], self.pieces, self.end) for n in rows] if held else None,
        )  # fmt: skip


def measured(
    bench: Bench, batches: Sequence[int], least: int, repeats: int, case: str,
    say: Callable[[str], None] = lambda line: None, keep: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:  # fmt: skip
    """Two rows for each variant and batch: the median of the repeats, lo and hi the slowest and the fastest.

    Args:
        bench: what writes.
        batches: dialogues at once.
        least: dialogues of a figure at least; a whole batch in any case.
        repeats: figures.
        case: of the rows.
        say: is told the progress.
        keep: is given all rows so far after each.
    """
    rows: list[Row] = []
    for batch in batches:
        for variant in (BASE, GRAFT, CONSTRAINED):
            count = max(batch, least)
            named: dict[str, Any] = {"case": case, "variant": f"{variant}, {batch} at once"}
            try:
                bench.warm(variant, batch)
                rates = [60 * count / bench.write(variant, batch, count) for _ in range(repeats)]
            except Exception as error:  # one row must not lose the others
                why = f"{type(error).__name__}: {error}"[:200]
                rows += [Row(**named, metric=m, value=None, note=why) for m in (RATE, TOKENS)]
                keep(rows)
                say(f"{variant}, {batch} at once: failed: {why}")
                free()
                continue
            for metric, per in ((RATE, 1.0), (TOKENS, bench.length / 60)):
                values = [per * r for r in rates]
                rows.append(Row(
                    **named, metric=metric, value=round(median(values), 2), lo=round(min(values), 2),
                    hi=round(max(values), 2), n=repeats,
                ))  # fmt: skip
            keep(rows)
            say(f"{variant}, {batch} at once: {median(rates):.1f} dialogues a minute")
    return rows


def verdict(rows: Sequence[Row]) -> str:
    """What a batch and what a graft does to the rate."""
    rates = {r.variant: r.value for r in rows if r.metric == RATE and r.value is not None}
    split = {name: name.rpartition(", ") for name in rates}
    best = {
        who: max((n for n in rates if split[n][0] == who), key=lambda n: rates[n], default=None)
        for who in (BASE, GRAFT, CONSTRAINED)
    }
    alone = rates.get(f"{GRAFT}, 1 at once")
    top = best[GRAFT]
    if alone is None or top is None:
        return "not testable here: the graft's rows have no figure."
    word = "seen" if rates[top] > alone else "not seen at this scale"
    told = [f"{n} {rates[n]:.1f}" for n in best.values() if n is not None]
    return f"{word}: {'; '.join(told)} dialogues a minute, against {alone:.1f} of the graft one by one."


def options() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maritime.throughput", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="what `headline prepare` wrote")
    parser.add_argument("--base", default="smollm2", help="tiny, smollm2, or a folder")
    parser.add_argument("--adapter", type=Path, help="folder of a graft")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dialogues", type=int, default=1, help="of a figure at least")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--length", type=int, help="tokens of a dialogue")
    parser.add_argument("--out", type=Path, help="default: the tree's record of the device")
    parser.add_argument("--tiny", action="store_true", help="a random base, eight tokens")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the record; 0, or 2 for bad input."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = options().parse_args(given)
    try:
        numbers = [args.threads, args.dialogues, args.repeats, args.length or 1, *args.batches]
        if min(numbers) < 1:
            raise GraftError(
                "--threads, --batches, --dialogues, --repeats and --length must be at least 1"
            )
        import torch

        torch.set_num_threads(args.threads)
        before = os.getloadavg()[0]
        base, length = ("tiny", 8) if args.tiny else (args.base, args.length)
        bench = Bench(args.data, base, args.adapter, args.device, length)
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    kind = "trained" if args.adapter else "new LoRA of rank 32"
    notes = [
        NOTICE,
        f"Base {Path(base).name}, graft: {kind}; {bench.length} tokens a dialogue, whatever the model says.",
        "lo and hi are the slowest and the fastest repeat.",
        f"Load average before the run: {before:.1f}; {args.threads} threads.",
    ]
    left_out = ("--out", "--data", "--base", "--adapter")
    command = command_of("benchmarks.maritime.throughput", given, left_out)

    def keep(rows: list[Row]) -> None:
        """What is measured stays when the run is stopped."""
        record = Record(
            record=f"maritime/throughput-{args.device}",
            claim="Written in batches, dialogues come faster than one by one.",
            command=command, rows=rows, notes=notes, verdict=verdict(rows),
            details={"tokens of a dialogue": bench.length, "load average": round(before, 1), "threads": args.threads},
            **environment(args.device),
        )  # fmt: skip
        record.write(args.out or RECORDS / f"throughput-{args.device}.json")

    rows = measured(
        bench, args.batches, args.dialogues, args.repeats, args.device, lambda line: print(line, flush=True), keep
    )  # fmt: skip
    print(verdict(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
