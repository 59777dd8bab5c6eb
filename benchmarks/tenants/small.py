"""1 to 8 LoRA tasks of unequal length on one small frozen decoder, on a CPU: ways to run them, and the planner's word.

    python -m benchmarks.tenants.small

Figures are medians of rounds in turns. Tokens are real ones. Memory is counted, not the allocator's: backbone (a copy
for each task where each has its own), weights, gradients and moments of all tasks, and what the forward pass that keeps
most keeps for its backward one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.tenants.arms import (
    ALONE,
    CAPPED,
    CHUNKED,
    FAIR,
    OWN,
    PACKED,
    PADDED,
    PLANNED,
    SIMPLE,
    Arm,
    arms_of,
    clock_of,
    decoder,
    task,
)
from benchmarks.timing import median_row, take_turns
from graftwork.tenants.cost import CostModel, errors, fit
from graftwork.tenants.measure import model_bytes
from graftwork.tenants.plan import Plan
from graftwork_runs import Record, Row, environment

TARGET = Path(__file__).parents[1] / "records" / "tenants" / "small.json"
CLAIM = (
    "Tasks of unequal length share one backbone: memory below one copy for each, throughput no worse than one after "
    "another, every task as if it were alone; the planner's choice is no slower than the simple plans, as predicted, "
    "and keeps under its cap."
)
#: the planner's choice may be so much slower than the best simple plan before it counts as worse: the rounds' noise
SLACK = 1.1
FASTER, WEIGHTS = "round over the best simple plan's", "weights, largest difference from alone"
TOLD, OFF = "predicted round", "round, predicted over measured, less 1"
OVER = "memory over the cap"
FAILED = "failed"


def fitted(options: argparse.Namespace) -> tuple[CostModel, list[Row]]:
    """The cost model, and how far it is off: on its own passes and on others."""
    most = max(options.tasks)
    a = Arm(
        decoder(options, getattr(torch, options.dtype)),
        [task(i, options) for i in range(most)],
        "planned",
    )
    names = list(a.inputs)
    order = sorted(names, key=lambda n: sum(a.lengths[n]))
    shown = [[order[0]], [order[len(order) // 2]], [order[-1]], order[: len(order) // 2], order]
    held = [order[1:3], order[-2:], order[::2], order[1:]] if most > 2 else []
    runs = [r for g in shown for r in a.measure_each(g, options.rounds)]
    found = fit(runs, model_bytes(a.runner.model))
    others = [r for g in held for r in a.measure_each(g, options.rounds)]
    rows = []
    for variant, (some, (time_, memory)) in {
        "its own passes": (runs, errors(found.model, runs)),
        "other passes": (others, errors(found.model, others)),
    }.items():
        for metric, values in (("time", time_), ("memory", memory)):
            if values:
                sizes = [abs(v) for v in values]
                rows.append(
                    Row(
                        case="cost model",
                        variant=variant,
                        metric=f"{metric} off by",
                        value=round(sum(sizes) / len(sizes), 4),
                        lo=round(min(sizes), 4),
                        hi=round(max(sizes), 4),
                        n=len(some),
                    )
                )
    return found.model, rows


def measure(options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """All rows, and the plans; a part that fails is told, and the others go on."""
    parts = Parts(options)
    rows, details = parts.run("cost model", lambda: _cost_rows(options))
    plans: dict[str, Any] = {}
    if "cost" in details:
        cost = CostModel.from_row(details["cost"])
        for count in options.tasks:
            case = f"{count} tasks" if count > 1 else "1 task"
            more, plan = parts.run(case, lambda n=count, c=case: _case(n, c, options, cost))
            rows, plans = rows + more, plans | plan
    case = f"{max(options.tasks)} tasks, float64, 3 steps"
    rows += parts.run(case, lambda: (exact(case, options), {}))[0]
    return rows, {**details, "plans": plans}


class Parts:
    """Parts of the experiment, kept in a file when they are done, so that a killed one goes on.

    Args:
        options: their `jobs` names the file; `None` keeps nothing.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.file: Path | None = options.jobs
        words = {k: v for k, v in vars(options).items() if k not in ("out", "jobs")}
        self.identity = json.dumps(words, default=str)
        self.done: dict[str, Any] = {}
        if self.file is not None and self.file.exists():
            for line in self.file.read_text(encoding="utf8").splitlines():
                with contextlib.suppress(ValueError):  # the last line of a command that was killed
                    found = json.loads(line)
                    if found["options"] == self.identity:
                        self.done[found["part"]] = found

    def run(
        self, part: str, make: Callable[[], tuple[list[Row], dict[str, Any]]]
    ) -> tuple[list[Row], dict[str, Any]]:
        """What a part gave, now or before; of one that raised, a row that says so."""
        if part in self.done:
            kept = self.done[part]
            print(f"{part}: kept", flush=True)
            return [Row(**r) for r in kept["rows"]], kept["more"]
        try:
            rows, more = make()
        except Exception as error:  # of whatever kind: the other parts do not depend on it
            note = f"{FAILED}: {type(error).__name__}: {error}"[:300]
            print(f"{part}: {note}", flush=True)
            return [Row(case=part, variant="all", metric="failed", value=None, note=note)], {}
        if self.file is not None:
            line = {
                "part": part,
                "options": self.identity,
                "rows": [r.model_dump() for r in rows],
                "more": more,
            }
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf8") as out:
                out.write(json.dumps(line) + "\n")
        print(f"{part}: done", flush=True)
        return rows, more


