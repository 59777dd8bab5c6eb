"""On a GPU: grafts on 4-bit layers are those on the weights that they stand for, and merges tell what they lose."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.algebra import quantised

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("default"),  # the libraries have warnings of their own on some cards
]

DEVICE = "cuda"
SITES = ["up", "down"]
METHODS = {"LoRA": gw.LoRA(4), "DoRA": gw.DoRA(4), "DiaBlo": gw.DiaBlo(4)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(256, 512), nn.Linear(512, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))


def dense(dtype: torch.dtype = torch.bfloat16) -> Net:
    torch.manual_seed(0)
    return Net().to(DEVICE, dtype).requires_grad_(False)


def nf4() -> nn.Module:
    return _bitsandbytes("nf4")


def fp4() -> nn.Module:
    return _bitsandbytes("fp4")


def _bitsandbytes(kind: str) -> nn.Module:
    nn4 = _library("bitsandbytes").nn
    net = dense()
    for name in SITES:
        old = getattr(net, name)
        new = nn4.Linear4bit(
            old.in_features, old.out_features, quant_type=kind, compute_dtype=torch.bfloat16
        )
        new.load_state_dict(old.state_dict())
        if hasattr(new, "support_avx512bf16_for_cpu"):
            new.support_avx512bf16_for_cpu = False
        setattr(net, name, new.to(DEVICE))
    return net.requires_grad_(False)


def int4() -> nn.Module:
    library = _library("torchao.quantization")
    group = importlib.import_module("torchao.quantization.granularity").PerGroup(64)
    net = dense()
    library.quantize_(net, library.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=group))
    return net.requires_grad_(False)


def torchao_nf4() -> nn.Module:
    made = _library("torchao.quantization.quantize_.workflows.nf4.nf4_tensor")
    net = dense()
    for name in SITES:
        layer = getattr(net, name)
        layer.weight = nn.Parameter(made.to_nf4(layer.weight.data), requires_grad=False)
    return net


def _library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name.split('.')[0]} is not installed")


MADE = [nf4, fp4, int4, torchao_nf4]


def twin(net: nn.Module, dtype: torch.dtype) -> Net:
    """The network with the weights that the quantised ones stand for."""
    other = dense(dtype)
    for name in SITES:
        getattr(other, name).weight.data = quantised.dense(net.get_submodule(name), dtype)
    return other


def grafted(net: nn.Module, method: Any) -> gw.Graft:
    graft = gw.graft(net, method, sites=SITES, seed=3)
    with torch.no_grad():
        for n, p in enumerate(graft.parameters()):
            draw = torch.Generator().manual_seed(n)
            p.add_(0.05 * torch.randn(p.shape, generator=draw).to(p))
    return graft


def batch(dtype: torch.dtype = torch.bfloat16) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(3, 40, 256, generator=draw).to(DEVICE, dtype)


def passes(net: nn.Module, graft: gw.Graft, dtype: torch.dtype) -> dict[str, Tensor]:
    """The output, and the gradients of the input and of the graft's tensors."""
    x = batch(dtype).requires_grad_()
    y = net(x)
    y.float().square().sum().backward()
    assert x.grad is not None
    grads = {name: p.grad for name, p in graft.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **grads}


