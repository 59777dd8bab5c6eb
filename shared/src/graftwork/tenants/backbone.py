"""One pass of a hybrid task: the backbone forward for all, each task's loss apart, the backbone backward for all.

The output H is cut off from the graph; every task's loss runs backward to its own rows of H, and one backward pass
takes the rows' gradients through the backbone. For rows that the model keeps apart that is the gradient of the
sum of the losses, and a loss that fails or is not finite leaves nothing but its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.tenants import rows
from graftwork.tenants.batches import Join, parted
from graftwork.tenants.checks import CannotShareError
from graftwork.tenants.mix import Mix
from graftwork.tenants.recorded import Recordings
from graftwork.tenants.segments import Segments
from graftwork.tenants.task import Tenant

Body = Callable[[nn.Module, Any], Tensor]
#: the largest relative distance of rows in a shared pass from the same rows alone
APART = {torch.float64: 1e-8, torch.float32: 1e-3}


@dataclass
class Results:
    """What came of a round's passes: by task, its loss, or what went wrong with it; whose data have ended.

    A weight is over how much a loss is a mean, where several processes have parts of a batch.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    def add(self, found: Results) -> None:
        """Take in what came of one more pass."""
        self.losses |= found.losses
        self.faults |= found.faults
        self.rows |= found.rows


def run(
    mix: Mix,
    body: Body,
    join: Join,
    batches: Mapping[Tenant, Any],
    recordings: Recordings | None = None,
) -> Results:
    """Forward and backward of some tasks' batches; gradients are added to each task's own parameters.

    Args:
        mix: of the model.
        body, join: as `Runner` takes them.
        batches: by task.
        recordings: where the shared part is replayed from if it can be.

    Raises:
        Exception: whatever the shared part of the pass raises.
    """
    out = Results()
    halves = {t.name: parted(t.name, b) for t, b in batches.items()}
    joined = join({name: inputs for name, (inputs, _) in halves.items()})
    segments = joined.segments
    tape = None if recordings is None else recordings.find(mix.model, body, joined, list(batches))
    played = None if tape is None else tape.forward(joined.inputs)
    left: dict[str, list[Tensor]] = {}
    with mix.on(segments):
        mix.left = left
        try:
            hidden = body(mix.model, joined.inputs) if played is None else played
        finally:
            mix.left = None
        d_hidden = torch.zeros_like(hidden) if tape is None else tape.seed()
        alone: list[Tensor] = []
        for t in batches:
            out.rows[t.name] = segments.alone(t.name).rows
            try:
                loss = _loss(mix, t, hidden, d_hidden, joined.own, segments, halves[t.name][1])
            except Exception as error:  # a task's own function may raise anything
                out.faults[t.name] = describe(error)
                continue
            for extra in left.get(t.name, ()):
                loss = loss + extra.detach()
                alone.append(extra / t.task.accumulate)
            out.losses[t.name] = loss
        ends = [hidden, *alone]
        grads = [d_hidden, *(torch.ones_like(e) for e in alone)]
        there = [(e, g) for e, g in zip(ends, grads, strict=True) if e.requires_grad]
        if there and out.losses:
            torch.autograd.backward([e for e, _ in there], [g for _, g in there])
    if tape is not None and out.losses:
        tape.backward()
    return out


def _loss(
    mix: Mix,
    t: Tenant,
    hidden: Tensor,
    d_hidden: Tensor,
    own: Callable[[Tensor, str], Tensor] | None,
    segments: Segments,
    target: Any,
) -> Tensor:
    """One task's loss; the gradient of its rows of `hidden` goes to those of `d_hidden`."""
    h = hidden.detach()
    if own is None:
        leaf = seen = segments.take(h, t.name).detach().requires_grad_()
    else:
        leaf = h.requires_grad_()
        seen = own(leaf, t.name)
    with mix.within(segments.alone(t.name)), t.stream.on(hidden.device):
        loss = t.task.loss(seen, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise GraftError(f"the loss must be a scalar tensor, not {loss!r}")
        (loss / t.task.accumulate).backward()
    if leaf.grad is None:
        return loss.detach().reshape(())
    if own is not None:
        d_hidden.add_(leaf.grad)
        return loss.detach().reshape(())
    flat = d_hidden
    if flat.shape[0] % segments.rows:
        flat = flat.flatten(0, -2)
    spots = rows.spans(segments.runs_of(t.name), segments.vectors(flat.shape[0]))
    for (start, stop), g in zip(spots, leaf.grad.split([b - a for a, b in spots]), strict=True):
        flat[start:stop] = g
    return loss.detach().reshape(())


def describe(error: BaseException) -> str:
    """One line for a failure."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


@torch.no_grad()
def check_apart(mix: Mix, body: Body, join: Join, batches: Mapping[Tenant, Any]) -> None:
    """Compare every task's rows of a shared pass with the same rows in a pass alone.

    Raises:
        CannotShareError: they differ by more than rounding: the model, or the way the batches are joined, mixes rows.
    """
    inputs = {t.name: parted(t.name, b)[0] for t, b in batches.items()}
    marks = {t: t.stream.state_dict() for t in batches}

    def output(some: Mapping[str, Any]) -> dict[str, Tensor]:
        for t, mark in marks.items():
            t.stream.load_state_dict(mark)
        joined = join(some)
        with mix.on(joined.segments):
            hidden = body(mix.model, joined.inputs)
        own = joined.own or joined.segments.take
        return {name: own(hidden, name) for name in some}

    try:
        shared = output(inputs)
        for name, own in inputs.items():
            solo = output({name: own})[name]
            if solo.shape != shared[name].shape:
                continue  # padded to another length: only the loss knows which positions count
            far = (shared[name] - solo).double().norm() / solo.double().norm().clamp_min(1e-30)
            if far > APART.get(solo.dtype, 0.2):
                raise CannotShareError(
                    f"tenants: the rows of {name!r} come out differently beside others' (relative distance "
                    f"{float(far):.1e}): the model computes rows from one another, or puts them on another axis than "
                    "the first; such tasks cannot share a pass"
                )
    finally:
        for t, mark in marks.items():
            t.stream.load_state_dict(mark)
