"""A LightningModule's `training_step`, cut where it calls its network, or the body of one that has a head apart.

The step is run twice: first until it calls the network, which tells the inputs; then, when the shared pass has the
output, once more with it. What the first part draws at random is drawn the same again.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.tenants.ranks import rows_of

#: arguments of a causal language model that say what a shared pass does anyway
USUAL = {"use_cache": False, "return_dict": True}


Context = Callable[[], contextlib.AbstractContextManager[Any]]


class Answer:
    """What a network of transformers returns, as far as a loss outside of it needs it."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = self.last_hidden_state = logits

    def __getitem__(self, place: int) -> Tensor:
        return (self.logits,)[place]


@dataclass(frozen=True)
class Cut:
    """A step that waits for its network's output.

    Attributes:
        batch, number: of the step.
        random: generators' states where it called its network.
        named: whether its inputs have names.
        weight: over how much its loss is a mean.
    """

    batch: Any
    number: int
    random: list[Tensor]
    named: bool
    weight: float


class _Called(BaseException):
    # no Exception: a step must not catch it
    def __init__(self, part: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.part, self.args_, self.kwargs = part, args, kwargs


class Steps:
    """Batches of a job as the shared run takes them, and their losses.

    Args:
        name: of the job.
        module: whose attribute `network` is the shared backbone.
        loader: of its training data; with `state_dict` it goes on where it stood.
        log: called with (name, value) of what the step logs.
        data: whose hooks bring a batch to the device; without, it is moved as it is.
        context: in which a step runs, such as that of mixed precision.

    Attributes:
        part: name of what the step calls inside the network, found out at the first batch; "" is the whole.
    """

    def __init__(
        self,
        name: str,
        module: LightningModule,
        loader: Any,
        log: Callable[[str, float], None] | None = None,
        data: LightningDataModule | None = None,
        context: Context = contextlib.nullcontext,
    ) -> None:
        self.name, self.module, self.loader, self._log = name, module, loader, log
        self.data, self.context = data, context
        self.part: str | None = None
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[Any, Cut]]:
        place = getattr(self.loader, "state_dict", None)
        for number, batch in enumerate(self.loader):
            number = place()["batches"] - 1 if callable(place) else number
            yield self.cut(self.moved(batch), number)
        self.epoch += 1
        sampler: Any = getattr(self.loader, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.epoch)

    def moved(self, batch: Any) -> Any:
        """A batch on the module's device."""
        device = next(self.module.parameters()).device
        if self.data is None:
            return move_data_to_device(batch, device)
        batch = self._hook("on_before_batch_transfer")(batch, 0)
        batch = self._hook("transfer_batch_to_device")(batch, device, 0)
        return self._hook("on_after_batch_transfer")(batch, 0)

    def _hook(self, name: str) -> Any:
        """The data's own hook, or the module's, as Lightning chooses."""
        own = getattr(type(self.data), name) is not getattr(LightningDataModule, name)
        return getattr(self.data if own else self.module, name)

    def state_dict(self) -> dict[str, Any]:
        """Where the data stand."""
        own = getattr(self.loader, "state_dict", None)
        return {"epoch": self.epoch, "loader": own() if callable(own) else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand there again.

        Raises:
            GraftError: the loader cannot.
        """
        if state["loader"] is None or not hasattr(self.loader, "load_state_dict"):
            raise GraftError(
                f"job {self.name!r}: its loader is not resumable; return a ResumableLoader from train_dataloader"
            )
        self.loader.load_state_dict(state["loader"])
        self.epoch = self.loader.state_dict()["epoch"]

    def cut(self, batch: Any, number: int) -> tuple[Any, Cut]:
        """The network's inputs of a step, and what its loss needs.

        Raises:
            GraftError: the step does not call its network, or hands it labels.
        """

        def call(part: str, *args: Any, **kwargs: Any) -> Any:
            raise _Called(part, args, kwargs)

        try:
            with _card(self.module):
                random = _random(self.module)
                with self._network(call), self.context():
                    self.module.training_step(batch, number)
        except _Called as called:
            inputs = self._inputs(called)
            self.part = called.part if self.part is None else self.part
            if called.part != self.part:
                raise GraftError(
                    f"job {self.name!r}: its training_step calls its network's {called.part or 'whole'} where it "
                    f"called {self.part or 'the whole'} before; a shared run cuts it at one place"
                ) from None
        else:
            raise GraftError(
                f"job {self.name!r}: its training_step does not call its network, so it cannot share a pass"
            )
        return inputs, Cut(
            batch, number, random, isinstance(inputs, dict), self._weight(batch, inputs)
        )

    def _weight(self, batch: Any, inputs: Any) -> float:
        """What the module says its loss is a mean over, such as tokens; without, the rows of its inputs."""
        own = getattr(self.module, "loss_weight", None)
        return float(own(batch) if callable(own) else rows_of(self.name, inputs))

    def _inputs(self, called: _Called) -> Any:
        args, kwargs = called.args_, called.kwargs
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            return args[0]
        if kwargs.get("labels") is not None:
            raise GraftError(
                f"job {self.name!r}: its network computes the loss (labels=); compute it in training_step from the "
                "network's output, so that each job has its own"
            )
        named = {
            k: v
            for k, v in kwargs.items()
            if v is not None and not (isinstance(v, bool) and USUAL.get(k) is v)
        }
        if not args and named and all(isinstance(v, Tensor) for v in named.values()):
            return named
        raise GraftError(
            f"job {self.name!r}: its training_step calls the network with other things than one tensor or named tensors"
        )

    def loss(self, output: Tensor, cut: Cut) -> Tensor:
        """The rest of the step.

        Raises:
            GraftError: it calls its network twice, or returns no loss.
        """
        calls = 0
        outer = _random(self.module)

        def call(part: str, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise GraftError("its training_step calls its network more than once in a step")
            _set_random(self.module, outer)
            return Answer(output) if cut.named else output

        _set_random(self.module, cut.random)
        with self._network(call), self.context():
            found = self.module.training_step(cut.batch, cut.number)
        loss = found.get("loss") if isinstance(found, dict) else found
        if not isinstance(loss, Tensor):
            raise GraftError(f"its training_step returned {type(loss).__name__}, not a loss")
        return loss

    def _network(self, call: Callable[..., Any]) -> contextlib.AbstractContextManager[None]:
        return _stubbed(self.module, call, self._log)


@contextlib.contextmanager
def _card(module: LightningModule) -> Iterator[None]:
    """Inside, what the module's card draws follows from the CPU's generator, which is the job's own there."""
    device = next(module.parameters()).device
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_rng_state(device)
    with torch.cuda.device(device):
        torch.cuda.manual_seed(int(torch.randint(2**62, ())))
    try:
        yield
    finally:
        torch.cuda.set_rng_state(before, device)


def _random(module: LightningModule) -> list[Tensor]:
    device = next(module.parameters()).device
    return [
        torch.get_rng_state(),
        *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else []),
    ]


