"""A model's call as one recorded pass, played as an autograd function.

Played, a pass copies its inputs, replays, and hands out copies: what a caller keeps of a step, or has autograd
accumulate, is not overwritten by the next one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graftwork.errors import GraftError
from graftwork.recording.around import Unfit, uncached
from graftwork.recording.standing import Standing
from graftwork.recording.take import ELSEWHERE, Machine, Take, copies, seeds_like

#: what an output may hold beside tensors
_PLAIN = (type(None), bool, int, float, str)


class Ticket:
    """One forward pass whose backward pass may come; lives as long as autograd may ask for it."""

    done = False


class Tape(Take):
    """A recorded pass for one kind of call.

    Args:
        model: whose pass.
        forward: the model's own forward.
        args, kwargs: of the call; its tensors are copied.
        standing: the model as it stands.
        machine: what records.

    Raises:
        Unfit: it cannot be recorded.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        args: Any,
        kwargs: Any,
        standing: Standing,
        machine: Machine,
    ) -> None:
        super().__init__(standing, {id(t): t for *_, t in standing.trained}.values())
        leaves, self._spec = pytree.tree_flatten((args, kwargs))
        self._where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for i in self._where:
            leaves[i] = leaves[i].detach().clone().requires_grad_(leaves[i].requires_grad)
        self._leaves = leaves
        self.inputs = [leaves[i] for i in self._where]
        self._wanted = [t for t in self.inputs if t.requires_grad] + [*self._aliases.values()]
        self._forward = forward
        self._kind = self.inputs[0].device.type
        self._ticket: weakref.ref[Ticket] | None = None
        self._outer: Any = None
        self._live: list[int] = []
        self._asked: list[int] = []
        self._record(model, machine)

    def busy(self) -> bool:
        """Whether a forward pass still waits for its backward pass, whose activations a replay would overwrite."""
        ticket = None if self._ticket is None else self._ticket()
        return ticket is not None and not ticket.done

    def play(self, args: Any, kwargs: Any) -> Any:
        """The model's output for a call of this kind."""
        leaves = pytree.tree_leaves((args, kwargs))
        found = _Play.apply(self, *(leaves[i] for i in self._where), *self.trained)
        outer = list(self._outer[0])
        for place, t in zip(self._live, found, strict=True):
            outer[place] = t
        return pytree.tree_unflatten(outer, self._outer[1])

    def _run(self) -> list[Tensor]:
        args, kwargs = pytree.tree_unflatten(list(self._leaves), self._spec)
        with self._renamed(), uncached(self._kind), torch.enable_grad():
            out = self._forward(*args, **kwargs)
        leaves, spec = pytree.tree_flatten(out)
        self._live = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for leaf in leaves:
            if not isinstance(leaf, (Tensor, *_PLAIN)):
                raise Unfit(
                    f"the output holds a {type(leaf).__name__}, which no replay would renew"
                )
        outs = [leaves[i] for i in self._live]
        kept = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._outer = kept, spec
        self._asked = [i for i, t in enumerate(outs) if t.requires_grad]
        if not self._asked:
            raise Unfit("the output has no gradient")
        return outs

    def _back(self, outs: list[Tensor], rehearsed: bool = False) -> list[Tensor | None]:
        asked = [outs[i] for i in self._asked]
        if not self.seeds:
            self.seeds = seeds_like(asked)
        more = self.trained if rehearsed else []
        found = torch.autograd.grad(asked, [*self._wanted, *more], self.seeds, allow_unused=True)
        if any(g is not None for g in found[len(self._wanted) :]):
            raise Unfit(ELSEWHERE)
        return list(found[: len(self._wanted)])


class _Play(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tape: Tape, *tensors: Tensor) -> tuple[Tensor, ...]:
        for static, x in zip(tape.inputs, tensors, strict=False):
            static.copy_(x)
        tape._graphs.forward()
        ctx.tape, ctx.ticket = tape, Ticket()
        tape._ticket = weakref.ref(ctx.ticket)
        ctx.set_materialize_grads(False)
        outs = tuple(t.detach().clone() for t in tape._graphs.outs)
        ctx.mark_non_differentiable(*(t for i, t in enumerate(outs) if i not in tape._asked))
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        tape: Tape = ctx.tape
        if torch.is_grad_enabled():
            raise GraftError(
                "recorded: a recorded pass cannot be differentiated twice; leave the block for that"
            )
        ticket = None if tape._ticket is None else tape._ticket()
        if ticket is None or ticket is not ctx.ticket:
            raise GraftError(
                "recorded: the pass was replayed since, and its activations are gone; call backward once, before the "
                "model's next call"
            )
        for seed, i in zip(tape.seeds, tape._asked, strict=True):
            g = grads[i]
            if g is None:
                seed.zero_()
            else:
                seed.copy_(g)
        tape._graphs.backward()
        ticket.done = True
        found = iter(copies(tape._graphs.grads))
        return None, *(next(found) if asks else None for asks in ctx.needs_input_grad[1:])
