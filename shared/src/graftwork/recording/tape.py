"""One recorded pass: rehearsed, captured, checked against the rehearsal, and played as an autograd function.

A rehearsal runs the pass as it is, on copies of the input, under parameters that are other objects in the same memory:
an accumulation node that autograd made for a parameter elsewhere belongs to that place's stream, and a recording must
not wait for it. Generators and buffers are put back after each rehearsal, so that nothing of it is left. Code that asks
whether a stream is being captured is told so in rehearsals, too, and does what it will do in the recording.

Played, a pass copies its inputs, replays, and hands out copies: what a caller keeps of a step, or has autograd
accumulate, is not overwritten by the next one.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graftwork.errors import GraftError
from graftwork.fast import twins
from graftwork.recording.around import (
    RECOMPUTED,
    Unfit,
    as_if_captured,
    recomputes,
    saved_plainly,
    uncached,
)
from graftwork.recording.standing import Standing
from graftwork.states import MethodState

#: passes before a recording: families of layers are known after two
REHEARSALS = 3
#: the largest difference of a replay from its rehearsal, over the size of the tensor (half precision; wider), and how
#: many times the difference of two rehearsals, whose kernels may add in no fixed order; that up to a tenth of the size
NEAR, TIMES, MOST = (3e-2, 2e-3), 4.0, 0.1
#: a gradient this much smaller than the largest one is noise, like a bias's in front of a normalisation
NOISE = 1e-3
#: what an output may hold beside tensors
_PLAIN = (type(None), bool, int, float, str)


class Graphs(Protocol):
    """A captured pass: what it fills, and how."""

    outs: list[Tensor]
    grads: list[Tensor | None]

    def forward(self) -> None:
        """Fill `outs` from the static inputs."""

    def backward(self) -> None:
        """Fill `grads` from the static gradients of `outs`."""


class Machine(Protocol):
    """What records and replays."""

    def beside(self) -> contextlib.AbstractContextManager[Any]:
        """Where rehearsals run."""

    def capture(
        self,
        forward: Callable[[], list[Tensor]],
        backward: Callable[[list[Tensor]], list[Tensor | None]],
    ) -> Graphs:
        """Record both, which nobody but the graphs calls any more."""

    def strict(self) -> contextlib.AbstractContextManager[Any]:
        """Where whatever cannot be recorded raises."""

    def random(self) -> Any:
        """The state of all generators."""

    def again(self, state: Any) -> None:
        """Put that state back."""

    def host_drew(self, state: Any) -> bool:
        """Whether the host's generators moved since: their numbers would be the same in each replay."""


class Ticket:
    """One forward pass whose backward pass may come; lives as long as autograd may ask for it."""

    done = False