def _cost_rows(options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    cost, rows = fitted(options)
    return rows, {"cost": cost.row()}


def _case(
    count: int, case: str, options: argparse.Namespace, cost: CostModel
) -> tuple[list[Row], dict[str, Any]]:
    rows: list[Row] = []
    plans: dict[str, Any] = {}
    arms = arms_of(count, options, getattr(torch, options.dtype), cost)

    def rounds(group: list[Arm]) -> Callable[[], None]:
        def run() -> None:
            for a in group:
                a.runner.round()

        return run

    seconds = take_turns(
        {name: rounds(group) for name, group in arms.items()},
        rounds=options.rounds,
        warmup=options.warmup,
        clock=clock_of(options.device),
    )
    real = sum(sum(n) for a in arms[OWN] for n in a.lengths.values())
    for name, group in arms.items():
        rows.append(median_row(case, name, "round", [1e3 * s for s in seconds[name]], "ms"))
        done = [sum(sum(a.lengths[n]) for a in group for g in a.cycle() for n in g)]
        rate = [done[0] / s for s in seconds[name]]
        rows.append(median_row(case, name, "real tokens", rate, "1/s"))
        rows.append(median_row(case, name, "step", [1e3 * real / r for r in rate], "ms"))
        held = sum(model_bytes(a.runner.model) + sum(a.state.values()) for a in group)
        kept = max(a.bytes() - model_bytes(a.runner.model) - sum(a.state.values()) for a in group)
        rows.append(_row(case, name, "memory", (held + kept) / 2**20, "MiB"))
        rows.append(_row(case, name, "waste", sum(a.waste() for a in group) / len(group)))
        if len(group[0].cycle()) == len(group[0].groups()):  # else tasks have taken other steps
            far = max(_far(a, arms[OWN]) for a in group)
            rows.append(_row(case, name, WEIGHTS, far))
    for name in (PLANNED, FAIR, CAPPED):
        plan = arms[name][0].plan
        assert isinstance(plan, Plan)
        plans[f"{case}: {name}"] = {
            "groups": [list(g) for g in plan.groups],
            "turns": list(plan.turns),
        }
        if plan.cap is not None:
            memory = _value(rows, case, name, "memory") * 2**20 / plan.cap
            rows.append(_row(case, name, OVER, memory))
    told = {
        name: sum(cost.seconds(arms[name][0].shape(g), len(g)) for g in arms[name][0].cycle())
        for name in (ALONE, PADDED, CHUNKED, PACKED, PLANNED, FAIR, CAPPED)
    }
    # loss and optimizer of a task, which the fitted passes have not: from the plainest plan alone
    beside = max(0.0, _value(rows, case, ALONE, "round") / 1e3 - told[ALONE]) / count
    for name, passes in told.items():
        steps = sum(map(len, arms[name][0].cycle()))
        seconds_ = passes + beside * steps
        rows.append(_row(case, name, TOLD, 1e3 * seconds_, "ms"))
        if name != ALONE:
            measured_ = _value(rows, case, name, "round")
            rows.append(_row(case, name, OFF, 1e3 * seconds_ / measured_ - 1))
    best = min(SIMPLE, key=lambda name: _value(rows, case, name, "round"))
    worse = _value(rows, case, PLANNED, "step") / _value(rows, case, best, "step")
    rows.append(_row(case, PLANNED, FASTER, worse, None, best))
    print(case, f"planned {worse:.3f} of {best}", flush=True)
    return rows, plans


def exact(case: str, options: argparse.Namespace) -> list[Row]:
    """In float64: the weights after some rounds, relative to training alone."""
    count = max(options.tasks)
    small = {"layers": min(2, options.layers), "hidden": min(128, options.hidden)}
    options = argparse.Namespace(**{**vars(options), **small})
    arms = arms_of(count, options, torch.float64, None)
    for group in arms.values():
        for a in group:
            a.runner.run(rounds=3)
    return [
        _row(case, name, WEIGHTS, max(_far(a, arms[OWN]) for a in group))
        for name, group in arms.items()
        if name != OWN
    ]


def _far(arm: Arm, own: Sequence[Arm]) -> float:
    """Largest difference of a task's weights from those trained alone, over their largest size."""
    alone = {n: t for a in own for n, t in a.runner.tenants.items()}
    far = 0.0
    for name, tenant in arm.runner.tenants.items():
        theirs = alone[name].graft.tensors()
        for key, value in tenant.graft.tensors().items():
            gap = (value - theirs[key]).abs().max() / theirs[key].abs().max().clamp_min(1e-12)
            far = max(far, float(gap))
    return far


def verdict(rows: Sequence[Row]) -> str:
    """What the rows say, or that parts failed on which it rests."""
    failed = [f"{r.case}: {r.note}" for r in rows if (r.note or "").startswith(FAILED)]
    if failed:
        return f"not testable here: {'; '.join(failed)}"
    return judge(rows)


def judge(rows: Sequence[Row]) -> str:
    """The verdict, from the rows alone."""
    cases = [r.case for r in rows if r.metric == FASTER]
    worse = [c for c in cases if _value(rows, c, PLANNED, FASTER) > SLACK]
    off = max(abs(r.value or 0.0) for r in rows if r.metric == OFF)
    over = [r.case for r in rows if r.metric == OVER and (r.value or 0.0) > 1]
    far = max(r.value or 0.0 for r in rows if "float64" in r.case)
    big = max(cases, key=lambda c: int(c.split()[0]))
    memory = {name: _value(rows, big, name, "memory") for name in (OWN, ALONE, PLANNED, CAPPED)}
    steps = {name: _value(rows, big, name, "step") for name in (ALONE, PLANNED, FAIR)}
    faster, price = steps[ALONE] / steps[PLANNED], steps[FAIR] / steps[PLANNED]
    text = (
        f"{big} on one backbone take {memory[ALONE] / memory[OWN]:.2f} of the memory of copies one at a time, "
        f"{memory[PLANNED] / memory[OWN]:.2f} as planned, {memory[CAPPED] / memory[OWN]:.2f} under a cap; the plan has "
        f"{faster:.2f} times the speed of one at a time, and a fair one takes {price:.2f} times as long; rounds are "
        f"predicted within {off:.0%}; in float64 weights are those of training alone to {far:.1e}"
    )
    if far > 1e-6:
        return f"not seen at this scale: tasks are not kept apart; {text}"
    faults = [f"{c}: {_note(rows, c)} is faster than the plan" for c in worse]
    faults += [f"{c}: the plan is over its cap" for c in over]
    faults += ["the plan takes more memory than copies"] if memory[PLANNED] >= memory[OWN] else []
    close = [c for c in cases if 1 < _value(rows, c, PLANNED, FASTER) <= SLACK]
    text += "".join(
        f"; {c}: {_note(rows, c)} is {_value(rows, c, PLANNED, FASTER) - 1:.1%} faster than the plan, within noise"
        for c in close
    )
    if faults or faster < 1 / SLACK:
        return f"partly: {text}{'; ' if faults else ''}{'; '.join(faults)}"
    return f"seen: {text}; no simple plan is faster by more than {SLACK - 1:.0%}"


def _note(rows: Sequence[Row], case: str) -> str:
    return next(str(r.note) for r in rows if r.case == case and r.metric == FASTER)


def _row(
    case: str, variant: str, metric: str, value: float, unit: str | None = None, note: str | None = None
) -> Row:  # fmt: skip
    return Row(
        case=case, variant=variant, metric=metric, value=float(f"{value:.5g}"), unit=unit, note=note
    )


def _value(rows: Sequence[Row], case: str, variant: str, metric: str) -> float:
    (value,) = [r.value for r in rows if (r.case, r.variant, r.metric) == (case, variant, metric)]
    assert value is not None
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tenants.small")
    for name, default in {
        "layers": 4, "hidden": 128, "rounds": 5, "warmup": 3, "shrink": 1, "threads": 1
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--fairness", type=float, default=0.5)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument(
        "--jobs", type=Path, help="keep finished parts in this file, and do not run them again"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    rows, details = measure(options)
    given = (
        "layers",
        "hidden",
        "rounds",
        "warmup",
        "shrink",
        "threads",
        "fairness",
        "device",
        "dtype",
    )
    words = [f"--{n} {getattr(options, n)}" for n in given]
    words += ["--tasks", *map(str, options.tasks)]
    command = " ".join(["python -m benchmarks.tenants.small", *words])
    record = Record(
        record=f"tenants/{options.out.stem}",
        claim=CLAIM,
        command=command,
        seconds=round(time.perf_counter() - began, 1),
        rows=rows,
        notes=[
            "medians of rounds in processor time, quartiles beside; a step: every task's real tokens, once",
            "memory is counted: backbones, trained state, what the largest pass keeps for backward, logits included",
            "a fit's bounds are the smallest and the largest error of its passes",
            "what a task's loss and optimizer take is told from the rounds of one at a time, which are not predicted",
        ],
        details=details,
        verdict=verdict(rows),
        **environment(options.device),
    )
    for r in rows:
        print(f"{r.case}: {r.variant}: {r.metric}: {r.value} {r.unit or ''}")
    print(record.verdict)
    print(record.write(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
