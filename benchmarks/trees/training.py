"""The training loop, one for all arms: loss on the answers' tokens, AdamW unless the arm has its own optimizer.

The loss is the mean over examples of the mean over an answer's tokens, so that each example's term sees one example
alone, as GAST asks. The rate rises over the first tenth of the steps and falls to zero along a cosine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.trees.text import draws
from graftwork.errors import NotFiniteError
from graftwork_llm.batches import Batch, Example, collate

SUPPORT_EVERY = 10  # steps between GAST's support gradients


@dataclass(frozen=True)
class Plan:
    """Length and size of a training; the same for all arms."""

    steps: int = 240
    batch: int = 32
    support: int = 16  # examples of GAST's support batch

    def pace(self, step: int) -> float:
        """What the rate is multiplied with at a step, counted from 0."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclass
class Trace:
    """What a training left behind: losses, every tenth one, and seconds."""

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


def causal(model: nn.Module) -> Any:
    """The causal language model inside a peft model, or the model itself."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def picked_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits `(n, vocabulary)` of the answers' tokens alone: the head runs on nothing else."""
    whole = causal(model)
    with gw.prompt(model, end=batch.ends):
        hidden = whole.model(
            input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
        ).last_hidden_state
    return whole.lm_head(hidden.flatten(0, 1).index_select(0, batch.places))  # type: ignore[no-any-return]


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """The mean over examples of each one's mean over its answer's tokens."""
    logits = picked_logits(model, batch).float()
    each = nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    return (each * batch.weights).sum()


def step_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, gast: gw.GAST | None = None
) -> Callable[[Batch, Batch | None, int], Tensor]:
    """One step: takes a batch, GAST's support batch where a new one is due, and the step's number; the loss."""

    def step(batch: Batch, support: Batch | None, number: int) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        if gast is not None and support is not None:
            gast.support(loss_of(model, support))
        if gast is not None:
            with gast.batch(len(batch.ends), number):
                loss = loss_of(model, batch)
                loss.backward()
        else:
            with gw.extra_loss(model) as extra:
                loss = loss_of(model, batch)
                (loss + extra()).backward()
        optimizer.step()
        return loss.detach()

    return step


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[Example],
    plan: Plan,
    *,
    seed: int,
    pad: int,
    device: str,
    gast: gw.GAST | None = None,
) -> Trace:
    """Train in place.

    Raises:
        NotFiniteError: the loss is no number any more.
    """
    model.train()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, plan.pace)
    step = step_of(model, optimizer, gast)
    lengths = [len(e) for e in examples]
    supports = draws(lengths, plan.support, 1 + plan.steps // SUPPORT_EVERY, seed + 10_000)
    trace, begun = Trace(), time.perf_counter()
    for number, chosen in enumerate(draws(lengths, plan.batch, plan.steps, seed)):
        due = gast is not None and number % SUPPORT_EVERY == 0
        support = _collated(examples, next(supports), pad, device) if due else None
        loss = step(_collated(examples, chosen, pad, device), support, number)
        schedule.step()
        if number % 10 == 9 or number == plan.steps - 1:  # elsewhere nothing waits for the device
            trace.losses.append(round(float(loss), 4))
            if not math.isfinite(trace.losses[-1]):
                raise NotFiniteError(
                    f"the loss is {trace.losses[-1]} at step {number + 1}; lower the rate"
                )
    trace.seconds = time.perf_counter() - begun
    return trace


def _collated(examples: Sequence[Example], chosen: Iterable[int], pad: int, device: str) -> Batch:
    return collate([examples[i] for i in chosen], pad, device)
