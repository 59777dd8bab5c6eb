"""The demo's work: train a base, adapt it three ways, and check every promise on the result."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from graftwork.cli.demo_data import SHAPES, shapes
from graftwork.cli.table import size, table

SHOTS = 12  # labelled images of each shape from the new camera
TEST = 1000
Data = tuple[Tensor, Tensor]


def rehearse(seed: int, out: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the whole demonstration on one CPU thread.

    Args:
        seed: of data, start values and training.
        out: folder to keep the adapter in; `None` uses a temporary one.
        say: gets one line per step.

    Returns:
        `rows` (one per way of adapting), `proof` (name -> held), `merge_error`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _rehearse(seed, out, say)
    finally:
        torch.set_num_threads(threads)


def _rehearse(seed: int, out: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    base = _network()
    weights = f"{_count(base.parameters()):,d} parameters"
    say(f"1/3 training the base on 2,000 images of the old camera, {weights}")
    _train(base, base.parameters(), shapes(2000, "old", 10 * seed + 1), steps=160, rate=5e-3)
    few = shapes(SHOTS * len(SHAPES), "new", 10 * seed + 2)
    tests = {c: shapes(TEST, c, 10 * seed + 3) for c in ("old", "new")}

    say(f"2/3 adapting it to the new camera with {len(few[1])} labelled images, three ways")
    rows = [_row("base", base, tests, 0, "")]
    head = copy.deepcopy(base)
    _train(head, head[-1].parameters(), few, steps=60, rate=1e-2)
    rows.append(
        _row("head only", head, tests, _count(head[-1].parameters()), size(_bytes(head[-1])))
    )
    full = copy.deepcopy(base)
    _train(full, full.parameters(), few, steps=60, rate=1e-3)
    rows.append(
        _row("full fine-tuning", full, tests, _count(full.parameters()), size(_bytes(full)))
    )
    model = copy.deepcopy(base)
    graft = gw.graft(model, gw.LoRA(rank=4), seed=seed)
    _train(model, graft.parameters(), few, steps=60, rate=3e-3)

    say("3/3 proving what a graft promises")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(out) if out else Path(scratch) / "graft"
        gw.save(graft, folder)
        stored = sum(f.stat().st_size for f in folder.iterdir())
        proof, error = _prove(base, model, graft, folder, tests["new"][0])
    row = _row("graft (LoRA, rank 4)", model, tests, _count(graft.parameters()), size(stored))
    with graft.off():
        row["old"] = _accuracy(model, tests["old"])
    return {"seed": seed, "rows": [*rows, row], "proof": proof, "merge_error": error, "folder": out}


def _prove(
    base: nn.Module, model: nn.Module, graft: gw.Graft, folder: Path, x: Tensor
) -> tuple[dict[str, bool], float]:
    with torch.no_grad():
        grafted = model(x)
        with graft.off():
            off = torch.equal(model(x), base(x))
        graft.merge()
        error = float((model(x) - grafted).abs().max() / grafted.abs().max())
        graft.unmerge()
        back = all(torch.equal(a, b) for a, b in _pairs(base, model))
        fresh = copy.deepcopy(base)
        gw.load(fresh, folder)
        loaded = torch.equal(fresh(x), grafted)
    proof = {
        "off = base bit for bit": off,
        "merged = forward": error < 1e-5,
        "unmerge restores every bit": back,
        "loaded = saved": loaded,
    }
    return proof, error


def _pairs(a: nn.Module, b: nn.Module) -> Iterable[tuple[Tensor, Tensor]]:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    return ((first[k], second[k]) for k in first)


def report(result: dict[str, Any]) -> str:
    """The table, the proof line and the next step."""
    rows = [
        [
            r["name"],
            f"{100 * r['new']:.1f} %",
            f"{100 * r['old']:.1f} %",
            f"{r['trained']:,d}",
            r["file"],
        ]
        for r in result["rows"]
    ]
    head = ["way", "new camera", "old camera", "trained", "extra file"]
    measured = {"merged = forward": f" to {result['merge_error']:.0e}"}
    proof = "; ".join(
        name + measured.get(name, "") + ("" if held else " FAILED")
        for name, held in result["proof"].items()
    )
    kept = f"adapter folder: {result['folder']}\n" if result["folder"] else ""
    return (
        f"\n{table(head, rows, right=(1, 2, 3, 4))}\n"
        f"(correct of {TEST:,d} test images each; the graft serves the old camera by switching off)\n\n"
        f"proof: {proof}\n{kept}done in {result['seconds']} s; "
        "next: graft a network of your own with gw.graft(model, gw.LoRA(8))"
    )


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.GroupNorm(4, 64),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(64, len(SHAPES)),
    )


def _train(
    model: nn.Module, parameters: Iterable[nn.Parameter], data: Data, steps: int, rate: float
) -> None:
    trained = list(parameters)
    optimizer = torch.optim.AdamW(trained, lr=rate)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    x, y = data
    model.train()
    batches = (torch.randperm(len(y)).split(64) for _ in itertools.count())
    for batch in itertools.islice(itertools.chain.from_iterable(batches), steps):
        loss = F.cross_entropy(model(x[batch]), y[batch])
        grads = torch.autograd.grad(loss, trained)
        for p, g in zip(trained, grads, strict=True):
            p.grad = g
        optimizer.step()
        decay.step()
    model.eval()


def _row(
    name: str, model: nn.Module, tests: dict[str, Data], trained: int, file: str
) -> dict[str, Any]:
    scores = {camera: _accuracy(model, data) for camera, data in tests.items()}
    return {"name": name, **scores, "trained": trained, "file": file}


@torch.no_grad()
def _accuracy(model: nn.Module, data: Data) -> float:
    return float((model(data[0]).argmax(1) == data[1]).float().mean())


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())
