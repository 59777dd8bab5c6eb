"""Small tasks of unequal length on a small frozen decoder, and the ways to run them."""

from __future__ import annotations

import argparse
import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.tenants import Aligner, Joined, Planner, Runner, Segments, Task, TaskLoad
from graftwork.tenants.align import Aligned
from graftwork.tenants.cost import CostModel, Run, state_bytes
from graftwork.tenants.layouts import Shape, choose_chunk
from graftwork.tenants.measure import measured
from graftwork.tenants.plan import Plan

#: mean tokens and sequences of a batch, task by task
MEANS = (32, 512, 64, 256, 48, 384, 96, 128)
BATCHES = (1, 2, 4, 1, 2, 1, 4, 2)
OWN, ALONE, PADDED, CHUNKED, PACKED, PLANNED, FAIR, CAPPED = (
    "own backbones",
    "one at a time",
    "together, padded",
    "together, chunked",
    "together, packed",
    "planned",
    "planned, fair",
    "planned under a cap",
)
SIMPLE = (ALONE, PADDED, CHUNKED, PACKED)
SIZES = (16, 32, 64, 128)
#: the cap over what the largest task needs alone
CAP = 1.25
#: a fairness that binds no plan
UNBOUND = 1e-9


@dataclass(frozen=True)
class Groups:
    """A partition as the runner takes it."""

    groups: Sequence[Sequence[str]]


def decoder(options: argparse.Namespace, dtype: torch.dtype) -> nn.Module:
    """The frozen base with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=max(4, options.hidden // 64),
        num_key_value_heads=max(4, options.hidden // 64),
        vocab_size=256,
        max_position_embeddings=1024,
        attn_implementation="sdpa",
        use_cache=False,
    )
    return LlamaForCausalLM(config).to(options.device, dtype).requires_grad_(False)


def twin(base: nn.Module) -> nn.Module:
    """A model of its own with the same frozen tensors; copies are counted, not made."""
    tensors = [*base.parameters(), *base.buffers()]
    return copy.deepcopy(base, {id(t): t for t in tensors})


def batch(number: int, options: argparse.Namespace) -> dict[str, Any]:
    """Sequences of one task: lengths from a half to one and a half of its mean."""
    draw = torch.Generator().manual_seed(number)
    mean = max(12, MEANS[number] // options.shrink)
    lengths = torch.randint(mean // 2, mean + mean // 2, (BATCHES[number],), generator=draw)
    width = int(lengths.max())
    ids = torch.randint(1, 256, (len(lengths), width), generator=draw)
    mask = torch.arange(width) < lengths[:, None]
    ids, mask = ids.to(options.device), mask.to(options.device)
    labels = ids.masked_fill(~mask, -100)
    return {"input_ids": ids, "labels": labels, "lengths": lengths.tolist()}


def loss(logits: Tensor, target: Mapping[str, Any]) -> Tensor:
    """Cross-entropy of the next token over the task's own real tokens."""
    said, labels = logits[:, :-1].float().flatten(0, 1), target["labels"][:, 1:].flatten()
    return nn.functional.cross_entropy(said, labels, ignore_index=-100)


def task(number: int, options: argparse.Namespace) -> Task:
    """One LoRA task whose batch comes again and again."""
    data = batch(number, options)
    return Task(
        f"t{number}",
        [(data, data)],
        loss,
        gw.LoRA(8),
        optimizer=lambda graft: torch.optim.AdamW(graft.parameters(), lr=1e-3),
        steps=10**6,
        seed=number,
    )


def clock_of(device: str) -> Callable[[], float]:
    """Processor time on a CPU, on which a busy neighbour does not count; elsewhere the clock, once the device waits."""
    if device == "cpu":
        return time.process_time

    def waited() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return waited


