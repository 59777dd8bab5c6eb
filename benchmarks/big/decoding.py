"""Tokens one at a time from an unmerged graft, over the base's time; and what a hot swap compiles.

Base, ours and peft share every frozen tensor. The sides take turns: each figure is the mean time of `tokens` steps of
a loop with a key-value cache, after a prompt; a ratio is taken within a round.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import graftwork as gw
from benchmarks.big.model import RANK, Meter, Size, decoder, ours, peft
from benchmarks.speed.llama import LINEARS, twin
from benchmarks.timing import median_row, take_turns
from graftwork_runs import Row

BASE, OURS, PLAIN, PEFT = "base", "graftwork, serving", "graftwork", "peft"
PROMPT = 128
#: a step's function, and the block in which it runs
Side = tuple[Any, Callable[[], Any]]


def sides(size: Size, device: str) -> dict[str, Side]:
    """The models by name, on the same frozen tensors."""
    base = decoder(size, device)
    grafted, wrapped = twin(base), twin(base)
    ours(grafted)
    out: dict[str, Side] = {
        BASE: (base, contextlib.nullcontext),
        OURS: (grafted, lambda: gw.serving(grafted)),
        PLAIN: (grafted, contextlib.nullcontext),
    }
    with contextlib.suppress(ImportError):
        out[PEFT] = (peft(wrapped).base_model.model, contextlib.nullcontext)
    return out


def loop(model: Any, ids: torch.Tensor, tokens: int) -> Callable[[], object]:
    """Greedy decoding of `tokens` after the prompt, in a plain loop; the prompt is not timed by its caller's clock."""
    from transformers import DynamicCache

    def run() -> float:
        cache = DynamicCache(config=model.config)
        at = ids.shape[1]
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        word = out.logits[:, -1:].argmax(-1)
        begun = _now(ids)
        for n in range(tokens):
            place = torch.tensor([[at + n]], device=ids.device)
            out = model(input_ids=word, position_ids=place, past_key_values=cache, use_cache=True)
            word = out.logits[:, -1:].argmax(-1)
        return _now(ids) - begun

    return run


def generate(model: Any, ids: torch.Tensor, tokens: int) -> Callable[[], object]:
    """The same by transformers' `generate`, prompt included."""

    def run() -> float:
        begun = _now(ids)
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
            min_new_tokens=tokens, max_new_tokens=tokens,
        )  # fmt: skip
        return _now(ids) - begun

    return run


def static(model: Any, ids: torch.Tensor, tokens: int, backend: str) -> Callable[[], object]:
    """A compiled step on a cache of fixed size; on a GPU as one recorded graph."""
    from transformers import StaticCache

    def forward(word: torch.Tensor, place: torch.Tensor, cache: Any) -> torch.Tensor:
        out = model(input_ids=word, position_ids=place, past_key_values=cache, use_cache=True)
        return out.logits[:, -1:].argmax(-1)

    mode = {"mode": "reduce-overhead"} if ids.is_cuda and backend == "inductor" else {}
    step = torch.compile(forward, backend=backend, dynamic=False, **mode)
    cache = StaticCache(config=model.config, max_cache_len=ids.shape[1] + tokens + 8)

    def run() -> float:
        cache.reset()
        at = ids.shape[1]
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        word = out.logits[:, -1:].argmax(-1)
        place = torch.tensor([[at]], device=ids.device)
        begun = _now(ids)
        for _ in range(tokens):
            torch.compiler.cudagraph_mark_step_begin()
            word = step(word, place, cache).clone()
            place += 1
        return _now(ids) - begun

    return run


def recorded(model: Any, ids: torch.Tensor, tokens: int) -> Callable[[], object]:
    """The same loop on a cache of fixed size, a token's step one recorded graph; on a CPU the step as it is.

    The graph is recorded anew for each figure, outside its time: what `graftwork.serving` keeps ends with its block.
    """
    from transformers import StaticCache

    cache = StaticCache(config=model.config, max_cache_len=ids.shape[1] + tokens + 8)
    word, place = (torch.zeros(1, 1, dtype=torch.long, device=ids.device) for _ in range(2))

    def start() -> None:
        cache.reset()
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        word.copy_(out.logits[:, -1:].argmax(-1))
        place.fill_(ids.shape[1])

    def token() -> None:
        out = model(input_ids=word, position_ids=place, past_key_values=cache, use_cache=True)
        word.copy_(out.logits[:, -1:].argmax(-1))
        place.add_(1)

    def run() -> float:
        start()
        step, graph = token, None
        if ids.is_cuda:
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(3):
                    token()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                token()
            step = graph.replay
            start()
        begun = _now(ids)
        for _ in range(tokens):
            step()
        return _now(ids) - begun

    return run


FORMS = {"loop": loop, "generate": generate, "recorded loop": recorded}


