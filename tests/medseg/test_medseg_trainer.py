"""The one training loop: exact resume after an interruption, averaged weights, budgets of steps and time."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.errors import GraftError
from graftwork_medseg.domain.trainer import Budget, Cosine, Run, fit, interruptible


def small_run(steps: int, average: float = 0.9) -> tuple[Run, Any, Any, Cosine]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    run = Run(net, optimizer, Budget(steps=steps), average=average)

    def draw(step: int) -> torch.Tensor:
        return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))

    def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    schedule = Cosine(optimizer, warmup=5)
    schedule(0, 0.0)
    return run, draw, loss_of, schedule


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, draw, loss_of, schedule = small_run(30)
    assert fit(whole, draw, loss_of, schedule, checkpoint=tmp_path / "w", settings={}, say=print)

    first, draw, loss_of, schedule = small_run(30)

    def interrupted(step: int) -> torch.Tensor:
        if step == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(step)

    file = tmp_path / "stopped.pt"
    before = signal.getsignal(signal.SIGINT)
    done = fit(first, interrupted, loss_of, schedule, checkpoint=file, settings={"a": 1}, say=print)
    assert not done and first.step == 13 and signal.getsignal(signal.SIGINT) is before

    second, draw, loss_of, schedule = small_run(30)
    second.load(file, {"a": 1})
    assert second.step == 13
    assert fit(second, draw, loss_of, schedule, checkpoint=file, settings={"a": 1}, say=print)
    assert second.step == whole.step == 30
    assert same(second.model, whole.model) and same(second.result(), whole.result())
    assert not same(whole.model, whole.result())


def test_the_second_ctrl_c_stops_at_once() -> None:
    with interruptible() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_another_setting_or_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    run, *_ = small_run(3)
    run.save(tmp_path / "c.pt", {"rate": 1.0, "seed": 0})
    with pytest.raises(GraftError, match=r"rate 1\.0 \(now 2\.0\)"):
        run.load(tmp_path / "c.pt", {"rate": 2.0, "seed": 0})
    with pytest.raises(GraftError, match="no checkpoint to resume from"):
        run.load(tmp_path / "none.pt", {})
    (tmp_path / "c.pt").write_bytes(b"junk")
    with pytest.raises(GraftError, match=r"c\.pt: not a readable checkpoint"):
        run.load(tmp_path / "c.pt", {})


def test_the_average_follows_the_weights_by_its_rule() -> None:
    run, draw, loss_of, schedule = small_run(40, average=0.9)
    assert run.average is not None
    mean = weights(run.model)
    for step, _ in enumerate(run.steps(draw, loss_of, schedule), 1):
        keep = min(0.9, (1 + step) / (10 + step))
        mean = [keep * m + (1 - keep) * w for m, w in zip(mean, weights(run.model), strict=True)]
    found = weights(run.result())
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mean, found, strict=True))


def test_a_budget_of_time_ends_in_time_and_the_rate_with_it() -> None:
    run, draw, loss_of, schedule = small_run(1)
    run.budget = Budget(seconds=0.3)
    rates = []
    for _ in run.steps(draw, loss_of, schedule):
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert 0.3 <= run.seconds < 3 and run.step > 5
    assert rates[-1] == 0.0 and max(rates) <= 0.05
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_a_loss_that_is_not_finite_stops_with_the_step(tmp_path: Path) -> None:
    run, draw, _, schedule = small_run(30)
    with pytest.raises(GraftError, match="loss is nan at step 1: lower the rate"):
        fit(
            run, draw, lambda net, x: net(x).mean() * float("nan"), schedule,
            checkpoint=tmp_path / "c", settings={}, say=print,
        )  # fmt: skip


@pytest.mark.parametrize("bad", [{}, {"steps": 0}, {"seconds": -1.0}, {"steps": 1, "seconds": 1.0}])
def test_a_budget_is_steps_or_seconds(bad: dict[str, Any]) -> None:
    with pytest.raises(GraftError, match="steps or of minutes"):
        Budget(**bad)
