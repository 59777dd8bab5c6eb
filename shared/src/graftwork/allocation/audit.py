"""Audits: what is the model worth with a set of units, asked without changing anything (SEA-PEFT, section 3.2).

    u on:  delta(u) = D(S) - D(S \\ u)         u off: delta(u) = D(S + u) - D(S)
    density rho(u) = delta(u) / c(u)

Departure: where active units K exclude u, its gain is D(S \\ K + u) - D(S \\ K). Sets that cannot be chosen are not
measured, and siblings are compared with the same set, the one without either.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.allocation.switchboard import Switchboard
from graftwork.errors import GraftError
from graftwork.reach import cuda_devices, undone

Score = Callable[[nn.Module], float | Tensor]


@dataclass(frozen=True)
class Probe:
    """One unit's audit.

    Args:
        unit: its name.
        gain: delta, in units of utility.
        active: whether it was on.
    """

    unit: str
    gain: float
    active: bool


def measure(board: Switchboard, score: Score, sets: Iterable[Iterable[str]]) -> list[float]:
    """The utility of each set of units; see `audit` for what stays as it is."""
    with _listening(board, score) as worth:
        return [worth(names) for names in sets]


def audit(board: Switchboard, score: Score, names: Iterable[str]) -> tuple[float, list[Probe]]:
    """Ask what each of these units is worth beside the active set.

    Runs in eval mode, without gradients and autocast. Nothing stays changed: parameters, buffers, gradients, modes,
    the active set and the random states of torch, numpy and Python are what they were. All
    measurements start from the same random state, so a score that draws crops draws the same ones.

    Returns:
        The active set's utility, and one probe a unit.

    Raises:
        GraftError: the score is no finite number.
    """
    on = set(board.active)
    with _listening(board, score) as worth:
        base = worth(on)
        probes = []
        for name in names:
            others = on - {name} - board.excludes[name]
            gain = (base if name in on else worth(others | {name})) - worth(others)
            probes.append(Probe(name, gain, name in on))
    return base, probes


@contextlib.contextmanager
def _listening(board: Switchboard, score: Score) -> Iterator[Callable[[Iterable[str]], float]]:
    """A function that measures a set, once for each set; everything is put back afterwards."""
    model, before = board.model, board.active
    known: dict[tuple[str, ...], float] = {}
    devices = cuda_devices(model)

    def worth(names: Iterable[str]) -> float:
        key = board.check(names, "audit")
        if key not in known:
            board.switch(key)
            model.eval()
            with _same_random_state(devices):
                known[key] = _number(score(model))
        return known[key]

    kind = next((p.device.type for p in model.parameters()), "cpu")
    with undone(model), torch.no_grad(), torch.autocast(kind, enabled=False):
        try:
            yield worth
        finally:
            board.switch(before)


@contextlib.contextmanager
def _same_random_state(devices: list[torch.device]) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _number(value: float | Tensor) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        raise GraftError(
            f"score: it must return one finite number, higher is better, not {value!r}"
        )
    if abs(value) == float("inf"):
        raise GraftError("score: it returned an infinite number; check the audit set")
    return float(value)
