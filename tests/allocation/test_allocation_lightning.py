"""The search inside one Lightning fit: the same as by hand, and resumed exactly."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

import graftwork as gw
from graftwork.allocation import Plan, swin_units
from graftwork.lightning import Allocation, ExactResume, ResumableLoader, StepCheckpoint
from graftwork.lightning.data import sample_generator
from graftwork.lightning.graft_state import optimizer_by_name, parameter_names
from graftwork.lightning.output import settle_output
from tests.allocation.allocation_helpers import LEVELS, batch, net, plain
from tests.lightning.same import differences

PLAN = Plan(
    warm_up=6,
    steps=16,
    audit_every=2,
    allocate_every=4,
    share=0.5,
    memory=0.5,
    votes=1,
    guard=1,
    hysteresis=1e-4,
    ramp=3,
)


@pytest.fixture(autouse=True)
def quiet_libraries() -> Iterator[None]:
    with warnings.catch_warnings():
        settle_output(quiet=True, verbose=False)
        yield


class Sequences(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        x = torch.randn(5, 8, generator=sample_generator(1, *place))
        return x, x[0, :1].sin()


class Module(LightningModule):
    """A frozen net whose head trains beside the units; dropout, so that random states matter."""

    def __init__(self, scheduler: bool = False, groups: Any = None) -> None:
        super().__init__()
        self.network = net(dropout=0.2)
        gw.graft(self.network, gw.LoRA(1), sites=[], also_train=["head"], name="head", seed=0)
        self.scheduler, self.own_groups = scheduler, groups
        self.rates: list[dict[str, float]] = []
        self.validated: list[tuple[str, ...]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.rates.append(
            {g["unit"]: g["lr"] for g in self.optimizers().param_groups if "unit" in g}
        )
        return nn.functional.mse_loss(self.network(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(tuple(gw.active(self.network)))

    def audit_score(self, network: nn.Module) -> Tensor:
        x = batch(50, 32)
        return -nn.functional.mse_loss(network(x), x[:, 0, :1].sin())

    def configure_optimizers(self) -> Any:
        params = [p for p in self.parameters() if p.requires_grad]
        if self.own_groups is not None:
            owned = {id(p) for g in self.own_groups() for p in g["params"]}
            params = [
                {"params": [p for p in params if id(p) not in owned]},
                *self.own_groups(),
            ]
        optimizer = torch.optim.AdamW(params, lr=0.02)
        if not self.scheduler:
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise ZeroDivisionError


def allocation(**options: Any) -> tuple[Allocation, list[str]]:
    lines: list[str] = []
    settings = {"budget": 150, "plan": PLAN, "beside": ["head"], "say": lines.append, **options}
    units = settings.pop("units", lambda m: swin_units(m, levels=LEVELS))
    return Allocation(units, **settings), lines


def fit(
    folder: Path,
    module: Module,
    callback: Allocation,
    *extra: Callback,
    resume: bool = False,
    **options: Any,
) -> Trainer:
    keeper = StepCheckpoint(folder, every=1)
    trainer = Trainer(
        max_epochs=options.pop("max_epochs", 40),
        accelerator="cpu",
        logger=False,
        callbacks=[callback, *extra, ExactResume(7), keeper],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    train = ResumableLoader(Sequences(), batch_size=4, seed=7)
    valid = ResumableLoader(Sequences(), batch_size=20, seed=7, shuffle=False)
    trainer.fit(module, train, valid, ckpt_path=keeper.path if resume else None)
    return trainer


def ending(trainer: Trainer, callback: Allocation) -> dict[str, Any]:
    module = trainer.lightning_module
    names = parameter_names(module)
    optimizer = trainer.optimizers[0]
    return {
        "search": plain(callback.search.state_dict()),
        "weights": {names[id(p)]: p.detach() for p in module.parameters()},
        "optimizer": optimizer_by_name(optimizer.state_dict(), optimizer, names),
        "active": gw.active(module.network),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str], Module]:
    with warnings.catch_warnings():
        settle_output(quiet=True, verbose=False)
        callback, lines = allocation()
        module = Module()
        trainer = fit(tmp_path_factory.mktemp("whole"), module, callback)
        return ending(trainer, callback), lines, module


def test_a_fit_searches_stops_and_leaves_a_set(whole: Any) -> None:
    end, lines, module = whole
    search = end["search"]
    assert search["step"] == 22 and len(module.rates) == 22
    assert [line.split(":")[0] for line in lines] == [
        *(f"step {s}" for s in range(10, 23, 4)),
        "chosen",
    ]
    assert len(search["diary"]["allocations"]) == 4 and search["set"]
    assert set(end["active"]) == {"head", *search["set"]}
    assert all("head" in names for names in module.validated)
    # before the fit, and in warm-up after 5 batches: nothing but what is in force
    assert module.validated[:2] == [("head",)] * 2
    json.dumps(search, allow_nan=False)


@pytest.mark.parametrize("stop", [3, 6, 13])
def test_a_killed_fit_goes_on_bit_for_bit(tmp_path: Path, whole: Any, stop: int) -> None:
    end, lines, _ = whole
    callback, first = allocation()
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, Module(), callback, StopAt(stop))
    again, rest = allocation()
    trainer = fit(tmp_path, Module(), again, resume=True)
    assert differences(ending(trainer, again), end) == []
    assert [*first, *rest][-len(rest) :] == lines[-len(rest) :] and len(rest) >= 2


def test_the_end_of_a_fit_can_be_read_again(tmp_path: Path, whole: Any) -> None:
    callback, _ = allocation()
    fit(tmp_path, Module(), callback)
    again, lines = allocation()
    module = Module()
    fit(tmp_path, module, again, resume=True)
    assert not module.rates and again.search.result == callback.search.result
    assert lines[-1].startswith("chosen: ")
    graft = again.search.settle()
    gw.save(graft, tmp_path / "graft")
    fresh = gw.load(net(), tmp_path / "graft").model
    x = batch(9)
    assert torch.allclose(fresh(x), callback.search.board.model.eval()(x), atol=1e-6)


def test_accumulated_gradients_are_one_step(tmp_path: Path) -> None:
    callback, lines = allocation()
    module = Module()
    fit(tmp_path, module, callback, accumulate_grad_batches=2)
    assert callback.search.step == 22 and len(module.rates) == 37  # 5 batches an epoch are 3 steps
    assert callback.search.result is not None and len(lines) == 5


def test_a_fit_that_is_too_short_chooses_nothing(tmp_path: Path) -> None:
    callback, lines = allocation()
    fit(tmp_path, Module(), callback, max_epochs=2)
    assert callback.search.result is None and callback.search.step == 10 and len(lines) == 1


def test_a_scheduler_does_not_reach_the_units(tmp_path: Path) -> None:
    callback, _ = allocation()
    module = Module(scheduler=True, groups=lambda: callback.search.groups(0.02))
    fit(tmp_path, module, callback)
    assert {r for rates in module.rates[:6] for r in rates.values()} == {0.02}
    since = {a["step"]: a["up"] for a in callback.search.diary.allocations if a["up"]}
    for step, names in since.items():
        rising = [module.rates[step + i][names[0]] for i in range(3) if step + i < 22]
        assert rising == pytest.approx([0.02 / 3, 0.04 / 3, 0.02][: len(rising)])
    assert since


def test_a_budget_that_does_not_bind_is_said(tmp_path: Path) -> None:
    callback, lines = allocation(budget=1.0)
    fit(tmp_path, Module(), callback, max_epochs=1)
    assert "hold the largest set of units" in lines[0]


@pytest.mark.parametrize(
    ("options", "module", "told"),
    [
        ({"network": "net"}, Module, r"Allocation\.network: Module has no module 'net'"),
        ({"budget": 2.0}, Module, "budget: as a fraction"),
        ({"beside": ["nope"]}, Module, "no graft 'nope'"),
        ({}, lambda: Module(scheduler=True), "a scheduler drives the units' rates"),
        ({}, lambda: Headless(), "does not hold the units' tensors"),
        ({}, lambda: Two(), "needs one optimizer, not 2"),
        ({"beside": []}, lambda: Mute(), r"Allocation\.score: pass a function"),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, Any], module: Any, told: str) -> None:
    callback, _ = allocation(**options)
    with pytest.raises(gw.GraftError, match=told):
        fit(tmp_path, module(), callback)


class Headless(Module):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(gw.get(self.network, "head").parameters(), lr=0.1)


class Two(Module):
    automatic_optimization = False

    def configure_optimizers(self) -> Any:
        params = [p for p in self.parameters() if p.requires_grad]
        return [torch.optim.SGD(params[:3], lr=0.1), torch.optim.SGD(params[3:], lr=0.1)]


class Mute(Module):
    audit_score = None  # type: ignore[assignment]


def test_several_processes_are_refused() -> None:
    callback, _ = allocation()
    several: Any = type("T", (), {"world_size": 2})()
    with pytest.raises(gw.GraftError, match="served in one process"):
        callback.setup(several, Module(), "fit")


def test_another_search_s_checkpoint_is_refused(tmp_path: Path) -> None:
    callback, _ = allocation()
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, Module(), callback, StopAt(8))
    for change, told in (
        ({"budget": 151}, "budget is '150' in the state, '151' here"),
        ({"plan": Plan(**{**PLAN.row(), "votes": 2})}, "plan 'votes' is 1 in the state, 2 here"),
    ):
        again, _ = allocation(**change)
        with pytest.raises(gw.GraftError, match=told):
            fit(tmp_path, Module(), again, resume=True)