def measure(
    size: Size,
    device: str,
    *,
    tokens: int,
    rounds: int,
    compiled: bool,
    backend: str = "inductor",
    minutes: float = math.inf,
    chosen: Sequence[str] = (),
) -> list[Row]:
    """Milliseconds a token and the ratio to the base's, eager (two forms) and recorded, or compiled.

    After `minutes` no further side is compiled; those that are ready are measured. `chosen`: forms by name, of those
    that are not compiled; empty: all.
    """
    if device == "cuda" and compiled:
        # products with one row become sums that fuse with what surrounds them, for every side
        torch._inductor.config.coordinate_descent_tuning = True
    ids = prompt(size, device)
    rows: list[Row] = []
    made = sides(size, device)
    eager = {name: form for name, form in FORMS.items() if not chosen or name in chosen}
    forms = {"compiled loop": None} if compiled else eager
    until = time.perf_counter() + 60 * minutes
    for form, build in forms.items():
        case = f"decoding, {form}"
        runs: dict[str, Callable[[], Any]] = {}
        for name, (model, block) in made.items():
            if compiled and name == OURS:
                continue  # a compiled step is the same inside the block
            step = (
                static(model, ids, tokens, backend) if build is None else build(model, ids, tokens)
            )
            try:
                if time.perf_counter() > until:
                    raise TimeoutError(f"not begun after {minutes:g} minutes")
                with torch.no_grad(), block():
                    begun = time.perf_counter()
                    step()
                    step()
            except Exception as error:  # a compiler's errors are of many kinds; the others go on
                note = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                rows.append(Row(case=case, variant=name, metric="token", value=None, note=note))
                print(f"{case}: {name}: {note}", flush=True)
                continue
            print(f"{case}: {name}: ready in {time.perf_counter() - begun:.1f} s", flush=True)
            runs[name] = _inside(step, block)
        rows += _rows(case, runs, tokens, rounds)
    return rows


def _inside(step: Callable[[], Any], block: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad(), block():
            return step()

    return run


def _rows(case: str, runs: dict[str, Callable[[], Any]], tokens: int, rounds: int) -> list[Row]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}

    def noted(name: str) -> Callable[[], None]:
        return lambda: seconds[name].append(runs[name]())

    take_turns({name: noted(name) for name in runs}, rounds=rounds, warmup=0)
    rows = []
    for name, values in seconds.items():
        each = [1000 * s / tokens for s in values]
        rows.append(median_row(case, name, "token", each, "ms"))
        if name != BASE and BASE in seconds:
            ratios = [a / b for a, b in zip(values, seconds[BASE], strict=True)]
            rows.append(median_row(case, name, "ratio to base", ratios))
    for r in rows:
        print(f"{r.case}: {r.variant}: {r.metric} {r.value} ({r.lo} to {r.hi})", flush=True)
    return rows


def swaps(size: Size, device: str, backend: str = "inductor") -> list[Row]:
    """How many times a compiled forward pass is compiled anew by switching among three adapters, and the switch's time.

    Every adapter is first seen after compilation: what counts is the first switch to it as well as the later ones.
    """
    meter = Meter("hot swap", device == "cuda")
    base = decoder(size, device)
    ids = prompt(size, device)[:, :16]
    grafted, wrapped = twin(base), twin(base)
    for n, name in enumerate("abc"):
        ours(grafted, name, seed=n)
    _swap(meter, "graftwork", grafted, lambda name: gw.activate(grafted, name), ids, backend)
    with contextlib.suppress(ImportError):
        import peft as theirs

        config = theirs.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LINEARS)
        model = theirs.get_peft_model(wrapped, config, adapter_name="a")
        for name in "bc":
            model.add_adapter(name, config)
        model.eval()
        _swap(meter, "peft", model.base_model.model, model.set_adapter, ids, backend)
    return meter.rows


def _swap(
    meter: Meter, side: str, model: nn.Module, switch: Callable[[str], Any], ids: Any, backend: str
) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, dynamic=False)
    with torch.no_grad():
        switch("a")
        compiled(input_ids=ids, use_cache=False)
        first = graphs()
        spent = []
        for name in "bcabc":
            begun = time.perf_counter()
            switch(name)
            spent.append(time.perf_counter() - begun)
            compiled(input_ids=ids, use_cache=False)
    meter.add(side, "recompilations", graphs() - first)
    meter.add(side, "switch", 1000 * sorted(spent)[len(spent) // 2], "ms")


def graphs() -> int:
    """How many graphs the compiler has made in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def prompt(size: Size, device: str) -> torch.Tensor:
    """Token ids (1, PROMPT) that a seed gives."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(size.vocabulary, (1, PROMPT), generator=draw).to(device)


def _now(t: torch.Tensor) -> float:
    if t.is_cuda:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()
