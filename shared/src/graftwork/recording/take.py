"""One pass as it is recorded: rehearsed, captured, and compared with the rehearsal.

A rehearsal runs the pass as it is, on copies of the input, under parameters that are other objects in the same memory:
an accumulation node that autograd made for a parameter elsewhere belongs to that place's stream, and a recording must
not wait for it. Generators and buffers are put back after each rehearsal, so that nothing of it is left. Code that asks
whether a stream is being captured is told so in rehearsals, too, and does what it will do in the recording.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graftwork.fast import twins
from graftwork.recording.around import (
    RECOMPUTED,
    Unfit,
    as_if_captured,
    recomputes,
    saved_plainly,
)
from graftwork.recording.likeness import distances, gaps, told, unsteady
from graftwork.recording.positions import Positions
from graftwork.recording.standing import Standing
from graftwork.states import MethodState

#: passes before a recording, families of layers being known after two; and behind it, where they show too little
REHEARSALS, MORE = 3, 3
#: of the random numbers that stand for the gradients of the outputs meanwhile, and none that data are drawn with: in a
#: normalisation ones cancel, and so do numbers that are those of its input
SEED = 0x5EED_6A7F
ELSEWHERE = "a trained tensor is read from elsewhere than its module"


class Graphs(Protocol):
    """A captured pass: what it fills, and how.

    Attributes:
        bytes: of memory that the capture reserved for its passes.
    """

    outs: list[Tensor]
    grads: list[Tensor | None]
    bytes: int

    def forward(self) -> None:
        """Fill `outs` from the static inputs."""

    def backward(self) -> None:
        """Fill `grads` from the static gradients of `outs`."""


class Numbers(Protocol):
    """A generator of its own, which can stand in for torch's in a pass and in that pass's replays."""

    def on(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block what draws from the device's generator draws from this one."""

    def get(self) -> Tensor:
        """Where it stands, as `torch.Generator.get_state` says it."""

    def put(self, state: Tensor) -> None:
        """Go on from there."""


class Machine(Protocol):
    """What records and replays."""

    def beside(self) -> contextlib.AbstractContextManager[Any]:
        """Where rehearsals run."""

    def capture(
        self,
        forward: Callable[[], list[Tensor]],
        backward: Callable[[list[Tensor]], list[Tensor | None]],
        numbers: Sequence[Any] = (),
    ) -> Graphs:
        """Record both, which nobody but the graphs calls any more; `numbers` are those that `forward` draws from."""

    def numbers(self) -> Numbers:
        """A generator on the device."""

    def strict(self) -> contextlib.AbstractContextManager[Any]:
        """Where whatever cannot be recorded raises."""

    def random(self) -> Any:
        """The state of all generators."""

    def again(self, state: Any) -> None:
        """Put that state back."""

    def host_drew(self, state: Any) -> bool:
        """Whether the host's generators moved since: their numbers would be the same in each replay."""


