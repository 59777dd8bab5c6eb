"""Data-layer selection (`graftwork.GAST`) as a Lightning callback: each layer trains on its own part of a batch.

Before each training batch the callback draws a small support batch and takes its gradient; after the backward it
puts each layer's own gradient in place of the ordinary one. Clipping, accumulation and the optimizer see only
that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import default_collate as collate

from graftwork.errors import GraftError
from graftwork.handle import get
from graftwork.lightning.data import ShuffleSampler, mixed_seed
from graftwork.lightning.resume import keyed
from graftwork.lightning.strategies import ShardedBase
from graftwork.selection.gast import GAST


class DataLayerSelection(Callback):
    """GAST on one graft of the network, with automatic optimization, in one process or under DDP.

    The training loss must be a mean over the batch of terms that see one sample each. Every draw is a function of
    (seed, epoch, batch), and the support pass leaves all generators as it found them: a resumed run goes on bit for
    bit, and with K = B the run is that of the graft without the callback, to rounding. Under gradient accumulation
    each micro-batch is scored and drawn on its own. Under DDP the support batch has `support_size` samples of each
    process, and each process draws from its own batch.

    Args:
        support: loader over the support set; only its data set and collation are used. `None`: the training set
            itself, the paper's default. A clean set that is held out is a stronger method, and more data: say so.
        keep: K, samples of a batch that train each layer.
        support_size: samples of a support batch in each process.
        loss: (module, batch) -> mean loss of a support batch; `None` takes `training_step`, its logging left out.
        network: the module's attribute that is grafted.
        name: of the graft.
        size: batch -> B; `None` takes the length of its first tensor.
        seed: of all draws.
        layers, temperature, rule, folded: of `graftwork.GAST`.

    Attributes:
        gast: from the start of the fit on; `gast.chosen` has the last batch's scores and draws.
    """

    def __init__(
        self,
        support: DataLoader[Any] | None = None,
        *,
        keep: int = 8,
        support_size: int = 4,
        loss: Callable[[Any, Any], Tensor] | None = None,
        network: str = "network",
        name: str = "default",
        size: Callable[[Any], int] | None = None,
        seed: int = 0,
        layers: str | Callable[[str], str] = "block",
        temperature: float = 1.0,
        rule: str = "softmax",
        folded: bool = False,
    ) -> None:
        if type(support_size) is not int or support_size < 1:
            raise GraftError(
                f"DataLayerSelection.support_size must be a whole number of at least 1, not {support_size!r}"
            )
        self.support, self.keep, self.support_size, self.loss = support, keep, support_size, loss
        self.network, self.name, self.size, self.seed = network, name, size or _length, seed
        self.options: dict[str, Any] = {
            "layers": layers,
            "temperature": temperature,
            "rule": rule,
            "folded": folded,
        }
        self.gast: GAST | None = None
        self._open = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the graft.

        Raises:
            GraftError: no such network or graft, several processes without DDP, manual optimization, or whatever `GAST`
                refuses.
        """
        network = getattr(pl_module, self.network, None)
        if not isinstance(network, nn.Module):
            raise GraftError(
                f"DataLayerSelection.network: {type(pl_module).__name__} has no module {self.network!r}"
            )
        several = trainer.world_size > 1
        whole = isinstance(trainer.strategy, DDPStrategy)
        if several and (not whole or isinstance(trainer.strategy, ShardedBase)):
            raise GraftError(
                "DataLayerSelection: several processes need the whole of each tensor in each of them; use strategy: ddp"
            )
        if not pl_module.automatic_optimization:
            raise GraftError(
                "DataLayerSelection: the module optimizes by hand; use graftwork.GAST in its training_step"
            )
        graft = get(network, self.name)
        seed = mixed_seed("draw", self.seed)
        self.gast = GAST(graft, self.keep, seed=seed, processes=several, **self.options)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the support gradient, then listen.

        Raises:
            GraftError: a batch with fewer samples than K, or of no known length.
        """
        place = trainer.current_epoch, batch_idx
        seed = mixed_seed("support", self.seed, *place)
        with keyed(seed):
            own = self._support_batch(trainer, place[0], seed)
            # as Lightning moves its own batches, hooks and data module included
            own = trainer.precision_plugin.convert_input(own)
            own = pl_module._on_before_batch_transfer(own, dataloader_idx=0)
            own = trainer.strategy.batch_to_device(own, dataloader_idx=0)
            with trainer.precision_plugin.train_step_context(), _unlogged(pl_module):
                self._gast().support(self._loss(pl_module, own, batch_idx))
        self._gast().begin(self.size(batch), mixed_seed("batch", *place))
        self._open = True

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Set aside what an accumulation has gathered so far."""
        if self._open:
            self._gast().mark()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Each layer's own gradient in place of the ordinary one."""
        if self._open:
            self._open = False
            chosen = self._gast().finish()
            if chosen:
                share = sum(c.negative for c in chosen.values()) / len(chosen)
                pl_module.log("gast_negative", share, batch_size=1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step that returned no loss had no backward."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave no hook behind."""
        self._close()

    def _close(self) -> None:
        self._open = False
        if self.gast is not None:
            self.gast.release()

    def _gast(self) -> GAST:
        assert self.gast is not None  # on_fit_start came first
        return self.gast

    def _support_batch(self, trainer: Trainer, epoch: int, seed: int) -> Any:
        loader = self.support if self.support is not None else trainer.train_dataloader
        data: Any = getattr(loader, "dataset", None)
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            raise GraftError(
                "DataLayerSelection.support: needs a loader over a data set with a length and an index"
            )
        size, count, mine = self.support_size, trainer.world_size, trainer.global_rank
        if size * count > len(data):
            each = f" in each of {count} processes" if count > 1 else ""
            raise GraftError(
                f"DataLayerSelection.support_size: {size} samples{each} of a set of {len(data)}"
            )
        drawn = torch.randperm(len(data), generator=Generator().manual_seed(seed))
        places: list[Any] = drawn[size * mine : size * (mine + 1)].tolist()
        if isinstance(getattr(loader, "sampler", None), ShuffleSampler):
            places = [(epoch, i) for i in places]
        return (getattr(loader, "collate_fn", None) or collate)([data[i] for i in places])

    def _loss(self, module: LightningModule, batch: Any, batch_idx: int) -> Tensor:
        made: Any = (
            module.training_step(batch, batch_idx)
            if self.loss is None
            else self.loss(module, batch)
        )
        made = made.get("loss") if isinstance(made, dict) else made
        if not isinstance(made, Tensor):
            raise GraftError("DataLayerSelection.loss: the support batch gave no loss")
        return made


def _length(batch: Any) -> int:
    leaves = torch.utils._pytree.tree_leaves(batch)
    found = next((t for t in leaves if isinstance(t, Tensor) and t.dim() > 0), None)
    if found is None:
        raise GraftError("DataLayerSelection.size: the batch has no tensor; pass size=")
    return len(found)


@contextlib.contextmanager
def _unlogged(module: LightningModule) -> Iterator[None]:
    """Keep what a module logs out of the run's figures."""
    module.__dict__.update(log=_nothing, log_dict=_nothing)
    try:
        yield
    finally:
        del module.__dict__["log"], module.__dict__["log_dict"]


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None
