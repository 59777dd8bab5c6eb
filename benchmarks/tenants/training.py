"""A training step of n tasks of 1 x 512 tokens: in one pass, one after another, over one frozen batch of n x 512."""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import fnmatch
import functools
import gc
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.speed.llama import LINEARS, peft, twin, variants
from benchmarks.speed.measure import FLOOR, Build, Case, Step, Turns, measure
from graftwork.tenants import Recordings, Runner, Task
from graftwork.tenants.recorded import FIRST
from graftwork_runs import Row

OURS = "graftwork, all tasks in one pass"
UNEQUAL = f"{OURS}, ranks 4 to 32"
DROPOUT = f"{OURS}, dropout 0.05"
MIXED = f"{OURS}, LoRA, IA3 and DoRA"
#: ends the name of a row whose passes are replayed
REPLAYED = ", recorded"
RECORDED = "graftwork" + REPLAYED
TURNS = "graftwork, one after another"
PEFT = "peft, one after another"
COMPILED = "peft compiled, one after another"
#: rows that are measured for one number of tasks alone
EXTRA = (UNEQUAL, DROPOUT, MIXED, UNEQUAL + REPLAYED, DROPOUT + REPLAYED)
HELD = "graphs' memory"
RATIO = "ratio to floor"
NOTES = [
    "floor: forward and backward pass of one frozen batch of all tasks' rows, to its input, without an optimizer.",
    "All other rows are whole steps of all tasks: passes, and a fused AdamW step of every task.",
    "graftwork in one pass also checks every loss and gradient norm for being finite, once a round.",
    "recorded: the backbone's passes are replayed as CUDA graphs, all else is as it is.",
    "The peak of a recorded row leaves out the graphs' memory, which has a figure of its own.",
    "peft compiled: one adapter's compiled step, as often as there are tasks; that nothing is switched flatters it.",
    "adapters and mLoRA are not among the rows.",
    "LoRA of rank 16 on all seven linears of a block, adapters in float32 on a bf16 base.",
    "The loss is a mean square of the last hidden state.",
]
Base = Callable[[], nn.Module]


def loss(hidden: Tensor, target: Any = None) -> Tensor:
    """A mean square, as the floor has it."""
    return hidden.float().square().mean()


def methods(name: str) -> list[Any]:
    """The tasks' methods, to be gone through again and again."""
    name = name.removesuffix(REPLAYED)
    if name == UNEQUAL:
        return [gw.LoRA(r) for r in (4, 8, 16, 32)]
    if name == DROPOUT:
        return [gw.LoRA(16, dropout=0.05)]
    if name == MIXED:
        return [gw.LoRA(16), gw.IA3(), gw.LoRA(16), gw.DoRA(16)]
    return [gw.LoRA(16)]


def inputs(tasks: int, options: argparse.Namespace) -> list[Tensor]:
    """One batch of 1 x tokens for each task."""
    draw = torch.Generator().manual_seed(0)
    dtype = getattr(torch, options.dtype)
    shape = (1, options.tokens, options.hidden)
    return [torch.randn(shape, generator=draw).to(options.device, dtype) for _ in range(tasks)]


def adamw(graft: gw.Graft) -> torch.optim.Optimizer:
    """The optimizer of every row."""
    return torch.optim.AdamW(graft.parameters(), lr=1e-4, fused=True)


def hidden_states(model: Any, x: Tensor) -> Tensor:
    """The decoder's last hidden state; the input asks for its gradient, as the floor's does."""
    out: Tensor = model.model(inputs_embeds=x.detach().requires_grad_()).last_hidden_state
    return out


def recordings() -> Recordings:
    """What replays the passes of recorded rows."""
    return Recordings(tell=lambda _: None)


def together(base: Base, tasks: int, name: str, options: argparse.Namespace) -> Step:
    """One round of a runner; of a recorded row, a pass that is not replayed raises."""
    cycle = itertools.cycle(methods(name))
    recorded = recordings() if name.endswith(REPLAYED) else None
    runner = Runner(
        twin(base()).train(),
        [
            Task(
                f"t{i}",
                itertools.repeat((x, x[:, :1, 0])),
                loss,
                next(cycle),
                sites=[f"*.{n}" for n in LINEARS],
                optimizer=adamw,
                seed=i,
                any_rank=True,  # a rehearsal's layers are narrow
            )
            for i, x in enumerate(inputs(tasks, options))
        ],
        body=hidden_states,
        check=False,
        record=recorded or False,
    )

    def step() -> None:
        faults = {n: o.fault for n, o in runner.round().items() if o.fault}
        if faults:
            raise RuntimeError(f"a task failed: {faults}")
        plain = [] if recorded is None else [why for why in recorded.plain if why != FIRST]
        if plain:
            raise RuntimeError(f"a pass is not recorded: {plain[0]}")

    step.recordings = recorded  # type: ignore[attr-defined]
    return step


