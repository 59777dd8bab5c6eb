"""A whole fine-tuning run through our command line, beside peft in the Hugging Face Trainer at its best setting.

    python -m benchmarks.fit --cases llama small
    python -m benchmarks.fit --cases tiny --steps 20 --trial 5

Both sides train the same adapter on the same frozen base from the same factors, on the same batches in the same order
and at the same rates; each run is a fresh process, and the sides take turns. Short runs of every peft setting, and one
of ours, come first; the fastest, and the fastest with float32 factors, are then run in full. Runs that are done are
kept under `--work` and not repeated: after a time limit the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.commands import command_of, words_of
from benchmarks.fit import judging
from benchmarks.fit.runs import OURS, PEFT_SETTINGS, WHOLE_LOGITS, Found, Run, Work
from benchmarks.fit.setting import RANK, RATE, SETTINGS, setting
from graftwork.errors import GraftError
from graftwork_runs import Record, Row, environment

#: options that say what is measured
SETTING = ("cases", "settings", "steps", "trial", "repeats", "threads")
RECORDS = Path(__file__).parents[1] / "records" / "speed"


class Session:
    """Runs within a limit of time, telling what it does.

    Args:
        work: where runs lie.
        minutes: no new run is begun after them.
    """

    def __init__(self, work: Work, minutes: float) -> None:
        self.work, self.until = work, time.perf_counter() + 60 * minutes
        self.left = 0
        self.seconds = 0.0  # of the runs, of earlier calls too

    def run(self, run: Run) -> Found | None:
        """The figures of a run, or `None` where the time is over."""
        kept = self.work.result(run)
        if kept is None and time.perf_counter() > self.until:
            self.left += 1
            return None
        print(f"{run.case}: {run.variant}, {run.steps} steps, {run.repeat} ...", flush=True)
        found = self.work.measure(run)
        self.seconds += found.get("wall_seconds", 0.0)
        if "error" in found:
            print(f"  failed: {found['error']}", flush=True)
        else:
            print(
                f"  {found['process_seconds']:.1f} s: {found['before_seconds']:.1f} s before the steps, "
                f"{found['steps_seconds']:.1f} s, {found['after_seconds']:.1f} s after; "
                f"{1000 * found['step_seconds']:.1f} ms a step, {found['peak_bytes'] / 2**30:.2f} GiB, "
                f"loss {found['losses'][0]:.4f} to {found['losses'][-1]:.4f}",
                flush=True,
            )
        return found

    def case(
        self, case: str, tried: Sequence[str], steps: int, trial: int, repeats: int
    ) -> tuple[dict[Run, Found], tuple[str, str] | None]:
        """All runs of a case that the time allows, and (peft's fastest, its fastest in float32)."""
        half = setting(case).dtype != "float32"
        settings = [n for n in tried if half or ("autocast" not in n)]
        trials = {n: self.run(Run(case, n, trial, 0)) for n in settings}
        self.run(Run(case, OURS, trial, 0))  # its modules are compiled and read by then, as peft's
        there = {n: f for n, f in trials.items() if f is not None}
        quick = judging.fastest(there)
        wide = judging.fastest(there, float32=True)
        if quick is None or wide is None or len(there) < len(trials):
            return {}, None
        found: dict[Run, Found] = {}
        sides = list(dict.fromkeys([OURS, quick, wide, WHOLE_LOGITS]))
        for repeat in range(1, repeats + 1):
            for variant in sides if repeat % 2 else reversed(sides):
                run = Run(case, variant, steps, repeat)
                f = self.run(run)
                if f is not None:
                    found[run] = f
        return found, (quick, wide)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cuda = torch.cuda.is_available()
    default = ["llama", "small"] if cuda else ["small"]
    parser.add_argument("--cases", nargs="+", choices=[*SETTINGS], default=default)
    parser.add_argument(
        "--settings", nargs="+", choices=[*PEFT_SETTINGS], default=[*PEFT_SETTINGS],
        metavar="SETTING", help="of peft, tried in short runs: " + "; ".join(PEFT_SETTINGS),
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--trial", type=int, default=30, help="steps of a peft setting's trial")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="begin no run after them; call again to go on"
    )
    parser.add_argument("--work", type=Path, default=Path("runs") / "fit-benchmark")
    parser.add_argument("--out", type=Path, help="the record's file")
    options = parser.parse_args(argv)
    if min(options.steps, options.trial, options.repeats) < 1:
        print("--steps, --trial and --repeats must be at least 1", file=sys.stderr)
        return 2
    session = Session(Work(options.work.resolve(), threads=options.threads), options.minutes)
    rows: list[Row] = []
    best: dict[str, tuple[str, str]] = {}
    try:
        for name in options.cases:
            found, chosen = session.case(
                name, options.settings, options.steps, options.trial, options.repeats
            )
            title = f"{name}: {setting(name).words}"
            rows += judging.rows(title, found)
            if chosen is not None and found:
                best[title] = chosen
    except GraftError as error:
        print(error, file=sys.stderr)
        return 2
    if not rows:
        print("nothing is measured yet; call again with more --minutes", file=sys.stderr)
        return 1
    dtypes = {f"{n}: {setting(n).words}": setting(n).dtype for n in options.cases}
    record = Record(
        record=f"speed/{target(cuda).stem}",
        claim=CLAIM,
        command=command_of("benchmarks.fit", words_of(options, SETTING)),
        seeds=[0],
        seconds=round(session.seconds, 1),
        rows=rows,
        notes=NOTES,
        details={
            "rank": RANK,
            "rate": RATE,
            "steps": options.steps,
            "tried": list(options.settings),
            "peft, fastest": {case.partition(":")[0]: quick for case, (quick, _) in best.items()},
            "peft, fastest that trains the same": {
                case.partition(":")[0]: wide for case, (_, wide) in best.items()
            },
        },
        verdict=judging.verdict(rows, best, dtypes, cuda),
        **environment("cuda" if cuda else "cpu"),
    )
    print(record.verdict)
    print(record.write(options.out or target(cuda)))
    if session.left:
        print(f"{session.left} runs are left: the same command goes on with them", flush=True)
    return 0


CLAIM = (
    "A fit through the command line takes at most 0.75 of the time and 0.85 of the memory of peft in the Hugging Face "
    "Trainer at its fastest setting, on the same loss curve as its fastest that trains the same."
)
NOTES = [
    "Values are medians over the repetitions, bounds the smallest and the largest; a ratio is taken within one.",
    (
        "process: from the start of the interpreter to its end, imports, the base's creation and the saved adapter "
        "included; before the steps, and after them, are its parts. all steps: from the first step's begin to the "
        "last one's end. step: the mean after step 10. On a CPU all are processor time, in which a busy "
        "neighbour does not count."
    ),
    "curve difference: the largest distance of two losses of one step.",
    "peak: allocated on the device during the steps; on a CPU the whole process, libraries included.",
    (
        "Trainer: fused AdamW, no logging, no check for NaN, no clipping, no checkpoint. Ours: the defaults of the "
        "command line, checkpoints every 100 steps included; the loss is taken a few rows of logits at a time "
        "(`whole logits`: as the model itself does)."
    ),
]


def target(cuda: bool) -> Path:
    """Where the record lies."""
    return RECORDS / ("fit.json" if cuda else "fit-cpu.json")


if __name__ == "__main__":
    sys.exit(main())