def apart(found: Tensor, reference: Tensor) -> float:
    return float((found.float() - reference.float()).norm() / reference.float().norm())


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("method", METHODS)
def test_passes_are_those_of_the_dense_weights(made: Callable[[], Any], method: str) -> None:
    net = made()
    with torch.no_grad():
        before = net(batch())
    reference, half = twin(net, torch.float32), twin(net, torch.bfloat16)
    exact = passes(reference, grafted(reference, METHODS[method]), torch.float32)
    near = passes(half, grafted(half, METHODS[method]), torch.bfloat16)
    graft = grafted(net, METHODS[method])
    found = passes(net, graft, torch.bfloat16)
    assert found.keys() == exact.keys() == near.keys() and len(found) > 3
    for name, value in exact.items():
        allowed = 2 * apart(near[name], value) + 1e-3
        assert apart(found[name], value) < allowed < 0.05, name
    assert apart(before, found["y"]) > 0.01
    with graft.off(), torch.no_grad():
        assert torch.equal(net(batch()), before)


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("method", METHODS)
def test_a_trained_graft_is_saved_and_loaded(
    made: Callable[[], Any], method: str, tmp_path: Path
) -> None:
    net = made()
    graft = gw.graft(net, METHODS[method], sites=SITES, seed=3)
    optimizer = torch.optim.AdamW(list(graft.parameters()), lr=1e-2, fused=DEVICE == "cuda")
    losses = []
    for _ in range(5):
        loss = (net(batch()).float() - 1).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    gw.save(graft, tmp_path / "a")
    again = made()
    gw.load(again, tmp_path / "a")
    with torch.no_grad():
        assert torch.equal(again(batch()), net(batch()))
    with pytest.raises(gw.GraftError, match=r"up.weight"):
        gw.load(dense(), tmp_path / "a")


@pytest.mark.parametrize("made", [nf4, fp4])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", ["device", False])
def test_a_merge_tells_what_each_layer_loses(
    made: Callable[[], Any], method: str, keep: Any
) -> None:
    net = made()
    old = {name: quantised.dense(net.get_submodule(name)) for name in SITES}
    exact = twin(net, torch.float32)
    grafted(exact, METHODS[method]).merge()
    graft = grafted(net, METHODS[method])
    weights = [net.get_submodule(name).weight for name in SITES]
    with torch.no_grad():
        y = net(batch())
    with pytest.raises(gw.GraftError, match=r"merge\(round=True\)"):
        graft.merge(keep=keep)
    with torch.no_grad():
        assert torch.equal(net(batch()), y)
    errors = graft.merge(keep=keep, round=True)
    assert set(errors) == set(SITES)
    for name, told in errors.items():
        wanted = exact.get_submodule(name).weight.detach()
        error = quantised.dense(net.get_submodule(name)) - wanted
        assert told.largest == pytest.approx(float(error.abs().max()), rel=1e-2)
        assert told.relative == pytest.approx(float(error.norm() / wanted.norm()), rel=1e-3)
        change = (wanted - old[name]).norm()
        assert told.of_change == pytest.approx(float(error.norm() / change), rel=1e-3)
        assert 0 < told.relative < 0.3
    with torch.no_grad():
        merged = net(batch())
        assert apart(merged, twin(net, torch.float32)(batch(torch.float32))) < 0.02
    if keep is False:
        return
    graft.unmerge()
    assert all(net.get_submodule(n).weight is w for n, w in zip(SITES, weights, strict=True))
    with torch.no_grad():
        assert torch.equal(net(batch()), y)


@pytest.mark.parametrize("made", [int4, torchao_nf4])
def test_a_merge_into_torchao_weights_is_refused(made: Callable[[], Any]) -> None:
    net = made()
    graft = grafted(net, gw.LoRA(4))
    for more in ({}, {"round": True}):
        with pytest.raises(gw.GraftError, match="merge into a base that is not quantised"):
            graft.merge(**more)


def test_weights_that_only_their_kernel_reads_are_refused_and_have_no_backward_pass() -> None:
    library, net = _library("torchao.quantization"), dense()
    config = library.Int4WeightOnlyConfig(int4_packing_format="tile_packed_to_4d")
    library.quantize_(net, config)
    assert quantised.scheme(net.up) is None
    with pytest.raises(gw.GraftError, match="in a way that is not served"):
        gw.graft(net, gw.LoRA(4), sites=SITES)
    y = net(batch().requires_grad_())
    with pytest.raises(RuntimeError, match=r"derivative|does not require grad"):
        y.sum().backward()
