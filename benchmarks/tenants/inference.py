"""A batch of 64 rows under 1, 8 and 64 adapters; a thousand adapters in store, visited at random."""

from __future__ import annotations

import argparse
import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.speed.llama import LINEARS, twin
from benchmarks.timing import median_row, take_turns
from graftwork.tenants import Mix, Segments, Shelf
from graftwork_runs import Row

BASE, ONE = "base", "graftwork, one graft"
SHELF, MIXED = "shelf, {} adapters", "mixed, {} grafts"
DISTINCT = (1, 8, 64)
RANK = 16
NOTES = [
    "shelf: adapters in stacked tensors; the gather of factors for each batch is in the time.",
    "mixed: grafts on the model, rows sorted by graft.",
    "decoding: a cache of the prompt's tokens, then so many tokens at a time in one block; the time is a token's.",
    "resident: each batch has rows under adapters drawn at random from all in store.",
]
Base = Callable[[], nn.Module]


def store(model: nn.Module, count: int, seed: int = 0) -> Shelf:
    """A shelf of `count` adapters with random factors."""
    shelf = Shelf(model, gw.LoRA(RANK), sites=[f"*.{n}" for n in LINEARS], capacity=count)
    device = next(model.parameters()).device
    draw = torch.Generator(device).manual_seed(seed)
    for i in range(count):
        tensors: dict[str, Tensor] = {}
        for site, place in shelf.places.items():
            for leaf, shape in (("A", place.a.shape[1:]), ("B", place.b.shape[1:])):
                t = torch.randn(shape, generator=draw, device=device, dtype=place.dtype)
                tensors[f"{site}.{leaf}"] = 0.01 * t
        shelf.add(f"t{i}", tensors, gw.LoRA(RANK))
    return shelf


def prefill(model: Any, ids: Tensor) -> Callable[[], object]:
    """One forward pass of a batch of prompts."""

    def run() -> None:
        model(input_ids=ids, use_cache=False, logits_to_keep=1)

    return run


def decoding(model: Any, ids: Tensor, tokens: int) -> Callable[[], object]:
    """Tokens one at a time behind a prompt; the cache is cut back to the prompt afterwards."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    length = ids.shape[1]

    def run() -> None:
        word = ids[:, -1:]
        for n in range(tokens):
            place = torch.full((1, 1), length + n, device=ids.device)
            out = model(input_ids=word, position_ids=place, past_key_values=cache, use_cache=True)
            word = out.logits[:, -1:].argmax(-1)
        cache.crop(-tokens)

    return run


def sides(base: Base, options: argparse.Namespace) -> dict[str, tuple[Any, Callable[[], Any]]]:
    """By name, a model and what makes the block that its batch runs in, with another choice of adapters each time."""
    pick = random.Random(0)
    most = max(options.distinct)
    plain, single, shelved, grafted = (twin(base()).eval() for _ in range(4))
    sites = [f"*.{n}" for n in LINEARS]
    gw.graft(single, gw.LoRA(RANK), sites=sites, seed=0)
    shelf = store(shelved, most)
    for i in range(most):
        gw.graft(grafted, gw.LoRA(RANK), sites=sites, name=f"t{i}", seed=i)
    out: dict[str, Any] = {
        BASE: (plain, contextlib.nullcontext),
        ONE: (single, contextlib.nullcontext),
    }

    mix = Mix(grafted)

    def chosen(count: int) -> list[str]:
        names = pick.sample([f"t{i}" for i in range(most)], count)
        return sorted(names[i % count] for i in range(options.rows))

    def on_shelf(count: int) -> Callable[[], Any]:
        def block() -> Any:
            names = chosen(count)
            pick.shuffle(names)
            return shelf.rows(names)

        return block

    def in_mix(count: int) -> Callable[[], Any]:
        return lambda: mix.on(Segments.per_row(chosen(count)))

    for count in options.distinct:
        out[SHELF.format(count)] = (shelved, on_shelf(count))
        out[MIXED.format(count)] = (grafted, in_mix(count))
    return out


def batch(base: Base, options: argparse.Namespace) -> Iterator[list[Row]]:
    """Prefill and decoding of a batch under few and many adapters."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(options.vocabulary, (options.rows, options.prompt), generator=draw)
    ids = ids.to(options.device)
    made = sides(base, options)
    kinds = {
        f"inference: prefill, {options.rows} x {options.prompt}": (prefill, 1),
        f"inference: decoding, {options.rows} rows": (
            lambda model, x: decoding(model, x, options.decode),
            options.decode,
        ),
    }
    for case, (kind, each) in kinds.items():
        calls = {name: _inside(kind(model, ids), block) for name, (model, block) in made.items()}
        with torch.no_grad():
            seconds = take_turns(
                calls, rounds=options.rounds, warmup=2, clock=clock_of(options.device)
            )
        rows = []
        for name, times in seconds.items():
            rows.append(median_row(case, name, "step", [1000 * s / each for s in times], "ms"))
            for word, other in (
                ("one adapter", SHELF.format(min(options.distinct))),
                ("base", BASE),
            ):
                pairs = zip(times, seconds[other], strict=True)
                if name != other:
                    rows.append(
                        median_row(case, name, f"ratio to {word}", [a / b for a, b in pairs])
                    )
        yield rows


