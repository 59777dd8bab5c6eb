"""Data-layer selection inside a Lightning fit: the same as by hand, and resumed exactly."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import graftwork as gw
from graftwork.lightning import DataLayerSelection, ExactResume, ResumableLoader, StepCheckpoint
from graftwork.lightning.data import mixed_seed, sample_generator
from graftwork.lightning.output import settle_output
from graftwork.lightning.resume import keyed
from graftwork.lightning.strategies import ShardedBase
from tests.selection.selection_helpers import Tokens


@pytest.fixture(autouse=True)
def quiet_libraries() -> Iterator[None]:
    with warnings.catch_warnings():
        settle_output(quiet=True, verbose=False)
        yield


class Sequences(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        x = torch.randn(4, 5, generator=sample_generator(1, *place))
        return x, x.sum(0)[:3].sin()


class Module(LightningModule):
    """A grafted net with dropout in the base, so that random states matter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(Tokens(), nn.Dropout(0.2))
        gw.graft(self.network, gw.LoRA(2), sites=["*.blocks.*"], also_train=["0.head"], seed=0)
        self.losses: list[float] = []
        self.calls = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.calls += 1
        loss = nn.functional.mse_loss(self.network(batch[0]), batch[1])
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def on_after_backward(self) -> None:
        self.losses.append(sum(float(p.grad.sum()) for p in gw.get(self.network).parameters()))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.02)


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise ZeroDivisionError


def fit(
    folder: Path | None,
    module: LightningModule,
    *callbacks: Callback,
    resume: bool = False,
    loader: Any = None,
    exact: bool = True,
    **options: Any,
) -> Trainer:
    extra: list[Callback] = [ExactResume(7)] if exact else []
    keeper = StepCheckpoint(folder, every=1) if folder else None
    extra += [keeper] if keeper else []
    trainer = Trainer(
        **{"max_epochs": 2, **options},
        accelerator="cpu",
        logger=False,
        enable_checkpointing=keeper is not None,
        callbacks=[*callbacks, *extra],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train = loader or ResumableLoader(Sequences(), batch_size=4, seed=7)
    trainer.fit(module, train, ckpt_path=keeper.path if resume and keeper else None)
    return trainer


def tensors(module: Module) -> dict[str, Tensor]:
    return gw.get(module.network).tensors()


@pytest.mark.parametrize("exact", [False, True])  # without it nobody sets the generators anew
@pytest.mark.parametrize("accumulate", [1, 2])
def test_with_all_samples_the_run_is_the_carriers(accumulate: int, exact: bool) -> None:
    ours, plain = Module().double(), Module().double()
    callback = DataLayerSelection(keep=4)
    options: dict[str, Any] = {"accumulate_grad_batches": accumulate, "exact": exact}
    for module, callbacks in ((ours, [callback]), (plain, [])):
        torch.manual_seed(5)
        loader = ResumableLoader(Doubles(), batch_size=4, seed=7)
        fit(None, module, *callbacks, loader=loader, **options)
    for n, t in tensors(plain).items():
        torch.testing.assert_close(tensors(ours)[n], t, rtol=1e-9, atol=1e-10)
    assert ours.calls == 2 * plain.calls == 12
    assert callback.gast is not None and set(callback.gast.chosen) == {"0"}


class Doubles(Sequences):
    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(place)
        return x.double(), y.double()


def test_the_fit_is_the_loop_by_hand() -> None:
    """One support set as given, no dropout: the callback's steps are those of `gw.GAST` in a loop."""
    rng = torch.Generator().manual_seed(0)
    own = TensorDataset(torch.randn(9, 4, 5, generator=rng), torch.randn(9, 3, generator=rng))

    class Plain(Module):
        def __init__(self) -> None:
            super().__init__()
            self.network[1] = nn.Dropout(0.0)

    module, twin = Plain(), Plain()
    support = DataLoader(own, batch_size=1)
    callback = DataLayerSelection(support, keep=2, support_size=3, seed=5, layers="module")
    fit(None, module, callback)

    g = gw.get(twin.network)
    gast = gw.GAST(g, 2, layers="module", seed=mixed_seed("draw", 5))
    optimizer = twin.configure_optimizers()
    loss = lambda x, y: nn.functional.mse_loss(twin.network(x), y)  # noqa: E731
    loader = ResumableLoader(Sequences(), batch_size=4, seed=7)
    for epoch in range(2):
        loader._order.set_epoch(epoch)
        for i, (x, y) in enumerate(loader):
            seed = mixed_seed("support", 5, epoch, i)
            drawn = torch.randperm(9, generator=torch.Generator().manual_seed(seed))[:3]
            gast.support(loss(*own[drawn]))
            optimizer.zero_grad()
            with gast.batch(4, mixed_seed("batch", epoch, i)):
                loss(x, y).backward()
            optimizer.step()
    for n, t in g.tensors().items():
        torch.testing.assert_close(tensors(module)[n], t, rtol=1e-5, atol=1e-6)
    assert callback.gast is not None
    picked = {n: c.picked.tolist() for n, c in callback.gast.chosen.items()}
    assert picked == {n: c.picked.tolist() for n, c in gast.chosen.items()} and len(picked) == 6


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, accumulate: int) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": accumulate}
    whole = Module()
    fit(tmp_path / "whole", whole, DataLayerSelection(keep=2), **options)
    cut = Module()
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "cut", cut, DataLayerSelection(keep=2), StopAt(2), **options)
    assert not any(m._forward_hooks for m in cut.modules())
    again = Module()
    fit(tmp_path / "cut", again, DataLayerSelection(keep=2), resume=True, **options)
    for n, t in tensors(whole).items():
        assert torch.equal(tensors(again)[n], t)
    other = Module()
    fit(None, other, DataLayerSelection(keep=2, seed=1), **options)
    assert any(not torch.equal(tensors(other)[n], t) for n, t in tensors(whole).items())


