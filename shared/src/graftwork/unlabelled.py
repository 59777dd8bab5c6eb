"""Adapting a graft to a handful of inputs without labels: a loss that needs none, and a few steps of a fixed number.

    adapted = adapt(g, images, lambda model, x: symmetry_loss(model, x, mirror, undo))
    ...                     # use the model, or g.merge()
    adapted.undo()          # the graft as it was, for the next user

A predictor that commutes with a symmetry of its input, f(F x) = F' f(x), has a symmetry loss of 0, and so has a
constant on the symmetry's axis: the loss has trivial minima. Few steps of a small size are the regulariser, and their
number is fixed in advance: there is nothing here to choose a best step by.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.errors import GraftError
from graftwork.handle import Graft
from graftwork.losses import extra_loss
from graftwork.states import MethodState

Loss = Callable[[nn.Module, Tensor], Tensor]
Map = Callable[[Tensor], Tensor]


def symmetry_loss(model: nn.Module, x: Tensor, mirror: Map, undo: Map) -> Tensor:
    """mean |f(x) - stopgrad undo(f(mirror(x)))|, as in TPGaze (arXiv 2401.01577).

    Args:
        model: f, in eval mode if it has batch norms or dropout.
        x: inputs `(n, ...)`.
        mirror: F on inputs, such as a flip left to right.
        undo: the inverse of F' on outputs, such as a change of yaw's sign.
    """
    with torch.no_grad(), _quiet(model):
        target = undo(model(mirror(x)))
    return F.l1_loss(model(x), target)


@dataclass
class Adapted:
    """What an adaptation did.

    Attributes:
        losses: before each step.
    """

    losses: list[float]
    _graft: Graft
    _before: dict[str, Tensor]

    def undo(self) -> None:
        """Give the graft the values that it had before, bit for bit."""
        self._graft.load_tensors(self._before)


def adapt(
    graft: Graft,
    x: Tensor,
    loss: Loss,
    *,
    steps: int = 10,
    lr: float = 0.01,
    rates: Mapping[str, float] | None = None,
) -> Adapted:
    """Take a few Adam steps on a graft's trained tensors, all inputs in one batch.

    The model is in eval mode meanwhile, so that batch norms keep their statistics; only the graft's methods
    are in training, so that what they leave for the loss (`gw.extra_loss`) is added. Modes are restored.

    Args:
        graft: switched on.
        x: inputs `(n, ...)`, n >= 1.
        loss: of the model and the inputs; `symmetry_loss` or any other.
        steps: how many; the last one counts.
        lr: of all tensors that no pattern of `rates` matches.
        rates: glob over the tensors' keys -> learning rate; the last match wins.

    Raises:
        GraftError: no input, a bad number, a pattern without a match, or inputs or a loss that are not finite. The
            graft is as it was then.
    """
    if x.dim() == 0 or not len(x):
        raise GraftError(f"adapt: x {tuple(x.shape)} holds no input; give at least one")
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise GraftError("adapt: x holds NaN or infinite values")
    if steps < 1:
        raise GraftError(f"adapt: steps must be at least 1, not {steps}")
    optimizer = torch.optim.Adam(_groups(graft, lr, rates or {}))
    done = Adapted([], graft, {n: t.clone() for n, t in graft.tensors().items()})
    with _evaluating(graft), torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            with extra_loss(graft.model) as extra:
                value = loss(graft.model, x) + extra()
            if not bool(value.isfinite()):
                done.undo()
                raise GraftError(
                    f"adapt: the loss is {float(value.detach())} at step {len(done.losses)}; the graft is "
                    "as it was; lower lr, or look at what the loss does with these inputs"
                )
            value.backward()
            done.losses.append(float(value.detach()))
            optimizer.step()
    optimizer.zero_grad()
    return done


def _groups(graft: Graft, lr: float, rates: Mapping[str, float]) -> list[dict[str, object]]:
    named = dict(graft.named_parameters())
    for pattern in rates:
        if not any(fnmatch.fnmatchcase(n, pattern) for n in named):
            raise GraftError(f"adapt: rates: {pattern!r} matches none of {sorted(named)}")
    groups: list[dict[str, object]] = []
    for name, p in named.items():
        own = [rate for pattern, rate in rates.items() if fnmatch.fnmatchcase(name, pattern)]
        rate = own[-1] if own else lr
        if not 0 < rate < float("inf"):
            raise GraftError(f"adapt: the learning rate of {name} must be above 0, not {rate}")
        groups.append({"params": [p], "lr": rate})
    return groups


@contextlib.contextmanager
def _evaluating(graft: Graft) -> Iterator[None]:
    modes = [(m, m.training) for m in graft.model.modules()]
    graft.model.eval()
    for _, state in graft.states():
        if isinstance(state, MethodState):
            state.train()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """Methods leave no part of the loss behind, and drop nothing out."""
    states = [m for m in model.modules() if isinstance(m, MethodState) and m.training]
    for state in states:
        state.training = False
    try:
        yield
    finally:
        for state in states:
            state.training = True
