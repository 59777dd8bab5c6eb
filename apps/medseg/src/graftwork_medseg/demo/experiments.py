"""Fix the demo's task on its VALIDATION subjects, then open the test set once.

    python -m graftwork_medseg.demo.experiments --base CHECKPOINT --out runs/task --device cuda

For each arm every setting of `SEARCH` is trained and scored on the validation subjects; the best one is
trained with 3 seeds and scored on the test subjects. Writes the records task.json (every trial) and
full-fine-tuning.json, the record of full fine-tuning that the demo prints beside its own rows.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from graftwork_runs import environment

from ..files import CHECKPOINT, publish
from ..networks.network import load_pretrained
from ..prediction import metrics
from . import sim, task
from .task import LEVEL, GraftPlan
from .train_base import scans

_WHOLE = ("convInit.conv", "*.norm?", "conv_final.0")
PLANS = (
    task.PLAN,
    # The small convolutions at full resolution whole, LoRA below: cheaper, no second convolution there.
    GraftPlan(
        "level 0 whole, LoRA below",
        rank=3,
        sites=LEVEL["1"] + LEVEL["2"],
        overrides={g: {"rank": 1} for g in LEVEL["2"]},
        also_train=(*_WHOLE, *LEVEL["0"]),
    ),
    GraftPlan("level 0 whole, LoRA on 1", rank=4, sites=LEVEL["1"],
              also_train=(*_WHOLE, *LEVEL["0"])),
)  # fmt: skip
SEARCH: dict[str, list[dict[str, Any]]] = {
    "head": [{"head_rate": h} for h in (3e-2, 1e-1)],
    "full": [{"rate": r, "head_rate": h} for r in (4e-3, 8e-3) for h in (3e-2, 1e-1)],
    "graft": [
        {"plan": p, "rate": r, "head_rate": h}
        for p in PLANS
        for r, h in ((1e-2, 3e-2), (1e-2, 1e-1), (2e-2, 1e-1))
    ],
}


def train_arm(
    base: nn.Module,
    arm: str,
    setting: dict[str, Any],
    seed: int,
    data: Any,
    steps: int,
    **patches: Any,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train one arm once; the model and what was measured."""
    model = copy.deepcopy(base)
    setting = dict(setting)
    if arm == "graft":
        plan = GraftPlan(**{**asdict(setting.pop("plan")), "rate": setting.pop("rate")})
        _, groups = task.graft_arm(model, plan, seed, **setting)
    elif arm == "head":
        groups = task.head_arm(model, seed, setting["head_rate"])
    else:
        groups = task.full_arm(model, seed, **setting)
    start = time.perf_counter()
    losses = task.fit(model, groups, *data, seed=seed, steps=steps, **patches)
    return model, {
        "trained": sum(p.numel() for ps, _ in groups for p in ps),
        "seconds": round(time.perf_counter() - start, 1),
        "loss": [round(v, 4) for v in losses[:: max(1, steps // 50)]],
    }


def search(base: nn.Module, arm: str, data: Any, evaluation: Any, steps: int, say: Any) -> Any:
    """Score every setting of an arm on `evaluation`; the best setting and all trials."""
    trials: list[dict[str, Any]] = []
    best: tuple[float, dict[str, Any]] = (-1.0, {})
    for setting in SEARCH[arm]:
        model, measured = train_arm(base, arm, setting, 0, data, steps)
        scores = task.dice(task.predict(model, evaluation[0]), evaluation[1])
        whole = task.dice(task.predict(model, evaluation[0], sim.SHAPE), evaluation[1])
        value = scores.mean().item()
        shown = {k: getattr(v, "name", v) for k, v in setting.items()}
        trials.append({
            "arm": arm, "setting": shown, "dice": round(value, 4),
            "per_class": [round(v, 4) for v in scores.mean(0).tolist()],
            "whole_volume_dice": round(whole.mean().item(), 4), **measured,
        })  # fmt: skip
        say(f"{arm} {shown}: {trials[-1]['dice']} {trials[-1]['per_class']} whole "
            f"{trials[-1]['whole_volume_dice']}, {measured['trained']} trained, "
            f"{measured['seconds']} s")  # fmt: skip
        if value > best[0]:
            best = (value, setting)
    return best[1], trials


def final(base: nn.Module, arm: str, setting: Any, data: Any, test: Any, steps: int) -> Any:
    """Train an arm with each seed and score it on the test set: {seed: [scores of each case]}."""
    out = {}
    for seed in task.SEEDS:
        model, _ = train_arm(base, arm, setting, seed, data, steps)
        out[seed] = score_all(task.predict(model, test[0]), test[1])
    return out


def score_all(masks: Any, labels: Any) -> list[dict[str, metrics.Score]]:
    """Scores of each case of the simulated task."""
    return [
        metrics.score_case(m.cpu().numpy(), t.cpu().numpy(), sim.CLASSES, [sim.SPACING] * 3)
        for m, t in zip(masks, labels, strict=True)
    ]


def rows_of(
    variant: str, by_seed: dict[int, list[dict[str, metrics.Score]]]
) -> list[dict[str, Any]]:
    """Record rows: the mean over seeds of the mean over cases, with the seeds' range."""
    rows = []
    for case in ("mean", *sim.CLASSES[1:]):
        name = None if case == "mean" else case
        for metric, unit in (("dice", None), ("hd95", "mm"), ("nsd", None)):
            values = [metrics.average(cases, name)[metric] for cases in by_seed.values()]
            rows.append({
                "case": case, "variant": variant, "metric": metric,
                "value": round(float(np.mean(values)), 4), "lo": round(min(values), 4),
                "hi": round(max(values), 4), "n": len(values), **({"unit": unit} if unit else {}),
            })  # fmt: skip
    return rows


def task_record(
    trials: list[dict[str, Any]],
    chosen: dict[str, Any],
    test: dict[str, Any],
    common: dict[str, Any],
    details: dict[str, Any],
) -> dict[str, Any]:
    """How the task and the rates were fixed: one row for each trial on the validation subjects."""
    best = {arm: max(t["dice"] for t in trials if t["arm"] == arm) for arm in chosen}
    gap = best.get("full", 0.0) - best.get("head", 0.0)
    return {
        "record": "medseg/task",
        "claim": "on validation subjects full fine-tuning beats the last convolution alone by at "
        "least 0.10 mean Dice",
        **common,
        "seeds": [0],
        "rows": [
            {
                "case": ", ".join(f"{k} {v}" for k, v in t["setting"].items()),
                "variant": t["arm"],
                "metric": "dice",
                "value": t["dice"],
                "n": len(details["subjects"]["validation"]),
            }
            for t in trials
        ],
        "notes": [
            "validation subjects alone; the test set was opened once, for the chosen settings"
        ],
        "details": {**details, "chosen": chosen, "trials": trials, "test": test},
        "verdict": "seen" if gap >= 0.1 else f"not seen at this scale: the gap is {gap:.3f}",
    }


def full_record(
    scores: dict[int, list[dict[str, metrics.Score]]],
    common: dict[str, Any],
    details: dict[str, Any],
) -> dict[str, Any]:
    """Full fine-tuning on the test subjects, with every case's scores: what the demo compares to."""
    return {
        "record": "medseg/full-fine-tuning",
        "claim": "full fine-tuning of the base on the demo's task, the same steps and patches",
        **common,
        "seeds": list(scores),
        "rows": rows_of("full", scores),
        "notes": [
            "lo and hi are the smallest and largest seed",
            "the rates were chosen on the validation subjects",
            "the subjects are simulated",
        ],
        "details": {
            **details,
            "scores": {str(s): [metrics.to_json(c) for c in cases] for s, cases in scores.items()},
        },
        "verdict": "seen",
    }


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record, atomically."""
    with publish(path) as file:
        file.write_text(json.dumps(record, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Search on the validation subjects, train with 3 seeds, score the test set, write."""
    parser = argparse.ArgumentParser(prog="graftwork_medseg.demo.experiments", description=__doc__)
    parser.add_argument("--base", type=Path, default=None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--arms", default="head,full,graft")
    parser.add_argument("--steps", type=int, default=task.STEPS)
    parser.add_argument("--only", type=int, default=None, help="try the first N settings alone")
    args = parser.parse_args(argv)

    def say(text: str) -> None:
        print(text, flush=True)

    begun = time.perf_counter()
    torch.backends.cudnn.allow_tf32 = True
    base_file = args.base or CHECKPOINT
    base = load_pretrained(base_file).model.to(args.device, memory_format=torch.channels_last_3d)
    groups = task.subjects()
    data = scans("b", groups["train"], args.device)
    evaluation = scans("b", groups["validation"], args.device)
    trials: list[dict[str, Any]] = []
    chosen = {}
    for arm in args.arms.split(","):
        SEARCH[arm] = SEARCH[arm][: args.only]
        chosen[arm], done = search(base, arm, data, evaluation, args.steps, say)
        trials += done
    shown = {arm: {k: getattr(v, "name", v) for k, v in s.items()} for arm, s in chosen.items()}
    say(f"chosen on the validation subjects: {json.dumps(shown)}; now the test set")
    test = scans("b", groups["test"], args.device)
    finals = {arm: final(base, arm, chosen[arm], data, test, args.steps) for arm in chosen}
    rows = {arm: rows_of(arm, by_seed) for arm, by_seed in finals.items()}
    for arm in finals:
        say(f"test, {arm}: {[(r['case'], r['metric'], r['value']) for r in rows[arm]]}")
    common = {
        "command": f"python -m graftwork_medseg.demo.experiments --out OUT --device {args.device} "
        f"--steps {args.steps}",
        **{k: v for k, v in environment(args.device).items() if v is not None},
        "seconds": round(time.perf_counter() - begun, 1),
        "data": {CHECKPOINT.name: hashlib.sha256(Path(base_file).read_bytes()).hexdigest()},
    }
    details = {"steps": args.steps, "subjects": groups}
    write(args.out / "task.json", task_record(trials, shown, rows, common, details))
    if "full" in finals:
        details["setting"] = shown["full"]
        write(args.out / "full-fine-tuning.json", full_record(finals["full"], common, details))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