class Arm:
    """Some tasks on one backbone, joined in one layout.

    Args:
        base: a model of this arm's own.
        tasks: what runs on it.
        layout, chunk: as `Aligner` takes them.
        plan: makes the plan from the loads; `None`: all in one group.
    """

    def __init__(
        self,
        base: nn.Module,
        tasks: Sequence[Task],
        layout: str,
        chunk: int | None = None,
        plan: Callable[[Arm], Any] | None = None,
    ) -> None:
        self.device = next(base.parameters()).device.type
        self.aligner = Aligner(base, layout, chunk, sizes=SIZES, least=0, check=False)
        self.runner = Runner(base, tasks, body=self.body, join=self.join, check=False)
        self.inputs = {t.name: next(iter(t.data))[0] for t in tasks}  # type: ignore[arg-type, call-overload]
        self.lengths = {n: tuple(d["lengths"]) for n, d in self.inputs.items()}
        self.state = {
            t.name: sum(state_bytes(p.numel(), p.element_size()) for p in t.parameters)
            for t in self.runner.tenants.values()
        }
        self.plan = None if plan is None else plan(self)
        self.runner.plan = self.plan

    def body(self, model: nn.Module, inputs: Aligned) -> Tensor:
        return self.aligner.run(inputs)

    def join(self, inputs: Mapping[str, Any]) -> Joined:
        aligned = self.aligner.align(inputs)
        return Joined(aligned, Segments(aligned.names, aligned.sizes), aligned.own)

    def loads(self) -> list[TaskLoad]:
        return [TaskLoad(n, self.lengths[n], self.state[n]) for n in self.inputs]

    def groups(self) -> list[list[str]]:
        return [list(g) for g in (self.plan.groups if self.plan else [list(self.inputs)])]

    def cycle(self) -> list[list[str]]:
        """The passes of one round."""
        if isinstance(self.plan, Plan):
            return [list(g) for g in self.plan.cycle()]
        return self.groups()

    def shape(self, names: Sequence[str]) -> Shape:
        return self.aligner.choice([n for name in names for n in self.lengths[name]])

    def measure(self, names: Sequence[str], repeats: int, shape: Shape | None = None) -> Run:
        """A pass as the aligner lays it out, or in this shape."""
        shape = shape or self.shape(names)
        with self.aligner.only(shape):
            return measured(
                self.runner.model,
                self.body,
                self.join,
                {n: self.inputs[n] for n in names},
                shape,
                repeats=repeats,
                state=sum(self.state.values()),
                clock=clock_of(self.device),
            )

    def measure_each(self, names: Sequence[str], repeats: int) -> list[Run]:
        """A pass in every layout that it may have."""
        lengths = [n for name in names for n in self.lengths[name]]
        return [self.measure(names, repeats, s) for s in self.aligner.candidates(lengths)]

    def bytes(self) -> int:
        """Counted at the pass that keeps most."""
        return max(self.measure(g, 1).bytes or 0 for g in self.groups())

    def waste(self) -> float:
        real = sum(sum(n) for n in self.lengths.values())
        return 1 - real / sum(self.shape(g).rows for g in self.groups())


def arms_of(
    count: int, options: argparse.Namespace, dtype: torch.dtype, cost: CostModel | None
) -> dict[str, list[Arm]]:
    """Every arm; one whose tasks have backbones of their own is one `Arm` a task."""
    base = decoder(options, dtype)

    def arm(layout: str, chunk: int | None = None, plan: Any = None) -> list[Arm]:
        tasks = [task(i, options) for i in range(count)]
        return [Arm(twin(base), tasks, layout, chunk, plan)]

    def planned(a: Arm, cap: int | None = None, fairness: float = UNBOUND) -> Plan:
        assert cost is not None
        state = sum(a.state.values())
        a.aligner.pick = functools.partial(cost.least, state=state, cap=cap)
        planner = Planner(cost, cap=cap, fairness=fairness, shapes=a.aligner.shapes)
        return planner.plan(a.loads())

    def capped(a: Arm) -> Plan:
        assert cost is not None
        most = max(cost.bytes(a.shape([n]), sum(a.state.values())) for n in a.inputs)
        return planned(a, int(CAP * most))

    every = [n for i in range(count) for n in batch(i, options)["lengths"]]
    out = {
        OWN: [Arm(twin(base), [task(i, options)], "padded") for i in range(count)],
        ALONE: arm("padded", plan=lambda a: Groups([[n] for n in a.inputs])),
        PADDED: arm("padded"),
        CHUNKED: arm("chunked", choose_chunk(every, None, SIZES, 0)),
        PACKED: arm("packed"),
    }
    if cost is not None:
        out[PLANNED] = arm("planned", plan=planned)
        out[FAIR] = arm("planned", plan=lambda a: planned(a, fairness=options.fairness))
        out[CAPPED] = arm("planned", plan=capped)
    return out
