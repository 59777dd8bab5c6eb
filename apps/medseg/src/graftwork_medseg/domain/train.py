"""Train a domain base: a checkpoint of a field, ready to be grafted.

    python -m graftwork_medseg.domain.train openkbp-swin --data FOLDER --out base.safetensors --minutes 9

FOLDER is what `python data_cards/prepare.py SET` writes (openkbp or synthseg). Volumes stay on the device and
patches are cut, turned and shaded there. With --minutes the rate follows the clock and training ends in time,
reading included; scoring comes after (about a minute). Ctrl-C writes a checkpoint beside --out and
ends with exit code 130; the same command with --resume goes on. Writes the network at half precision with its
classes and preprocessing, a record (.json) with Dice, HD95 and NSD on patients that were kept out, and
a card (.md).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork_runs import environment

from ..fewshot.protocol import TASKS
from ..files import publish
from ..losses import dice_ce
from ..networks.network import build, save_weights
from ..prediction.metrics import average
from ..prediction.window import Windows
from .batches import Batch, OpenKBP, Predict, Scored, SynthHippocampus
from .card import card
from .plans import PLANS, Plan, plan_of
from .trainer import Budget, Cosine, Mode, Run, fit

OVERLAP = 0.5
WANTED = 0.6  # mean Dice under which a base is not worth grafting
METRICS = (("dice", None), ("hd95", "mm"), ("nsd", None))


def options() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="graftwork_medseg.domain.train", description=__doc__)
    parser.add_argument("plan", metavar="PLAN", help=", ".join(PLANS))
    parser.add_argument(
        "--data", type=Path, required=True, help="prepared folder of the plan's set"
    )
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, help="end training in time")
    parser.add_argument("--steps", type=int, help="instead of --minutes: this many steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, help="patches a step; default: the plan's")
    parser.add_argument("--rate", type=float, help="peak rate; default: the plan's")
    parser.add_argument("--limit", type=int, help="read the first so many cases of each group")
    parser.add_argument("--patch", type=int, nargs=3, help="voxels; default: the plan's")
    parser.add_argument("--threads", type=int, default=8, help="that read files")
    parser.add_argument(
        "--real", type=Path, help="synth-hippocampus: measured volumes to score (never trained on)"
    )
    parser.add_argument("--resume", action="store_true", help="go on after an interruption")
    return parser


def open_data(plan: Plan, args: argparse.Namespace) -> OpenKBP | SynthHippocampus:
    """Read what the plan trains on."""
    if plan.data == "openkbp":
        return OpenKBP(plan, args.data, args.device, args.limit, args.threads)
    names = None
    if args.real is not None:
        # The few-shot protocol's test cases: what these figures are compared with.
        names = TASKS["hippocampus"].split(args.real)["test"]
    return SynthHippocampus(plan, args.data, args.device, args.limit, args.real, names)


def predictor(model: nn.Module, plan: Plan, device: str) -> Predict:
    """Class scores of a whole image, by Gaussian-weighted sliding windows with half overlap."""
    windows = Windows(plan.patch, OVERLAP, batch=4)
    model.eval()

    @torch.inference_mode()
    def predict(image: Tensor) -> Tensor:
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
            return windows.scores(model, image[0], device)[None]

    return predict


def rows_of(scored: Scored) -> list[dict[str, Any]]:
    """Record rows of a group: the mean over cases, with the quartiles as bounds."""
    rows = []
    for organ in scored.empty:
        cases = [{organ: case[organ]} for case in scored.cases if organ in case]
        out, bad = scored.unannotated[organ], scored.empty[organ]
        left = f"{out} cases without annotation and {bad} with an empty mask left out"
        for metric, unit in METRICS:
            row: dict[str, Any] = {
                "case": f"{scored.group} {organ}", "variant": "base", "metric": metric,
                "value": None, "n": len(cases), "note": left,
            }  # fmt: skip
            if cases:
                low, high = np.percentile([getattr(c[organ], metric) for c in cases], [25, 75])
                row |= {
                    "value": round(average(cases)[metric], 4),
                    "lo": round(float(low), 4),
                    "hi": round(float(high), 4),
                }
            else:
                row["note"] = f"no case to score: {left}"
            rows.append(row | ({"unit": unit} if unit else {}))
    return rows


def verdict_of(rows: list[dict[str, Any]]) -> str:
    """Whether the claim of `write` was seen: the mean Dice over the organs of the last group."""
    group = rows[-1]["case"].rsplit(" ", 1)[0]
    values = [
        r["value"]
        for r in rows
        if r["metric"] == "dice" and r["value"] is not None and r["case"].startswith(f"{group} ")
    ]
    mean = float(np.mean(values)) if values else 0.0
    return "seen" if mean >= WANTED else f"not seen at this scale: {mean:.3f} on {group}"


def train(
    plan: Plan, data: OpenKBP | SynthHippocampus, args: argparse.Namespace, say: Any, begun: float
) -> Run | None:
    """Train; None when Ctrl-C stopped it, with the checkpoint written."""
    mode = Mode(channels_last=plan.channels_last, deterministic=args.device == "cpu")
    torch.manual_seed(args.seed)
    model = mode.apply(build(plan.network), args.device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=args.rate or plan.rate,
        weight_decay=plan.weight_decay,
        fused=args.device != "cpu",
    )
    timed = args.minutes is not None
    budget = Budget(
        steps=None if timed else args.steps or plan.steps,
        seconds=60 * args.minutes if timed else None,
    )
    settings = {
        "plan": plan.name, "seed": args.seed, "batch": args.batch or plan.batch,
        "rate": args.rate or plan.rate, "limit": args.limit, "patch": list(plan.patch),
        "minutes": args.minutes, "steps": budget.steps,
    }  # fmt: skip
    run = Run(model, optimizer, budget, average=plan.average, seconds=time.perf_counter() - begun)
    checkpoint = resume_file(args.out)
    if args.resume:
        run.load(checkpoint, settings)
        say(f"resumed at step {run.step}")
    schedule = Cosine(optimizer)
    schedule(run.step, budget.done(run.step, run.seconds))
    layout = torch.channels_last_3d if plan.channels_last else torch.contiguous_format

    def draw(step: int) -> Batch:
        x, y, known = data.draw(args.seed, step, settings["batch"])
        return x.contiguous(memory_format=layout), y, known

    def loss_of(network: nn.Module, batch: Batch) -> Tensor:
        return dice_ce(network(batch[0]), batch[1], batch[2])

    done = fit(run, draw, loss_of, schedule, checkpoint=checkpoint, settings=settings, say=say)
    torch.use_deterministic_algorithms(False)
    return run if done else None


def resume_file(out: Path) -> Path:
    """Where the checkpoint of an unfinished training lies."""
    return out.with_name(out.name + ".resume.pt")


def narrow(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Index tables as int16 where they fit: Swin's are half of its file, and loading widens them again."""
    return {
        name: t.to(torch.int16) if t.dtype == torch.int64 and t.abs().max() < 2**15 else t
        for name, t in tensors.items()
    }


