"""Recorded passes are the plain ones, notice what changes, and say why a call ran as it is; no GPU is needed here."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from fake_graphs import Fake
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.methods.base import Method

METHODS = [
    gw.LoRA(2, alpha=3),
    gw.LoRA(2, dropout=0.5),
    gw.DoRA(2),
    gw.DiaBlo(2),
    gw.IA3(),
    gw.OFT(2),
]


class Net(nn.Module):
    """A convolution with a batch norm, three linears that read one input, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 6, 3, padding=1, bias=False), nn.BatchNorm1d(6)
        self.q, self.k, self.v = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 6)
        self.o, self.drop = nn.Linear(6, 8), nn.Dropout(0.3)

    def forward(self, x: Tensor, scale: float = 1.0, **more: Any) -> dict[str, Any]:
        h = self.norm(self.conv(x))
        mixed = torch.tanh((self.q(h) * self.k(h)).mean(-1, keepdim=True))
        out = h + scale * self.o(self.drop(mixed * self.v(h)))
        return {"out": out, "mean": out.detach().mean(), "nothing": None, **more}


def net(method: Method | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = Net().to(dtype)
    if method is not None:
        gw.graft(model, method, sites=["type:Linear", "type:Conv1d"], seed=0)
        with torch.no_grad():
            for p in gw.get(model).parameters():
                p.add_(0.1 * torch.randn(p.shape).to(p))
    return model.train()


def batch(seed: int, rows: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, 4, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)


def train(
    model: nn.Module, record: bool, steps: int = 20, accumulate: int = 1, **call: Any
) -> tuple[list[float], list[Tensor], str]:
    """Losses, all tensors after the training, and what the recorder says."""
    torch.manual_seed(1)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    losses = []

    def run() -> None:
        for step in range(steps):
            loss = model(batch(step), **call)["out"].square().mean()
            loss.backward()
            losses.append(loss.item())
            if (step + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()

    said = ""
    if record:
        with gw.recorded(model, machine=Fake()) as recorder:
            run()
            said = str(recorder)
    else:
        run()
    assert "forward" not in model.__dict__
    return losses, [*model.parameters(), *model.buffers()], said


@pytest.mark.parametrize("method", [*METHODS, None], ids=str)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_training_is_the_plain_one(method: Method | None, accumulate: int) -> None:
    one, two = net(method), net(method)
    plain, tensors, _ = train(one, False, accumulate=accumulate)
    found, others, said = train(two, True, accumulate=accumulate)
    assert said == "20 passes replayed of 1 recorded"
    assert found == pytest.approx(plain, rel=1e-6)
    for a, b in zip(tensors, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert plain[0] != plain[-1]


def test_autocast_and_half_precision() -> None:
    one, two = net(gw.LoRA(2)), net(gw.LoRA(2))
    with torch.autocast("cpu", torch.bfloat16):
        plain, *_ = train(one, False)
        found, _, said = train(two, True)
    assert found == pytest.approx(plain, rel=1e-3) and said.startswith("20 passes replayed")
    assert found != pytest.approx(train(net(gw.LoRA(2)), False)[0], rel=1e-6)


def test_the_gradient_of_the_input_and_what_is_kept_of_a_step() -> None:
    model, other = net(gw.LoRA(2)), net(gw.LoRA(2))
    with gw.recorded(model, machine=Fake()):
        kept = []
        for seed in range(3):
            torch.manual_seed(seed)
            x = batch(seed).requires_grad_()
            y = model(x)
            y["out"].sum().backward()
            kept.append((x.grad, y["out"], y["mean"], y["nothing"]))
    for seed, (grad, out, mean, nothing) in enumerate(kept):
        torch.manual_seed(seed)
        x = batch(seed).requires_grad_()
        y = other(x)
        y["out"].sum().backward()
        torch.testing.assert_close(grad, x.grad)
        torch.testing.assert_close(out, y["out"])
        torch.testing.assert_close(mean, y["mean"])
        assert nothing is None and not mean.requires_grad and x.grad is not None


def test_what_changes_is_noticed() -> None:
    model = net(gw.LoRA(2))
    gw.graft(model, gw.LoRA(3), sites=["q"], name="b", seed=3)
    with torch.no_grad():
        for p in gw.get(model, "b").parameters():
            p.add_(0.3)
    model.eval()  # without dropout and batch statistics outputs can be compared
    machine = Fake()

    def agrees(recorder: Any, recordings: int) -> None:
        x = batch(5)
        for _ in range(2):
            found = model(x)["out"]
            found.sum().backward()
        assert recorder.recorded == recordings, recorder
        torch.testing.assert_close(found, recorder._forward(x)["out"])

    with gw.recorded(model, machine=machine) as recorder:
        gw.activate(model, "default")
        agrees(recorder, 1)
        gw.activate(model, "b")
        agrees(recorder, 2)
        gw.activate(model, {"default": 0.5, "b": 2.0})
        agrees(recorder, 3)
        gw.activate(model, "default")
        agrees(recorder, 4)
        with torch.no_grad():
            model.q.weight.mul_(2)  # type: ignore[union-attr, operator]
        agrees(recorder, 5)
        model.k = copy.deepcopy(model.k)
        agrees(recorder, 6)
        model.double().float()
        agrees(recorder, 7)
        gw.get(model).load_tensors({k: 2 * t for k, t in gw.get(model).tensors().items()})
        agrees(recorder, 7)  # in place, as an optimizer writes
        gw.remove(gw.get(model, "b"))
        agrees(recorder, 8)
        gw.get(model).named_parameters()
        next(iter(gw.get(model).parameters())).requires_grad_(False)
        agrees(recorder, 9)
        assert not recorder.plain
        with gw.get(model).off(), torch.no_grad():
            base = model(batch(5))["out"]
        assert not torch.allclose(base, model(batch(5))["out"])
        with gw.get(model).off():
            x = batch(5).requires_grad_()
            torch.testing.assert_close(model(x)["out"], base)
        assert list(recorder.plain) == ["all grafts are off"]
        agrees(recorder, 9)


def test_another_shape_runs_as_it_is_and_is_told_once() -> None:
    model, told = net(gw.LoRA(2)), list[str]()
    with gw.recorded(model, machine=Fake(), tell=told.append) as recorder:
        for rows in (3, 2, 3, 2, 4):
            model(batch(0, rows))["out"].sum().backward()
        model(batch(0), scale=2.0)["out"].sum().backward()
    assert (recorder.recorded, recorder.replayed) == (1, 2)
    assert list(recorder.plain.values()) == [4] and len(told) == 1 and "shapes=1" in told[0]
    with gw.recorded(model, machine=Fake(), shapes=2, tell=told.append) as recorder:
        for rows in (3, 2, 3, 2, 4):
            model(batch(0, rows))["out"].sum().backward()
    assert (recorder.recorded, recorder.replayed) == (2, 4) and recorder.plain.total() == 1


def test_a_pass_before_the_last_ones_backward_is_its_own() -> None:
    model = net(gw.LoRA(2)).eval()
    other = copy.deepcopy(model)
    with gw.recorded(model, machine=Fake(), tell=lambda line: None) as recorder:
        first, second = model(batch(1))["out"].sum(), model(batch(2))["out"].square().sum()
        (first + second).backward()
        assert recorder.replayed == 1 and recorder.plain.total() == 1
        loss = model(batch(1))["out"].sum()
        loss.backward(retain_graph=True)
        loss.backward()
        model(batch(2))["out"].sum().backward()
        with pytest.raises(GraftError, match="replayed since"):
            loss.backward()
        loss = model(batch(1))["out"].sum()
        with pytest.raises(GraftError, match="differentiated twice"):
            torch.autograd.grad(loss, list(gw.get(model).parameters()), create_graph=True)
    (other(batch(1))["out"].sum() + other(batch(2))["out"].square().sum()).backward()
    (2 * other(batch(1))["out"].sum() + other(batch(2))["out"].sum()).backward()
    for p, q in zip(gw.get(model).parameters(), gw.get(other).parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_blocks_around_a_call_are_respected() -> None:
    model = net(gw.LoRA(2)).eval()
    with gw.recorded(model, machine=Fake(), tell=lambda line: None) as recorder:
        model(batch(0))["out"].sum().backward()
        with gw.extra_loss(model) as extra:
            (model(batch(0))["out"].sum() + extra()).backward()
        gw.check_reach(model, batch(0))
        with torch.autograd.graph.save_on_cpu():
            model(batch(0))["out"].sum().backward()
        assert recorder.recorded == recorder.replayed == 1
        before = sum(recorder.plain.values())
        with torch.no_grad():
            model(batch(0, 7))
        assert sum(recorder.plain.values()) == before and len(recorder.plain) == 3
        model(batch(0))["out"].sum().backward()
        assert recorder.replayed == 2


def test_copies_have_their_own_forward_and_blocks_do_not_nest() -> None:
    model = net(gw.LoRA(2)).eval()
    with gw.recorded(model, machine=Fake()):
        for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            with torch.no_grad():
                made.o.bias.add_(1)
                torch.testing.assert_close(made(batch(0))["out"], model(batch(0))["out"] + 1)
        with pytest.raises(GraftError, match="another such block"), gw.recorded(model):
            pass
    with pytest.raises(GraftError, match="shapes must be"), gw.recorded(model, shapes=0):
        pass


def test_a_model_that_is_one_layer_and_loses_its_graft() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    base = copy.deepcopy(model)
    graft = gw.graft(model, gw.LoRA(2), seed=0)
    x = torch.randn(3, 4)
    with gw.recorded(model, machine=Fake()) as recorder:
        for _ in range(2):
            model(x).sum().backward()
        gw.remove(graft)
        assert torch.equal(model(x), base(x))
        assert recorder.recorded == 2
    assert type(model) is nn.Linear and "forward" not in model.__dict__


def test_without_a_gpu_a_pass_runs_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    model, other = net(gw.LoRA(2)), net(gw.LoRA(2))
    torch.manual_seed(1)
    with gw.recorded(model) as recorder:
        found = [model(batch(seed))["out"] for seed in range(2)]
    torch.manual_seed(1)
    for seed, y in enumerate(found):
        assert torch.equal(y, other(batch(seed))["out"])
    assert recorder.replayed == 0
    assert "CUDA graphs need a GPU" in capsys.readouterr().out.strip()
