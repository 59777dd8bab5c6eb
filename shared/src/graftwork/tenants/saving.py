"""A task's whole state as plain values and tensors, and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from graftwork.errors import GraftError
from graftwork.tenants.ranks import seed_of
from graftwork.tenants.streams import Stream
from graftwork.tenants.task import Tenant

FORMAT = 1
_COUNTS = ("status", "step", "micro", "rows", "streak")
_LISTS = ("losses", "failures")


def state_of(t: Tenant) -> dict[str, Any]:
    """Weights, optimizer, schedule, gradients of an unfinished step, random streams, place in the data, curve."""
    grads = [p.grad for p in t.parameters]
    state: dict[str, Any] = {
        "tensors": {k: v.clone() for k, v in t.graft.tensors().items()},
        "optimizer": t.optimizer.state_dict(),
        "schedule": None if t.schedule is None else t.schedule.state_dict(),
        "grads": [None if g is None else g.clone() for g in grads],
        "stream": t.stream.state_dict(),
        "source": t.source.state_dict(),
        "curve": [list(point) for point in t.curve],
    }
    state |= {word: getattr(t, word) for word in _COUNTS}
    return state | {word: list(getattr(t, word)) for word in _LISTS}


def drawn(t: Tenant) -> dict[str, Any]:
    """The random streams of a process's own, which the first one keeps for it."""
    return {"stream": t.stream.state_dict(), "source": t.source.state_dict()["stream"]}


def restore(t: Tenant, state: Mapping[str, Any], rank: int = 0) -> None:
    """Put a tenant where the saved one was.

    Args:
        t: as it was made.
        state: of `state_of`.
        rank: number of this process; one that the saved run did not have draws from fresh streams.

    Raises:
        GraftError: tensors that do not fit, or data that end too early.
    """
    t.graft.load_tensors(state["tensors"])
    t.optimizer.load_state_dict(state["optimizer"])
    if t.schedule is not None and state["schedule"] is not None:
        t.schedule.load_state_dict(state["schedule"])
    for p, g in zip(t.parameters, state["grads"], strict=True):
        p.grad = None if g is None else g.to(p.device, copy=True)
    stream, source = state["stream"], state["source"]
    if rank:
        fresh = Stream(seed_of(t.task.seed, rank, state["step"])).state_dict()
        there = [*state.get("others", ()), *[{"stream": fresh, "source": fresh}] * rank][rank - 1]
        stream = there["stream"]
        if t.task.own_rows:
            source = {**source, "stream": there["source"]}
    t.stream.load_state_dict(stream)
    t.source.load_state_dict(source)
    t.curve = [(int(step), float(loss)) for step, loss in state["curve"]]
    for word in _COUNTS:
        setattr(t, word, state[word])
    for word in _LISTS:
        setattr(t, word, list(state[word]))


def check(state: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse a state of another format or of other tasks.

    Raises:
        GraftError: it says which tasks are missing or too many.
    """
    if state.get("format") != FORMAT:
        raise GraftError(
            f"tenants: a saved state of format {state.get('format')!r}; this version reads {FORMAT}"
        )
    saved, here = set(state["tasks"]), set(names)
    if saved != here:
        raise GraftError(
            f"tenants: the saved state has no task {sorted(here - saved)} and has {sorted(saved - here)}, which are "
            "not in this run; resume with the tasks that were saved, and join or leave afterwards"
        )


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write a state beside its place and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
        GraftError: there is no such file, or it is none of these.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of many kinds for a broken file
        raise GraftError(f"{path}: cannot be read as a saved run of tenants ({error})") from None
    if not isinstance(state, dict) or "tasks" not in state:
        raise GraftError(f"{path}: not a saved run of tenants")
    return state
