"""A model's training passes as CUDA graphs, recorded at their first call and replayed from then on.

    with gw.recorded(model) as recorder:
        for x, y in loader:
            loss = task(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    print(recorder)

Where a step's time is the time to issue its operations, a graph issues them all at once. The forward and the backward
pass of `model` are one graph each; loss, accumulation of gradients, scaling, clipping and the optimizer stay as they
are, and so do the values, to rounding, and dropout's stream of random numbers.
"""

from __future__ import annotations

import contextlib
import types
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graftwork.errors import GraftError
from graftwork.fast.siblings import transformed
from graftwork.recording.around import Unfit, described, reason_of
from graftwork.recording.standing import Standing
from graftwork.recording.take import Machine
from graftwork.recording.tape import Tape

#: recordings of one kind of call after which a model counts as one that does not keep still
MOST_AGAIN = 16


class Recorder:
    """What `recorded` yields: what became of each call, and why.

    Args:
        model: whose passes are recorded.
        shapes: kinds of calls (shapes, dtypes, other arguments) that are recorded; others run as they are.
        tell: gets one line for each reason, once.
        machine: records; `None`: CUDA graphs on the model's device.

    Attributes:
        recorded: recordings made, those that another state of the model replaced included.
        replayed: calls answered by a replay.
        plain: calls with gradients that ran as they are, by reason.
    """

    def __init__(
        self,
        model: nn.Module,
        shapes: int = 1,
        tell: Callable[[str], object] = print,
        machine: Machine | None = None,
    ) -> None:
        self.model, self.shapes, self.tell = model, shapes, tell
        self.recorded = self.replayed = 0
        self.plain: Counter[str] = Counter()
        self._machine = machine
        self._own = model.__dict__.get("forward")
        self._tapes: dict[Any, Tape] = {}
        self._unfit: dict[Any, tuple[Standing, str]] = {}
        self._tries: Counter[Any] = Counter()

    def __str__(self) -> str:
        why = "; ".join(f"{n} plain: {reason}" for reason, n in self.plain.items())
        return f"{self.replayed} passes replayed of {self.recorded} recorded" + (
            f"; {why}" if why else ""
        )

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward pass."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling() or transformed():
            return self._forward(*args, **kwargs)
        try:
            tape = self._tape(args, kwargs)
        except Unfit as unfit:
            return self._plainly(str(unfit), args, kwargs)
        self.replayed += 1
        return tape.play(args, kwargs)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        # a graft that comes or goes changes the model's class
        if self._own is not None:
            return self._own(*args, **kwargs)
        return type(self.model).forward(self.model, *args, **kwargs)

    def forget(self) -> None:
        """Drop all recordings and their memory."""
        self._tapes.clear()
        self._unfit.clear()

    def _plainly(self, why: str, args: Any, kwargs: Any) -> Any:
        if why not in self.plain:
            self.tell(f"recorded: runs as it is, without a graph: {why}")
        self.plain[why] += 1
        return self._forward(*args, **kwargs)

    def _tape(self, args: Any, kwargs: Any) -> Tape:
        """The recording that serves this call, made here if need be.

        Raises:
            Unfit: none can.
        """
        key = self._key(args, kwargs)
        tape = self._tapes.get(key)
        if tape is None or not tape.standing.holds():
            tape = self._record(key, args, kwargs)
        why = _passing(tape.standing)
        if why is None and tape.busy():
            why = "an earlier pass still waits for its backward pass"
        if why is not None:
            raise Unfit(why)
        return tape

    def _record(self, key: Any, args: Any, kwargs: Any) -> Tape:
        before, why = self._unfit.get(key, (None, ""))
        if before is not None and before.holds():
            raise Unfit(why)
        standing = Standing(self.model)
        passing = _passing(standing)
        if passing is not None:  # may be over at the next call, and what is recorded may hold then
            raise Unfit(passing)
        self._tapes = {k: t for k, t in self._tapes.items() if t.standing.holds()}
        if len(self._tapes) >= self.shapes:
            raise Unfit(
                f"another kind of call than the {self.shapes} recorded (shapes={self.shapes})"
            )
        try:
            lasting = standing.ever(self.model)
            if lasting is not None:
                raise Unfit(lasting)
            self._tries[key] += 1
            if self._tries[key] > MOST_AGAIN:
                raise Unfit(f"the model was changed {MOST_AGAIN} times since it was first recorded")
            machine = self._machine or machine_for(standing)
            tape = Tape(self.model, self._forward, args, kwargs, standing, machine)
        except (Unfit, RuntimeError, NotImplementedError) as error:
            reason = reason_of(error)
            self._unfit[key] = standing, reason
            raise Unfit(reason) from error
        self._tapes[key] = tape
        self.recorded += 1
        return tape

    def _key(self, args: Any, kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        found: list[Any] = []
        tensors = 0
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                tensors += 1
                found.append(described(leaf))
            else:
                found.append(leaf)
        if not tensors:
            raise Unfit("the call has no tensor")
        key = (str(spec), tuple(found), modes())
        try:
            hash(key)
        except TypeError:
            raise Unfit("an argument is neither a tensor nor a plain value") from None
        return key


def _passing(standing: Standing) -> str | None:
    return standing.now() or ("all grafts are off" if standing.off() else None)


def modes() -> tuple[object, ...]:
    """Autocast, and the switches by which kernels are chosen."""
    cast = tuple(
        (torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in ("cuda", "cpu")
    )
    try:
        products: object = torch.get_float32_matmul_precision()
        convolutions: object = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # torch's older and newer switches say different things
        products = convolutions = None
    return cast, products, convolutions, torch.are_deterministic_algorithms_enabled()


def machine_for(standing: Standing, shared: bool = False) -> Machine:
    """CUDA graphs on the model's device.

    Args:
        standing: the model.
        shared: see `graftwork.recording.cuda.Cuda`.

    Raises:
        Unfit: the model lies elsewhere.
    """
    device = standing.places[0][2].device
    if device.type != "cuda":
        raise Unfit(f"CUDA graphs need a GPU, and the model lies on {device}")
    from graftwork.recording.cuda import Cuda

    return Cuda(device, shared)


class _Door:
    """Stands in for `model.forward` inside the block; a copy of the model, or a pickled one, has its own forward."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.recorder.call(*args, **kwargs)

    def __reduce__(self) -> Any:
        return _own_forward, (self.recorder.model,)


def _own_forward(model: nn.Module) -> Any:
    return types.MethodType(type(model).forward, model)


@contextlib.contextmanager
def recorded(
    model: nn.Module,
    *,
    shapes: int = 1,
    tell: Callable[[str], object] = print,
    machine: Machine | None = None,
) -> Iterator[Recorder]:
    """Record the model's passes with gradients as CUDA graphs, and replay them, inside the block.

    The first call of each kind is rehearsed a few times and recorded; later ones of the same shapes are replayed. What
    acts on the model (`activate`, `off`, `remove`, moving it, freezing and thawing) is noticed at the next call, which
    records anew. What cannot be recorded runs as it is, counted and told once: another shape than those recorded, no
    GPU, gradient checkpointing, hooks inside the model, operations that wait for the device, random numbers drawn on
    the host, `extra_loss`, mixed batches, a pass before the last one's backward. Passes without gradients run as they
    are.

    Each recording keeps a step's activations in memory for itself. Values are those of the plain pass to rounding,
    random numbers the same. A recorded pass has one backward, and no second derivative.

    Args:
        model: any module, grafted or not; the loss is computed outside it. Under DistributedDataParallel: the module
            inside.
        shapes: kinds of calls that are recorded.
        tell: gets a line for each reason why a call ran as it is, once.
        machine: for tests; `None`: CUDA graphs.

    Raises:
        GraftError: `shapes` is no whole number of at least 1, or the model is inside another such block.
    """
    if type(shapes) is not int or shapes < 1:
        raise GraftError(f"recorded: shapes must be a whole number of at least 1, not {shapes!r}")
    there = model.__dict__.get("forward")
    if isinstance(there, _Door):
        raise GraftError("recorded: the model is inside another such block; leave that one first")
    recorder = Recorder(model, shapes, tell, machine)
    model.__dict__["forward"] = _Door(recorder)
    try:
        yield recorder
    finally:
        recorder.forget()
        if there is None:
            del model.__dict__["forward"]
        else:
            model.__dict__["forward"] = there
