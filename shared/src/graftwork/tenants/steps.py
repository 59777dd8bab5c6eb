"""Every task's own step, and what becomes of a task that fails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.tenants.backbone import Results, describe
from graftwork.tenants.batches import parted
from graftwork.tenants.optim import fused_step, total_norm
from graftwork.tenants.ranks import Ranks, rows_of
from graftwork.tenants.task import Tenant


@dataclass(frozen=True)
class Outcome:
    """What a round did for a task: its batch's loss, whether it stepped, or what went wrong."""

    loss: float | None = None
    stepped: bool = False
    fault: str | None = None


def draw(tenants: Sequence[Tenant], results: Results, ranks: Ranks | None = None) -> dict[str, Any]:
    """A batch of each, or this process's part of it; whose data fail or end is noted in the results."""
    batches: dict[str, Any] = {}
    dealt = 0
    for t in tenants:
        try:
            batch = t.source.draw()
            if ranks is not None and not t.task.own_rows:
                rows = rows_of(t.name, batch)
                batch, dealt = ranks.part(t.name, batch, dealt), dealt + rows
            if batch is None:
                continue
            if ranks is not None:
                inputs, target = parted(t.name, batch)
                weight = t.task.weight
                results.weights[t.name] = float(
                    rows_of(t.name, inputs) if weight is None else weight(target)
                )
            batches[t.name] = batch
        except StopIteration:
            results.ended.add(t.name)
        except Exception as error:  # a tenant's data may raise anything
            results.faults[t.name] = f"its data: {describe(error)}"
    return batches


def take(tenants: Sequence[Tenant], results: Results, patience: int) -> dict[str, Outcome]:
    """Let the tasks whose batches fill a step clip, step and schedule.

    Args:
        tenants: those that were asked for a batch.
        results: of their passes.
        patience: failures in a row after which a task is dropped.
    """
    out: dict[str, Outcome] = {}
    for t in tenants:
        if t.name in results.ended:
            t.reset()
            t.status = "done"
        fault = results.faults.get(t.name)
        if fault is None:
            continue
        if fault.startswith(torch.OutOfMemoryError.__name__):
            skip(t, fault, patience)
        else:
            drop(t, fault)
        out[t.name] = Outcome(fault=t.failures[-1])
    whole = [t for t in tenants if t.name in results.losses]
    due = [t for t in whole if t.micro + 1 == t.task.accumulate]
    rest = [t for t in whole if t.micro + 1 != t.task.accumulate]
    norms = {t: _norm(t.parameters) for t in due}
    losses = [results.losses[t.name] for t in (*due, *rest)]
    values = _joined([*norms.values(), *losses])
    # a step that skips itself on the device is issued before anybody waits for the device's numbers
    begun = {
        t: _step(t, norms[t], unfit)
        for t, unfit in zip(due, _unfit(values, len(due)), strict=True)
        if skips_itself(t.optimizer)
    }
    found: list[float] = values.tolist()
    size = dict(zip(due, found, strict=False))
    known = dict(zip((*due, *rest), found[len(due) :], strict=True))
    for t in whole:
        loss = known[t]
        if not math.isfinite(loss):
            skip(t, f"its loss is {loss}", patience)
            out[t.name] = Outcome(loss, fault=t.failures[-1])
            continue
        t.rows += results.rows[t.name]
        t.losses.append(loss)
        t.micro += 1
        out[t.name] = Outcome(loss)
        if t not in size:
            continue
        fault = None
        if not math.isfinite(size[t]):
            skip(t, f"its gradient's norm is {size[t]}", patience)
        else:
            fault = begun[t] if t in begun else _step(t, norms[t])
            if fault is None:
                _advance(t)
            else:
                drop(t, fault)
        failed = t.micro == 0 and t.streak > 0
        out[t.name] = Outcome(loss, not failed, t.failures[-1] if failed else None)
    return out


def skips_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer leaves everything as it is where its `found_inf` is 1, as torch's fused ones do."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def _step(t: Tenant, norm: Tensor, unfit: Tensor | None = None) -> str | None:
    """Clip and step; what went wrong, or `None`.

    Args:
        t: whose optimizer.
        norm: of its gradient.
        unfit: where it is not known yet whether loss and norm are finite: 1.0 if they are not, and nothing is changed
            then.
    """
    optimizer: Any = t.optimizer
    try:
        if t.task.clip is not None:
            nn.utils.clip_grads_with_norm_(t.parameters, t.task.clip, norm)
        if unfit is None:
            optimizer.step()
        elif not fused_step(optimizer, unfit):
            optimizer.found_inf = unfit
            optimizer.step()
    except Exception as error:  # a tenant's optimizer may raise anything
        return f"its optimizer: {describe(error)}"
    finally:
        if unfit is not None:
            optimizer.__dict__.pop("found_inf", None)
    return None


def _advance(t: Tenant) -> None:
    try:
        if t.schedule is not None:
            t.schedule.step()
    except Exception as error:  # or its schedule
        drop(t, f"its schedule: {describe(error)}")
        return
    t.step += 1
    t.streak = 0
    t.curve.append((t.step, sum(t.losses) / len(t.losses)))
    t.reset()
    if t.step == t.task.steps:
        t.status = "done"


def skip(t: Tenant, fault: str, patience: int) -> None:
    """Drop the present step of a task that failed, and the task when it does so again and again."""
    t.fail(fault)
    if t.streak >= patience:
        t.failures.append(f"step {t.step}: dropped after {t.streak} failures in a row")
        t.status = "failed"


def drop(t: Tenant, fault: str) -> None:
    """End a task that failed."""
    t.fail(fault)
    t.status = "failed"


def _norm(parameters: Sequence[Tensor]) -> Tensor:
    grads = [g for p in parameters if (g := p.grad) is not None]
    return total_norm(grads) if grads else parameters[0].new_zeros(())


def _joined(values: Sequence[Tensor]) -> Tensor:
    """Scalars of one device as a vector, to be read in one transfer."""
    if not values:
        return torch.empty(0)
    flat = [v.detach().reshape(()) for v in values]
    if len({v.dtype for v in flat}) > 1:
        flat = [v.double() for v in flat]
    return torch.stack(flat)


def _unfit(values: Tensor, count: int) -> Sequence[Tensor]:
    """For each of the first tasks, 1.0 where its norm or its loss is not finite; both come in the tasks' order."""
    finite = torch.isfinite(values)
    return (~(finite[:count] & finite[count : 2 * count])).float().unbind()