def test_generators_are_left_as_they_were() -> None:
    states = lambda: (random.random(), float(np.random.rand()), float(torch.rand(())))  # noqa: E731
    with keyed(1):
        first = states()
    for s in (random.seed, np.random.seed, torch.manual_seed):
        s(3)
    want = states()
    for s in (random.seed, np.random.seed, torch.manual_seed):
        s(3)
    with keyed(1):
        assert states() == first
    assert states() == want


def test_what_is_logged_is_the_batchs_own() -> None:
    class Counts(Module):
        names: list[str]

        def log(self, name: str, *args: Any, **kwargs: Any) -> None:
            self.names.append(name)
            super().log(name, *args, **kwargs)

    module, plain = Counts(), Module()
    module.names = []
    trainer = fit(None, module, DataLayerSelection(keep=4), max_epochs=1)
    other = fit(None, plain, max_epochs=1)
    for key in ("train_loss_epoch", "train_loss_step"):
        torch.testing.assert_close(trainer.logged_metrics[key], other.logged_metrics[key])
    assert 0 <= float(trainer.callback_metrics["gast_negative"]) <= 1
    assert module.names == ["train_loss", "gast_negative"] * 3
    assert "log" not in module.__dict__ and "log_dict" not in module.__dict__


def test_a_step_without_a_loss_is_passed_over() -> None:
    class Skips(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    module = Skips()
    callback = DataLayerSelection(keep=2, loss=lambda m, b: m.network(b[0]).square().mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning remarks on the step without a loss
        fit(None, module, callback, max_epochs=1)
    assert module.calls == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"support_size": 13}, "support_size: 13 samples of a set of 12"),
        ({"keep": 5}, "GAST.keep: 5 samples of a batch of 4"),
        ({"network": "net"}, "Module has no module 'net'"),
        ({"name": "other"}, "no graft 'other'"),
        ({"loss": lambda m, b: 3.0}, "gave no loss"),
        ({"rule": "best"}, "GAST.rule"),
    ],
)
def test_refusals(options: dict[str, Any], words: str) -> None:
    module = Module()
    with pytest.raises(gw.GraftError, match=words):
        fit(None, module, DataLayerSelection(**{"keep": 2, **options}))
    assert not any(m._forward_hooks for m in module.modules())


def test_more_refusals() -> None:
    with pytest.raises(gw.GraftError, match="support_size must be a whole number of at least 1"):
        DataLayerSelection(support_size=0)
    module = Module()
    module.automatic_optimization = False
    with pytest.raises(gw.GraftError, match="optimizes by hand"):
        fit(None, module, DataLayerSelection(keep=2))
    with pytest.raises(gw.GraftError, match="a loader over a data set with a length"):
        fit(None, Module(), DataLayerSelection(iter([]), keep=2))  # type: ignore[arg-type]
    callback = DataLayerSelection(keep=2)
    with pytest.raises(gw.GraftError, match="pass size="):
        callback.size("no tensor")
    assert callback.size({"name": ["a"], "x": torch.zeros(3, 2)}) == 3
    for strategy in ("fsdp", ShardedBase()):
        several: Any = type("T", (), {"world_size": 2, "strategy": strategy})()
        with pytest.raises(gw.GraftError, match="strategy: ddp"):
            callback.on_fit_start(several, Module())
