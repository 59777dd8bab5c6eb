"""Does LoRA from the principal triplets start faster and end lower than LoRA from zero?

    python -m benchmarks.methods.pissa

The task is that of `digits.py`. "Faster" is asked at the rate that is best for an arm's own first steps, "lower" at the
rate that is best for its last ones, because one common rate would favour the arm that it suits.
"""

from __future__ import annotations

import argparse

import graftwork as gw
from benchmarks.methods import digits
from benchmarks.methods.digits import EARLY, ERROR, LATE, everything, trial, with_method
from benchmarks.methods.harness import BOUNDS, Experiment, below, compare, edges, only, ratio, told
from graftwork_runs import Row

WIDTH, RANK = 128, 8
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
ARMS = {
    "full fine-tuning": everything,
    "LoRA": with_method(gw.LoRA(RANK)),
    "PiSSA": with_method(gw.PiSSA(RANK, niter=None)),
}
CASES = {"rate for the first steps": EARLY, "rate for the last steps": LATE, "rate for the test": ERROR}  # fmt: skip


def measure(seeds: list[int], options: argparse.Namespace) -> list[Row]:
    arms = {name: trial(make, WIDTH, options.steps) for name, make in ARMS.items()}
    rows = []
    for case, metric in CASES.items():
        rows += compare(case, arms, RATES, seeds, metric, [("PiSSA", "LoRA")])
    return rows


def judge(rows: list[Row]) -> str:
    """Seen if PiSSA is ahead in the first steps and in the last, partly if in one of them."""
    first, last, test = (only(rows, c, "PiSSA", ratio(m, "LoRA")) for c, m in CASES.items())
    ahead = below(first) + below(last)
    word = ("not seen at this scale", "partly", "seen")[ahead]
    return (
        f"{word}: PiSSA's training loss over LoRA's is {told(first)} in the first tenth of the steps and {told(last)} "
        f"in the last, its test error {told(test)}, each arm at its own rate."
    )


EXPERIMENT = Experiment(
    name="pissa",
    claim="From the principal singular triplets LoRA converges faster, and to a lower loss.",
    model=f"MLP 64-{WIDTH}-{WIDTH}-10, rank {RANK} on two layers",
    data=digits.DATA,
    measure=measure,
    judge=judge,
    shown=[(case, "PiSSA", ratio(metric, "LoRA")) for case, metric in CASES.items()],
    notes=[
        BOUNDS,
        "AdamW without decay, batches of 64; a rate is the best of six by the case's own metric on seeds 1000 to 1002",
    ],
    remarks=edges(RATES),
    sizes={"seeds": 8, "steps": digits.STEPS},
    files=digits.files,
)
main = EXPERIMENT.main


if __name__ == "__main__":
    raise SystemExit(main())