def _inside(call: Callable[[], object], block: Callable[[], Any]) -> Callable[[], object]:
    def run() -> None:
        with block():
            call()

    return run


def clock_of(device: str) -> Callable[[], float]:
    """A clock that waits for the device."""
    if not device.startswith("cuda"):
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return now


def resident(base: Base, options: argparse.Namespace) -> list[Row]:
    """Random visits: speed at the begin and at the end, memory, and what was compiled for it."""
    cuda = options.device.startswith("cuda")
    held = torch.cuda.memory_allocated if cuda else lambda: 0
    model = twin(base()).eval()
    before = held()
    shelf = store(model, options.resident)
    stored = held() - before
    case = f"inference: {options.resident} adapters, {options.visits} batches of {options.rows}"
    draw, pick = torch.Generator().manual_seed(1), random.Random(1)
    ids = torch.randint(options.vocabulary, (options.rows, options.visit_tokens), generator=draw)
    run = prefill(model, ids.to(options.device))
    clock = clock_of(options.device)

    def visit() -> float:
        names = [f"t{pick.randrange(options.resident)}" for _ in range(options.rows)]
        begun = clock()
        with torch.no_grad(), shelf.rows(names):
            run()
        return clock() - begun

    for _ in range(3):
        visit()
    after = held()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = [visit() for _ in range(options.visits)]
    tenth = max(2, options.visits // 10)
    rows = [
        median_row(
            case, SHELF.format("random"), f"{word}, ms a batch", [1000 * t for t in some], "ms"
        )
        for word, some in (
            ("first tenth", times[:tenth]),
            ("last tenth", times[-tenth:]),
            ("all", times),
        )
    ]
    speed = options.rows * options.visit_tokens * len(times) / sum(times)
    found: dict[str, float] = {
        "tokens per second": float(f"{speed:.5g}"),
        "compiled anew": compiled_anew(model, shelf, ids.to(options.device), options),
    }
    if cuda:
        gib = 2**30
        found |= {
            "store, GiB": round(stored / gib, 3),
            "growth, GiB": round((held() - after) / gib, 4),
            "peak, GiB": round(torch.cuda.max_memory_allocated() / gib, 3),
        }
    rows += [
        Row(case=case, variant=SHELF.format("random"), metric=k, value=v) for k, v in found.items()
    ]
    return rows


def compiled_anew(model: Any, shelf: Shelf, ids: Tensor, options: argparse.Namespace) -> int:
    """Graphs that a compiled model needs for other mixes, after its first batch."""
    counted: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        counted.append(1)
        return graph

    torch._dynamo.reset()
    compiled: Any = torch.compile(model, backend=backend)
    pick, first = random.Random(2), 0
    for turn in range(options.compiled_visits):
        names = [pick.choice(shelf.names) for _ in range(options.rows)]
        with torch.no_grad(), shelf.rows(names):
            compiled(input_ids=ids, use_cache=False, logits_to_keep=1)
        first = first or len(counted)
        if turn == 0 and not first:
            raise RuntimeError("nothing was compiled")
    torch._dynamo.reset()
    return len(counted) - first