def in_turns(base: Base, tasks: int, options: argparse.Namespace) -> Step:
    """Our grafts, switched on one after another."""
    model = twin(base()).train()
    sites = [f"*.{n}" for n in LINEARS]
    grafts = [gw.graft(model, gw.LoRA(16), sites=sites, name=f"t{i}", seed=i) for i in range(tasks)]
    pairs = [(g.name, adamw(g), x) for g, x in zip(grafts, inputs(tasks, options), strict=True)]

    def step() -> None:
        for name, optimizer, x in pairs:
            gw.activate(model, name)
            loss(hidden_states(model, x)).backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def peft_in_turns(base: Base, tasks: int, options: argparse.Namespace) -> Step:
    """peft's adapters on one base, switched on one after another."""
    import peft as theirs

    config = theirs.LoraConfig(r=16, lora_alpha=16, target_modules=LINEARS)
    wrapped: Any = theirs.get_peft_model(twin(base()).train(), config, adapter_name="t0")
    for i in range(1, tasks):
        wrapped.add_adapter(f"t{i}", config)
    pairs = []
    for i, x in enumerate(inputs(tasks, options)):
        wrapped.set_adapter(f"t{i}")
        trained = [p for p in wrapped.parameters() if p.requires_grad]
        pairs.append((f"t{i}", torch.optim.AdamW(trained, lr=1e-4, fused=True), x))

    def step() -> None:
        for name, optimizer, x in pairs:
            wrapped.set_adapter(name)
            loss(hidden_states(wrapped.base_model.model, x)).backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def peft_compiled(base: Base, tasks: int, options: argparse.Namespace) -> Step:
    """One peft adapter, compiled; its step as often as there are tasks."""
    model, trained = peft(16)(twin(base()).train())
    optimizer = torch.optim.AdamW(list(trained), lr=1e-4, fused=True)
    called: Any = torch.compile(model.model, backend=options.backend)  # type: ignore[arg-type]
    batches = inputs(tasks, options)

    def step() -> None:
        for x in batches:
            leaf = x.detach().requires_grad_()
            loss(called(inputs_embeds=leaf).last_hidden_state).backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def rows_of(tasks: int, options: argparse.Namespace) -> list[str]:
    """The rows for a number of tasks."""
    rows = [OURS, RECORDED, TURNS, PEFT]
    if tasks == options.extra:
        rows += [*EXTRA, *([COMPILED] if options.backend != "none" else [])]
    return [r for r in rows if any(fnmatch.fnmatchcase(r, glob) for glob in options.only)]


def build(base: Base, tasks: int, name: str, options: argparse.Namespace) -> Build:
    """What makes a row's step."""
    if name == TURNS:
        return functools.partial(in_turns, base, tasks, options)
    if name == PEFT:
        return functools.partial(peft_in_turns, base, tasks, options)
    if name == COMPILED:
        return functools.partial(peft_compiled, base, tasks, options)
    return functools.partial(together, base, tasks, name, options)


def case_of(tasks: int, options: argparse.Namespace) -> str:
    """The case's name in the record."""
    return f"training: {tasks} tasks of 1 x {options.tokens}"


def figures(base: Base, tasks: int, name: str, options: argparse.Namespace) -> list[Row]:
    """One row beside the floor, alone with it in memory."""
    sizes = copy.copy(options)
    sizes.batch, sizes.modes = tasks, ["eager"]
    made = build(base, tasks, name, options)
    built: list[Step] = []

    def kept() -> Step:
        built.append(made())
        return built[-1]

    steps = {FLOOR: variants(base, "hidden", sizes)[FLOOR], name: kept}
    turns = Turns(options.device, options.rounds, 1, options.burst)
    case = Case(case_of(tasks, options), steps, base)
    rows: list[Row] = []
    with contextlib.suppress(torch.OutOfMemoryError):  # graphs keep theirs in the floor's turn
        rows = measure(case, turns)
    if not rows:  # behind the block, where the error holds no steps any more
        built.clear()
        rows = _apart(case, turns)
    rows += _speeds(rows, tasks * options.tokens)
    recorded = getattr(built[0], "recordings", None) if built else None
    if recorded is not None and recorded.replayed:
        gib = round(recorded.bytes / 2**30, 3)
        rows.append(Row(case=rows[0].case, variant=name, metric=HELD, value=gib, unit="GiB"))
    return rows


def _apart(case: Case, turns: Turns) -> list[Row]:
    """Variants one behind another where they do not fit side by side; the ratio is that of the medians."""
    rows: list[Row] = []
    for name in (FLOOR, *(n for n in case.variants if n != FLOOR)):
        gc.collect()
        if turns.device == "cuda":
            torch.cuda.empty_cache()
        alone = dataclasses.replace(case, variants={name: case.variants[name]})
        rows += measure(alone, turns)
    steps = {r.variant: r.value for r in rows if r.metric == "step"}
    floor = steps.pop(FLOOR)
    note = "not in turns: both do not fit the card side by side"
    for name, step in steps.items():
        if step and floor:
            ratio = float(f"{step / floor:.5g}")
            rows.append(Row(case=case.name, variant=name, metric=RATIO, value=ratio, note=note))
    return rows


def _speeds(rows: Sequence[Row], tokens: int) -> list[Row]:
    """Tokens per second of each row's median step."""
    return [
        Row(
            case=r.case,
            variant=r.variant,
            metric="tokens per second",
            value=float(f"{1000 * tokens / r.value:.5g}"),
        )
        for r in rows
        if r.metric == "step" and r.value
    ]