def _set_random(module: LightningModule, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], next(module.parameters()).device)


@contextlib.contextmanager
def hearing(module: LightningModule, log: Callable[..., None]) -> Iterator[None]:
    """Inside, what the module logs goes to `log`, called as `LightningModule.log` is."""

    def log_dict(values: Any, *args: Any, **kwargs: Any) -> None:
        for name, value in values.items():
            log(name, value, *args, **kwargs)

    module.__dict__["log"], module.__dict__["log_dict"] = log, log_dict
    try:
        yield
    finally:
        del module.__dict__["log"], module.__dict__["log_dict"]


@contextlib.contextmanager
def _stubbed(
    module: LightningModule,
    call: Callable[..., Any],
    log: Callable[[str, float], None] | None,
) -> Iterator[None]:
    """Inside, the module's network answers with `call`, and what is logged goes where we say."""

    def heard(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if log is not None:
            log(name, float(value))

    called = parts(module.network)
    with hearing(module, heard):
        for part, inside in called.items():
            inside.__dict__["forward"] = functools.partial(call, part)
        try:
            yield
        finally:
            for inside in called.values():
                del inside.__dict__["forward"]


def parts(network: Any) -> dict[str, Any]:
    """What of a network a step may call: the whole, and in a model of transformers with a head its body."""
    name = getattr(network, "base_model_prefix", "")
    body = getattr(network, name, None) if isinstance(name, str) and name else None
    return {"": network} | ({name: body} if isinstance(body, nn.Module) else {})
