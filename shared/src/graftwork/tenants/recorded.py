"""Shared passes as CUDA graphs: recorded when they come again, replayed from then on.

The backbone's forward pass and its backward pass are a graph each; joining, every task's loss, clipping and steps run
between and behind them as they are. A graph holds the operations of the plain pass, so rows stay as far apart as
there. A task that draws random numbers has a generator in the graph, which goes on where the task's stream stands.

All recordings share one pool of memory. That is safe in any order since a pass's backward follows its forward, and what
a pass gives out lies outside of the pool.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graftwork.recording.around import Unfit, described, reason_of, uncached
from graftwork.recording.recorder import MOST_AGAIN, machine_for, modes
from graftwork.recording.standing import Standing
from graftwork.recording.take import ELSEWHERE, Machine, Numbers, Take, copies, seeds_like
from graftwork.tenants.align import Aligned
from graftwork.tenants.batches import Joined
from graftwork.tenants.mix import KEPT, Mix
from graftwork.tenants.streams import Stream
from graftwork.tenants.task import Tenant

#: replays after which a recording was worth its rehearsals
PAYS = 16
FIRST = "the first pass of its kind"
Body = Callable[[nn.Module, Any], Tensor]


class _StandIn(Stream):
    """A task's stream inside a recorded pass: a generator that the graph knows."""

    def __init__(self, numbers: Numbers) -> None:
        super().__init__(0)
        self.numbers = numbers

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        with self.numbers.on():
            yield


class RecordedPass(Take):
    """The shared part of one hybrid task's pass.

    Args:
        model: the root of the grafted model.
        body: as `Runner` takes it.
        joined: of the batch at hand; its tensors are copied.
        tenants: the tasks of the pass.
        standing: the model as it stands.
        machine: what records.

    Attributes:
        replays: so far.

    Raises:
        Unfit: it cannot be recorded.
    """

    def __init__(
        self,
        model: nn.Module,
        body: Body,
        joined: Joined,
        tenants: Sequence[Tenant],
        standing: Standing,
        machine: Machine,
    ) -> None:
        super().__init__(standing, {id(p): p for t in tenants for p in t.parameters}.values())
        self.replays = 0
        self._tenants, self._body, self._segments = list(tenants), body, joined.segments
        self._device = self.trained[0].device
        for t in _tensors(joined.inputs):
            if t.device != self._device:
                raise Unfit(f"an input lies on {t.device}, the model on {self._device}")
            if t.requires_grad:
                raise Unfit("an input asks for a gradient")
        self._static = _copied(joined.inputs)
        self.inputs = _tensors(self._static)
        self._streams = {t.name: _StandIn(machine.numbers()) for t in tenants}
        self._starts = {t.name: t.stream.state(self._device) for t in tenants}
        self._mix = Mix(model, self._streams)
        self._given: list[Tensor | None] = []
        self._drawing: list[Tenant] = []
        self._record(model, machine)

    @property
    def bytes(self) -> int:
        """Of memory that recording it reserved."""
        return self._graphs.bytes

    def forward(self, inputs: Any) -> Tensor:
        """Replay the forward pass; the body's output, which no later replay overwrites."""
        self.replays += 1
        torch._foreach_copy_(self.inputs, _tensors(inputs))
        for t in self._drawing:
            self._streams[t.name].numbers.put(t.stream.state(self._device))
        self._graphs.forward()
        for t in self._drawing:
            t.stream.put(self._device, self._streams[t.name].numbers.get())
        return self._graphs.outs[0].detach().clone()

    def seed(self) -> Tensor:
        """Zeros, to become the gradient of the output in place."""
        return self.seeds[0].zero_()

    def backward(self) -> None:
        """Replay the backward pass; gradients are added to the tasks' parameters.

        A task that steps at every batch gets the recording's own tensors, which hold until the next replay.
        """
        self._graphs.backward()
        found = dict(zip(map(id, self.trained), self._graphs.grads, strict=True))
        for t in self._tenants:
            grads = [found[id(p)] for p in t.parameters]
            if t.task.accumulate > 1:
                grads = copies(grads)
            for p, g in zip(t.parameters, grads, strict=True):
                if g is not None:
                    p.grad = g if p.grad is None else p.grad.add_(g)

    def _run(self) -> list[Tensor]:
        mix, kind = self._mix, self._device.type
        left: dict[str, list[Tensor]] = {}
        with self._renamed(), uncached(kind), torch.enable_grad(), mix.on(self._segments):
            mix.left = left
            try:
                hidden = self._body(mix.model, self._static)
            finally:
                mix.left = None
        more = sorted(name for name, extra in left.items() if extra)
        if more:
            raise Unfit(f"the methods of {more} leave a part of the loss beside the output")
        if not hidden.requires_grad:
            raise Unfit("the output has no gradient")
        return [hidden]

    def _back(self, outs: list[Tensor], rehearsed: bool = False) -> list[Tensor | None]:
        if not self.seeds:
            self.seeds = seeds_like(outs)
        own = [self._aliases[id(p)] for p in self.trained]
        torch.autograd.backward(outs, self.seeds)
        found = [p.grad for p in own]
        astray = [p for p in self.trained if p.grad is not None]
        for p in (*own, *astray):
            p.grad = None
        if astray:
            raise Unfit(ELSEWHERE)
        if rehearsed:
            if not self._given:
                self._given = [None if g is None else torch.empty_like(g) for g in found]
            return found
        if [g is None for g in found] != [g is None for g in self._given]:
            raise Unfit("another tensor has a gradient in each pass")
        there = [(to, g) for to, g in zip(self._given, found, strict=True) if to is not None]
        torch._foreach_copy_([to for to, _ in there], [g for _, g in there])  # type: ignore[misc]
        return list(self._given)

    def _rewind(self) -> None:
        for name, start in self._starts.items():
            self._streams[name].numbers.put(start)

    def _held(self) -> Any:
        return self._mix.held()

    def _drawn(self) -> Sequence[Numbers]:
        def moved(t: Tenant) -> bool:
            return not torch.equal(self._streams[t.name].numbers.get(), self._starts[t.name])

        self._drawing = [t for t in self._tenants if moved(t)]
        return [self._streams[t.name].numbers for t in self._drawing]