def write(
    plan: Plan, run: Run, data: Any, scored: list[Scored], args: argparse.Namespace, say: Any
) -> dict[str, Any]:
    """Write the weights, the record and the card; the record."""
    model, contract = run.result(), plan.contract(data.ranges())
    target = save_weights(
        narrow(model.state_dict()), args.out, config=plan.network, classes=plan.classes, dtype=torch.float16,
        plan=plan.name, contract=contract,
    )  # fmt: skip
    rows = [row for group in scored for row in rows_of(group)]
    budget = f"--minutes {args.minutes:g}" if args.minutes else f"--steps {run.step}"
    record = {
        "record": f"medseg/{args.out.stem}",
        "claim": f"{plan.name} ({plan.summary}) reaches a mean Dice of {WANTED} on cases kept out",
        "command": f"python -m graftwork_medseg.domain.train {plan.name} --data FOLDER --out "
        f"{args.out.name} --device {args.device} {budget} --seed {args.seed} "
        f"--batch {args.batch or plan.batch} --rate {args.rate or plan.rate:g}",
        **{k: v for k, v in environment(args.device).items() if v is not None},
        "seeds": [args.seed],
        "seconds": round(run.seconds, 1),
        "data": {
            target.name: hashlib.sha256(target.read_bytes()).hexdigest(),
            **data.content(),
        },
        "rows": rows,
        "notes": ["value: mean over cases; lo, hi: quartiles of the cases",
                  "weights are the moving average, rounded to half precision before scoring"],
        "details": {
            "plan": plan.name, "network": {"name": plan.network.name, "args": plan.network.args},
            "classes": list(plan.classes), "contract": contract.to_json(),
            "patch": list(plan.patch), "tolerance_mm": plan.tolerance_mm, "steps": run.step, "limit": args.limit,
            "parameters": sum(p.numel() for p in model.parameters()),
            "bytes": target.stat().st_size,
            "curve": [[s, round(v, 4)] for s, v in run.curve[:: max(1, len(run.curve) // 200)]],
        },
        "verdict": verdict_of(rows),
    }  # fmt: skip
    for suffix, text in ((".json", json.dumps(record, indent=1) + "\n"), (".md", card(record))):
        with publish(args.out.with_suffix(suffix)) as file:
            file.write_text(text, encoding="utf-8")
    say(f"wrote {target}, {target.stat().st_size / 1e6:.1f} MB")
    return record


def run_plan(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Read, train, score, write; 130 when interrupted."""
    begun = time.perf_counter()
    plan = plan_of(args.plan)
    if args.patch:
        plan = replace(plan, patch=tuple(args.patch))
    if args.minutes is not None and args.steps is not None:
        raise GraftError("--minutes and --steps: give one of the two")
    for name in ("minutes", "steps", "batch", "rate", "limit"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise GraftError(f"--{name} {value} must be positive")
    if args.real is not None and plan.data != "synthseg":
        raise GraftError(f"--real: {plan.name} has no measured set of its own to score")
    say(f"{plan.name} on {args.device}")
    data = open_data(plan, args)
    say(f"read {data.summary()} in {time.perf_counter() - begun:.0f} s")
    run = train(plan, data, args, say, begun)
    if run is None:
        say(f"stopped; the same command with --resume goes on from {resume_file(args.out)}")
        return 130
    say(f"trained {run.step} steps in {run.seconds:.0f} s; scoring")
    model = run.result()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.half().float())
    scored = []
    for group in data.score(predictor(model, plan, args.device)):
        scored.append(group)
        for row in rows_of(group):
            if row["metric"] == "dice":
                shown = "-" if row["value"] is None else f"{row['value']:.3f}"
                say(f"{row['case']}: Dice {shown}, {row['n']} cases; {row['note']}")
    write(plan, run, data, scored, args, say)
    resume_file(args.out).unlink(missing_ok=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    args = options().parse_args(argv)
    try:
        return run_plan(args, lambda text: print(text, flush=True))
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