class Tape:
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
        self.standing = standing
        leaves, self._spec = pytree.tree_flatten((args, kwargs))
        self._where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for i in self._where:
            leaves[i] = leaves[i].detach().clone().requires_grad_(leaves[i].requires_grad)
        self._leaves = leaves
        self.inputs: list[Tensor] = [leaves[i] for i in self._where]
        self.trained = list({id(t): t for *_, t in standing.trained}.values())
        self._aliases = {
            id(t): nn.Parameter(t.detach())
            if isinstance(t, nn.Parameter)
            else t.detach().requires_grad_()
            for t in self.trained
        }
        self._wanted = [t for t in self.inputs if t.requires_grad] + [*self._aliases.values()]
        self._forward = forward
        self._kind = self.inputs[0].device.type
        self._ticket: weakref.ref[Ticket] | None = None
        self._outer: Any = None
        self._live: list[int] = []
        self._asked: list[int] = []
        self.seeds: list[Tensor] = []
        before = machine.random()
        buffers = [(b, b.clone()) for b in model.buffers() if not b.is_inference()]

        def put_back() -> None:
            machine.again(before)
            with torch.no_grad():
                for b, value in buffers:  # a batch norm's change without a trace in their versions
                    b.copy_(value)

        try:
            with machine.beside():
                last, other = self._rehearse(put_back, machine, before)
            self._pools(model)
            self._graphs = machine.capture(self._run, self._back)
            self._forms = _forms(model)  # the graphs write into copies that these hold
        finally:
            put_back()
        if not standing.holds():
            raise Unfit("the forward pass exchanges a module, a buffer or a graft of its own model")
        self._compare(last, other)
        put_back()

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

    # -- rehearsal and capture --------------------------------------------------------------------

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

    def _back(self, outs: list[Tensor], more: Sequence[Tensor] = ()) -> list[Tensor | None]:
        asked = [outs[i] for i in self._asked]
        if not self.seeds:
            self.seeds = [torch.ones_like(t) for t in asked]
        return list(
            torch.autograd.grad(asked, [*self._wanted, *more], self.seeds, allow_unused=True)
        )

    def _rehearse(
        self, put_back: Callable[[], None], machine: Machine, before: Any
    ) -> list[list[Tensor | None]]:
        """Outputs and gradients of the last two rehearsals, the last one first."""
        found: list[list[Tensor | None]] = []
        for turn in range(REHEARSALS):
            put_back()
            strict = machine.strict() if turn == REHEARSALS - 1 else contextlib.nullcontext()
            with as_if_captured(), strict:
                with saved_plainly():
                    outs = self._run()
                if any(t.grad_fn is not None and recomputes(t.grad_fn) for t in outs):
                    raise Unfit(RECOMPUTED)
                grads = self._back(outs, self.trained)
            if machine.host_drew(before):
                raise Unfit(
                    "the forward pass draws random numbers on the host, which each replay would repeat"
                )
            if any(g is not None for g in grads[len(self._wanted) :]):
                raise Unfit("a trained tensor is read from elsewhere than its module")
            made = [t.detach() for t in outs]
            found = [[*made, *grads[: len(self._wanted)]], *found[:1]]
        return found

    def _pools(self, model: nn.Module) -> None:
        """Have the copies of all factors made inside the recording, by its first layer."""
        for fast in _fasts(model):
            fast.pool.due = True
            if fast._kept is not None:
                fast._kept.form.twin.fresh = False

    @contextlib.contextmanager
    def _renamed(self) -> Iterator[None]:
        """The trained parameters as other objects in the same memory."""
        places = self.standing.trained
        for there, name, t in places:
            there[name] = self._aliases[id(t)]
        twins.tape.on = True
        try:
            yield
        finally:
            twins.tape.on = False
            for there, name, t in places:
                there[name] = t

    def _compare(self, last: list[Tensor | None], other: list[Tensor | None]) -> None:
        """The first replay gives what the last rehearsal gave.

        Raises:
            Unfit: it does not: the pass depends on something that a recording does not see.
        """
        self._graphs.forward()
        self._graphs.backward()
        replayed = [*self._graphs.outs, *self._graphs.grads]
        if [t is None for t in replayed] != [t is None for t in last]:
            raise Unfit("another tensor has a gradient in each pass")
        found = [
            (a, b, b if c is None else c)
            for a, b, c in zip(replayed, last, other, strict=True)
            if a is not None and b is not None and b.numel()
        ]
        largest = max((_norm(b) for _, b, _ in found), default=0.0)
        for one, two, three in found:
            if not two.is_floating_point():
                same = torch.equal(one, two)
            else:
                size = max(_norm(two), NOISE * largest)
                near = NEAR[0] if two.dtype.itemsize < 4 else NEAR[1]
                gap, usual = _norm(one.float() - two.float()), _norm(three.float() - two.float())
                allowed = near * size + min(TIMES * usual, MOST * size)
                same = gap <= allowed or not math.isfinite(size)
            if not same:
                raise Unfit("a replay gives other values than the pass it was recorded from")


def _norm(t: Tensor) -> float:
    return float(torch.linalg.vector_norm(t.detach().float())) if t.is_floating_point() else 0.0


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
        found = iter(_copies(tape._graphs.grads))
        return None, *(next(found) if asks else None for asks in ctx.needs_input_grad[1:])


def _copies(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Copies of tensors, those of one dtype in one memory: one operation for many."""
    out: list[Tensor | None] = [None] * len(grads)
    there: dict[torch.dtype, list[int]] = {}
    for i, g in enumerate(grads):
        if g is not None:
            there.setdefault(g.dtype, []).append(i)
    for places in there.values():
        parts = [grads[i] for i in places]
        fresh = [torch.empty_like(g) for g in parts]  # type: ignore[arg-type]
        torch._foreach_copy_(fresh, parts)  # type: ignore[arg-type]
        for i, g in zip(places, fresh, strict=True):
            out[i] = g
    return out


def _fasts(model: nn.Module) -> Iterator[Any]:
    from graftwork.fast.sites import Fast

    for m in model.modules():
        if isinstance(m, MethodState) and isinstance(m.fast, Fast):
            yield m.fast


def _forms(model: nn.Module) -> list[Any]:
    return [(fast._kept, fast.pool) for fast in _fasts(model) if fast._kept is not None]