class Recordings:
    """The recorded passes of a runner, and what became of each pass.

    A pass is recorded when one of its kind (tasks, their rows, shapes, autocast) comes a second time. What acts on the
    model (a graft more or less, `train`, another weight) is noticed at the next pass, which is recorded anew.

    Args:
        most: recordings that are kept; the one that was not needed for longest makes room.
        tell: gets one line for each reason why a pass ran as it is, once.
        machine: makes what records, for tests; `None`: CUDA graphs on the model's device.

    Attributes:
        recorded: recordings made; replayed: passes answered by a replay.
        plain: passes that ran as they are, by reason.
    """

    def __init__(
        self,
        most: int = 4,
        tell: Callable[[str], object] = print,
        machine: Callable[[], Machine] | None = None,
    ) -> None:
        self.most, self.tell = most, tell
        self.recorded = self.replayed = 0
        self.plain: Counter[str] = Counter()
        self._make = machine
        self._machine: Machine | None = None
        self._kept: dict[Any, RecordedPass] = {}
        self._seen: dict[Any, None] = {}
        self._unfit: dict[Any, tuple[Standing, str]] = {}
        self._wasted = 0
        self._stopped: str | None = None

    def __str__(self) -> str:
        why = "; ".join(f"{n} plain: {reason}" for reason, n in self.plain.items())
        return f"{self.replayed} passes replayed of {self.recorded} recorded" + (
            f"; {why}" if why else ""
        )

    @property
    def bytes(self) -> int:
        """Of memory that making those which are kept reserved."""
        return sum(tape.bytes for tape in self._kept.values())

    def find(
        self, model: nn.Module, body: Body, joined: Joined, tenants: Sequence[Tenant]
    ) -> RecordedPass | None:
        """The recording that serves this pass, made here if need be; `None`: it runs as it is."""
        try:
            found = self._find(model, body, joined, tenants)
        except Unfit as unfit:
            why = str(unfit)
            if why not in self.plain and why != FIRST:
                self.tell(f"a pass is not recorded and runs as it is: {why}")
            self.plain[why] += 1
            return None
        self.replayed += 1
        return found

    def stop(self) -> bool:
        """Drop all recordings, since memory ran out, and make no others; whether there were any."""
        held = bool(self._kept)
        self._stopped = "a pass found no memory beside the recorded ones"
        self._kept.clear()
        self._machine = None
        return held

    def _find(
        self, model: nn.Module, body: Body, joined: Joined, tenants: Sequence[Tenant]
    ) -> RecordedPass:
        if self._stopped is not None:
            raise Unfit(self._stopped)
        key = _kind(joined)
        tape = self._kept.pop(key, None)
        if tape is not None and not tape.standing.holds():
            self._kept[key] = tape
            for other in [k for k, t in self._kept.items() if not t.standing.holds()]:
                self._drop(other)
            tape = None
        if tape is None:
            if key not in self._seen:
                if len(self._seen) >= KEPT:
                    self._seen.clear()
                self._seen[key] = None
                raise Unfit(FIRST)
            tape = self._record(key, model, body, joined, tenants)
        self._kept[key] = tape  # the last one now
        why = tape.standing.now()
        if why is not None:
            raise Unfit(why)
        return tape

    def _record(
        self, key: Any, model: nn.Module, body: Body, joined: Joined, tenants: Sequence[Tenant]
    ) -> RecordedPass:
        before, why = self._unfit.get(key, (None, ""))
        if before is not None and before.holds():
            raise Unfit(why)
        standing = Standing(model)
        passing = standing.now()
        if passing is not None:
            raise Unfit(passing)
        if self._wasted >= MOST_AGAIN:
            raise Unfit(
                f"{MOST_AGAIN} recordings were dropped before {PAYS} replays: tasks or shapes change too often"
            )
        while len(self._kept) >= self.most:
            self._drop(next(iter(self._kept)))
        try:
            lasting = standing.ever(model)
            if lasting is not None:
                raise Unfit(lasting)
            if self._machine is None:
                made = self._make() if self._make else machine_for(standing, shared=True)
                self._machine = made
            tape = RecordedPass(model, body, joined, tenants, standing, self._machine)
        except Exception as error:  # what is no matter of recording comes again in the plain pass
            if len(self._unfit) >= KEPT:
                self._unfit.clear()
            self._unfit[key] = standing, reason_of(error)
            self._empty()
            raise Unfit(reason_of(error)) from None
        self.recorded += 1
        return tape

    def _drop(self, key: Any) -> None:
        self._wasted += self._kept.pop(key).replays < PAYS
        self._empty()

    def _empty(self) -> None:
        """A pool that no graph is in any more cannot be recorded into again."""
        if not self._kept:
            self._machine = None