class Take:
    """A recorded pass; subclasses say in `_run` and `_back` what the pass is, and set `inputs` before they record.

    Args:
        standing: the model as it stands.
        trained: tensors of it whose gradients the pass gives, each once.

    Attributes:
        inputs: the static ones; seeds: the static gradients of the outputs.
    """

    def __init__(self, standing: Standing, trained: Iterable[Tensor]) -> None:
        self.standing = standing
        self.trained = list(trained)
        self._aliases = {
            id(t): nn.Parameter(t.detach())
            if isinstance(t, nn.Parameter)
            else t.detach().requires_grad_()
            for t in self.trained
        }
        self.inputs: list[Tensor] = []
        self.seeds: list[Tensor] = []
        self._positions = Positions()
        self._graphs: Graphs

    def _run(self) -> list[Tensor]:
        """The forward pass on the static inputs."""
        raise NotImplementedError

    def _back(self, outs: list[Tensor], rehearsed: bool = False) -> list[Tensor | None]:
        """The backward pass from `seeds`: the gradients of what is wanted.

        Args:
            outs: of `_run`.
            rehearsed: look for trained tensors that the pass reads under their own name, too.

        Raises:
            Unfit: there are such tensors.
        """
        raise NotImplementedError

    def _rewind(self) -> None:
        """Put back what a rehearsal or a replay moves beside generators and buffers."""

    def _drawn(self) -> Sequence[Numbers]:
        """The generators of its own that the rehearsed pass drew from."""
        return ()

    def _held(self) -> Any:
        """What the graphs read or write beside their own memory, and a later pass might let go."""
        return None

    def _record(self, model: nn.Module, machine: Machine) -> None:
        """Rehearse, capture, compare.

        Raises:
            Unfit: the pass cannot be recorded.
        """
        before = machine.random()
        buffers = [(b, b.clone()) for b in model.buffers() if not b.is_inference()]

        def put_back() -> None:
            machine.again(before)
            self._rewind()
            with torch.no_grad():
                for b, value in buffers:  # a batch norm's change without a trace in their versions
                    b.copy_(value)

        try:
            with machine.beside():
                rehearsed = self._rehearse(put_back, machine, before)
            drawn = self._drawn()
            self._pools(model)
            self._graphs = machine.capture(self._known, self._back, drawn)
            # the graphs write into copies that these hold
            self._forms = _forms(model), self._held()
        finally:
            put_back()
        if not self.standing.holds():
            raise Unfit("the forward pass exchanges a module, a buffer or a graft of its own model")
        self._compare(model, rehearsed, lambda: self._more(put_back, machine))
        put_back()

    def _rehearse(
        self, put_back: Callable[[], None], machine: Machine, before: Any
    ) -> list[list[Tensor | None]]:
        """Outputs and gradients of the last two rehearsals, the last one first."""
        found: list[list[Tensor | None]] = []
        for turn in range(REHEARSALS):
            put_back()
            strict = machine.strict() if turn == REHEARSALS - 1 else contextlib.nullcontext()
            with as_if_captured(), strict:
                learns = self._positions.know() if turn else self._positions.learn(self.inputs)
                with saved_plainly(), learns:
                    outs = self._run()
                if any(t.grad_fn is not None and recomputes(t.grad_fn) for t in outs):
                    raise Unfit(RECOMPUTED)
                # by this thread, as in the capture: a library's handle, and what it has planned, belong to a thread
                with torch.autograd.set_multithreading_enabled(False):
                    grads = self._back(outs, rehearsed=True)
            if machine.host_drew(before):
                raise Unfit(
                    "the forward pass draws random numbers on the host, which each replay would repeat"
                )
            found = [[*(t.detach() for t in outs), *grads], *found[:1]]
        return found

    def _known(self) -> list[Tensor]:
        with self._positions.know():
            return self._run()

    def _pools(self, model: nn.Module) -> None:
        """Have the copies of all factors made inside the recording, by its first layer."""
        for fast in _fasts(model):
            fast.pool.due = True
            if fast._kept is not None:
                fast._kept.form.twin.fresh = False

    @contextlib.contextmanager
    def _renamed(self) -> Iterator[None]:
        """The trained parameters as other objects in the same memory."""
        places = [p for p in self.standing.trained if id(p[2]) in self._aliases]
        for there, name, t in places:
            there[name] = self._aliases[id(t)]
        twins.tape.on = True
        try:
            yield
        finally:
            twins.tape.on = False
            for there, name, t in places:
                there[name] = t

    def _more(self, put_back: Callable[[], None], machine: Machine) -> list[list[Tensor | None]]:
        """Outputs and gradients of further rehearsals, beside the recording, if there is memory for them."""
        found: list[list[Tensor | None]] = []
        try:
            with machine.beside():
                for _ in range(MORE):
                    put_back()
                    with as_if_captured(), torch.autograd.set_multithreading_enabled(False):
                        outs = self._known()
                        found.append(
                            [*(t.detach() for t in outs), *self._back(outs, rehearsed=True)]
                        )
        except torch.OutOfMemoryError:
            for p in self._aliases.values():
                p.grad = None
        finally:
            put_back()
        return found

    def _compare(
        self,
        model: nn.Module,
        rehearsed: list[list[Tensor | None]],
        more: Callable[[], list[list[Tensor | None]]],
    ) -> None:
        """The first replay gives what the rehearsals gave.

        Raises:
            Unfit: it does not: the pass depends on something that a recording does not see.
        """
        outputs = len(self._graphs.outs)
        names, replayed = self._names(model, outputs), self._replay()
        found = gaps(names, replayed, rehearsed, outputs)
        if not all(g.fits for g in found):
            # what adds in no fixed order may have happened to agree in the first two
            found = gaps(names, replayed, [*rehearsed, *more()], outputs)
        unlike = unsteady(found)
        if unlike is not None:
            raise Unfit(unlike)
        places = [i for i, g in enumerate(found) if not g.fits]
        if places:
            before = copies(replayed)
            apart = distances(before, self._replay())
            raise Unfit(told([found[i] for i in places], len(found), [apart[i] for i in places]))

    def _replay(self) -> list[Tensor | None]:
        """What a replay gives, until the next one."""
        self._graphs.forward()
        self._graphs.backward()
        return [t if t is None else t.detach() for t in (*self._graphs.outs, *self._graphs.grads)]

    def _names(self, model: nn.Module, outputs: int) -> list[str]:
        """What the outputs and the gradients are called in a message."""
        own = {id(t): name for name, t in (*model.named_buffers(), *model.named_parameters())}
        inputs = len(self._graphs.grads) - len(self.trained)
        return [
            *(f"output {i}" for i in range(outputs)),
            *(f"the gradient of input {i}" for i in range(inputs)),
            *(f"the gradient of {own.get(id(t), '?')}" for t in self.trained),
        ]


def seeds_like(outs: Iterable[Tensor]) -> list[Tensor]:
    """Random gradients for outputs, the same each time, whatever torch's own generators are at."""
    found = []
    for t in outs:
        generator = torch.Generator(t.device).manual_seed(SEED)
        found.append(torch.empty_like(t, requires_grad=False).normal_(generator=generator))
    return found


def copies(grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Copies of tensors, those of one dtype in one operation."""
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