def _parts(inputs: Any) -> tuple[list[Tensor], list[Any], Any]:
    """A body's inputs: the tensors, what else its operations depend on, and how all is nested."""
    leaves, spec = pytree.tree_flatten(inputs)
    tensors: list[Tensor] = []
    rest: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Aligned):
            tensors += leaf.inputs.values()
            rest.append((leaf.layout, leaf.chunks, tuple(leaf.inputs)))
        elif isinstance(leaf, Tensor):
            tensors.append(leaf)
            rest.append(Tensor)
        else:
            rest.append(leaf)
    return tensors, rest, spec


def _tensors(inputs: Any) -> list[Tensor]:
    return _parts(inputs)[0]


def _kind(joined: Joined) -> Any:
    """What two passes have in common that one recording serves."""
    tensors, rest, spec = _parts(joined.inputs)
    if not tensors:
        raise Unfit("the inputs hold no tensor")
    key = (joined.segments, str(spec), tuple(rest), tuple(map(described, tensors)), modes())
    try:
        hash(key)
    except TypeError:
        raise Unfit("an input is neither a tensor nor a plain value") from None
    return key


def _copied(inputs: Any) -> Any:
    """The same with copies of its tensors."""

    def own(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.detach().clone().requires_grad_(leaf.requires_grad)
        if isinstance(leaf, Aligned):
            return dataclasses.replace(leaf, inputs={k: own(t) for k, t in leaf.inputs.items()})
        return leaf

    return pytree.tree_map(own, inputs)
