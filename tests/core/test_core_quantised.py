"""A frozen base in fewer bits: the graft that its dense twin would get, and merges that say what they lose."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.algebra import quantised
from graftwork.allocation.families import Family
from graftwork.allocation.unit import units
from graftwork.cards import cards
from graftwork.sharding import _refuse_quantised
from tests.core import fake_bitsandbytes as fake
from tests.methods.method_settings import small

LIBRARIES = ("fake", "4 bits", "8 bits", "torchao", "torchao nf4")
Made = tuple[nn.Module, torch.dtype]


class Attention(nn.Module):
    def __init__(self, linear: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unsqueeze(1) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1))


class Net(nn.Module):
    def __init__(self, linear: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.stem = nn.Conv1d(16, 16, 1)
        self.layers = nn.ModuleList([nn.Sequential(nn.LayerNorm(16), Attention(linear))])
        self.up, self.head = linear(16, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.transpose(1, 2)).transpose(1, 2)
        return self.head(torch.tanh(self.up(x + self.layers[0](x)))).mean(1)


def dense() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(params=LIBRARIES)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Made]:
    """What builds one and the same quantised network, and the dtype that it computes in."""
    return maker(request.param, monkeypatch)


def maker(library: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Made]:
    if library == "fake":
        for name, module in fake.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        return lambda: (_quantised(Net(fake.Linear4bit)), torch.float32)
    if library == "torchao":
        ao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")

        def by_torchao() -> Made:
            net = dense().to(torch.bfloat16)
            ao.quantize_(
                net, ao.Int8WeightOnlyConfig(), lambda m, n: n != "head" and type(m) is nn.Linear
            )
            return net, torch.bfloat16

        return by_torchao
    if library == "torchao nf4":
        made = pytest.importorskip(
            "torchao.quantization.quantize_.workflows.nf4.nf4_tensor",
            reason="torchao is not installed",
        )

        def by_nf4() -> Made:
            net = dense().to(torch.bfloat16)
            for n, m in net.named_modules():
                if type(m) is nn.Linear and n != "head":
                    m.weight = nn.Parameter(made.to_nf4(m.weight.data, 64, 4), requires_grad=False)
            return net, torch.bfloat16

        return by_nf4
    bnb = pytest.importorskip(
        "bitsandbytes", reason="bitsandbytes (the extra `quantised`) is not installed"
    )
    if library == "4 bits":
        return lambda: (
            _moved(lambda a, b: bnb.nn.Linear4bit(a, b, quant_type="nf4")),
            torch.float32,
        )
    return lambda: (
        _moved(lambda a, b: bnb.nn.Linear8bitLt(a, b, has_fp16_weights=False)),
        torch.float32,
    )


def _moved(linear: Callable[[int, int], nn.Module]) -> nn.Module:
    net = Net(linear)
    net.load_state_dict(dense().state_dict())
    for m in net.modules():
        if hasattr(m, "support_avx512bf16_for_cpu"):
            m.support_avx512bf16_for_cpu = False
    return net.to("cpu")


def _quantised(net: nn.Module) -> nn.Module:
    net.load_state_dict(dense().state_dict())
    for m in net.modules():
        if isinstance(m, fake.Linear4bit):
            m.quantise()
    return net


def twin(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """An ordinary network with the weights that the quantised ones stand for."""
    other = dense().to(dtype)
    for name, m in net.named_modules():
        if quantised.scheme(m) is not None:
            other.get_submodule(name).weight.data = quantised.dense(m, dtype)
    return other


def batch() -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(2)
    return torch.randn(4, 5, 16, generator=made), torch.randn(4, 3, generator=made)


def train(net: nn.Module, graft: gw.Graft, dtype: torch.dtype) -> Tensor:
    x, y = batch()
    optimizer = torch.optim.SGD(list(graft.parameters()), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x.to(dtype)).float() - y).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return net(x.to(dtype))


@pytest.mark.parametrize("method", [card["id"] for card in cards()])
def test_a_graft_trains_as_on_the_dense_twin(make: Callable[[], Made], method: str) -> None:
    net, dtype = make()
    x = batch()[0].to(dtype)
    with torch.no_grad():
        before = net(x)
    other = twin(net, dtype)
    graft, reference = (gw.graft(n, small(method), seed=3) for n in (net, other))
    start = {k: t.clone() for k, t in graft.tensors().items()}
    train(net, graft, dtype)
    train(other, reference, dtype)
    got, want = graft.tensors(), reference.tensors()
    assert got.keys() == want.keys()
    apart = max(float((got[k].float() - want[k].float()).abs().max()) for k in want)
    moved = max(float((got[k].float() - start[k].float()).abs().max()) for k in start)
    assert apart < (1e-6 if dtype == torch.float32 else 1e-2) and moved > 1e-5
    with graft.off(), torch.no_grad():
        assert torch.equal(net(x), before)


def test_a_save_is_for_this_base_alone(make: Callable[[], Made], tmp_path: Path) -> None:
    net, dtype = make()
    graft = gw.graft(net, gw.LoRA(2), sites=["layers.*"], seed=3)
    out = train(net, graft, dtype)
    gw.save(graft, tmp_path / "a")
    again = make()[0]
    gw.load(again, tmp_path / "a")
    with torch.no_grad():
        assert torch.equal(again(batch()[0].to(dtype)), out)
        if quantised.scheme(net.up) != "NF4Tensor":  # torchao quantises its copy anew
            assert torch.equal(copy.deepcopy(net)(batch()[0].to(dtype)), out)
    how = quantised.scheme(net.up)
    with pytest.raises(gw.GraftError, match=f"q_proj.weight: .* here, {how} in the graft's base"):
        gw.load(dense().to(dtype), tmp_path / "a")
    gw.load(dense().to(dtype), tmp_path / "a", allow_other_base=True)


@pytest.mark.parametrize("method", [card["id"] for card in cards()])
def test_every_method_is_saved_and_loaded(
    make: Callable[[], Made], method: str, tmp_path: Path
) -> None:
    net, dtype = make()
    out = train(net, gw.graft(net, small(method), seed=3), dtype)
    gw.save(gw.get(net), tmp_path / "a")
    again = make()[0]
    gw.load(again, tmp_path / "a")
    with torch.no_grad():
        assert torch.equal(again(batch()[0].to(dtype)), out)


def test_counts_are_those_of_the_dense_weights(make: Callable[[], Made]) -> None:
    graft = gw.graft(make()[0], gw.LoRA(2))
    assert graft.summary().base == sum(p.numel() for p in dense().parameters())


def test_what_a_unit_costs_is_what_it_costs_on_the_dense_twin(make: Callable[[], Made]) -> None:
    net, dtype = make()
    family = Family("magnitudes", lambda level: gw.DoRA(level), (2,))
    found, wanted = (units(n, [family], ["up"]) for n in (net, twin(net, dtype)))
    assert [u.cost for u in found] == [u.cost for u in wanted] == [2 * 16 + 32 * 2 + 32]


@pytest.mark.parametrize("library", ["fake", "4 bits"])
@pytest.mark.parametrize("keep", ["device", False])
def test_a_merge_into_4_bits_tells_its_error(
    library: str,
    keep: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    net, dtype = maker(library, monkeypatch)()
    graft = gw.graft(net, gw.LoRA(2), sites=["layers.*", "head"], seed=3)
    train(net, graft, dtype)
    x, layer, head = batch()[0], net.layers[0][1].q_proj, net.head.weight
    grafted, weight = net(x).detach(), layer.weight
    before = quantised.dense(layer)
    with pytest.raises(gw.GraftError, match=r"q_proj: its weight is nf4.*merge\(round=True\)"):
        graft.merge(keep=keep)
    assert net.head.weight is head and torch.equal(net(x), grafted)
    change = (
        gw.LoRA(2)
        .weight_change(
            graft.site("layers.0.1.q_proj").state("default").geo,  # type: ignore[union-attr]
            {k: graft.tensors()[f"layers.0.1.q_proj.{k}"] for k in "AB"},
            before,
            None,
        )
        .weight
    )
    errors = graft.merge(keep=keep, round=True)
    assert change is not None
    error = quantised.dense(layer) - (before + change)
    found = errors["layers.0.1.q_proj"]
    assert set(errors) == {f"layers.0.1.{n}_proj" for n in "qkvo"}
    assert found.largest == pytest.approx(float(error.abs().max()), rel=1e-4)
    assert found.relative == pytest.approx(float(error.norm() / (before + change).norm()), rel=1e-4)
    assert found.of_change == pytest.approx(float(error.norm() / change.norm()), rel=1e-4)
    assert 0 < found.relative < 0.2
    printed = capsys.readouterr().out
    assert printed == f"{errors}\n" and "layers.0.1.q_proj" in printed
    if keep == "device":
        graft.unmerge()
        assert layer.weight is weight and torch.equal(net(x), grafted)


def test_a_weight_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    layer = fake.Linear4bit(64, 32).to(torch.bfloat16)
    layer.quantise()
    value = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    new: Any = quantised.rounded(layer, value)
    how = {"blocksize": 64, "compress_statistics": True, "quant_type": "nf4"}
    codes, _ = fake.quantize_4bit(value, quant_storage=torch.uint8, **how)
    twice, _ = fake.quantize_4bit(value.bfloat16(), quant_storage=torch.uint8, **how)
    assert torch.equal(new.data, codes) and not torch.equal(new.data, twice)
    assert new.quant_state.dtype is torch.bfloat16


def test_what_cannot_be_merged_says_why(make: Callable[[], Made]) -> None:
    net, _ = make()
    graft = gw.graft(net, gw.LoRA(2), sites=["up"])
    if quantised.refuses_rounding(net.up) is None:
        for keep in ("cpu", "disk"):
            with pytest.raises(gw.GraftError, match="kept on its device, or not at all"):
                graft.merge(keep=keep, round=True)
    else:
        with pytest.raises(gw.GraftError, match="merge into a base that is not quantised"):
            graft.merge(round=True)
    graft.remove()
    gw.graft(net, gw.BitFit(), sites=["up"]).merge()  # a bias is not quantised


class Reader(nn.Module):
    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.proj.weight)


def test_refusals(make: Callable[[], Made]) -> None:
    net, _ = make()
    with pytest.raises(gw.GraftError, match=r"also_train: the weight of up is .* does not train"):
        gw.graft(net, gw.LoRA(2), sites=["layers.*"], also_train=["up"])
    with pytest.raises(gw.GraftError, match=r"NewRows\('up'\): its weight is quantised"):
        gw.graft(net, gw.LoRA(2), sites=["layers.*"], also_train=[gw.NewRows("up", 1)])
    with pytest.raises(gw.GraftError, match="proj: Reader reads its weight directly"):
        gw.graft(Reader(net.up), gw.LoRA(2), sites=["proj"])
    with pytest.raises(gw.GraftError, match="a quantised base is not sharded"):
        _refuse_quantised(net)


def test_a_layer_that_is_not_quantised_yet_is_refused() -> None:
    with pytest.raises(gw.GraftError, match="it is not quantised yet; move the model"):
        gw.graft(Net(fake.Linear4bit), gw.LoRA(2), sites=["up"])


class Opaque(Tensor):
    """A tensor of torchao that its kernel alone can read."""

    @staticmethod
    def __new__(cls, data: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(cls, data.shape, dtype=data.dtype)

    def __init__(self, data: Tensor) -> None:
        self.codes = data

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, Tensor], *_: Any) -> Any:
        return cls(inner["codes"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is torch.ops.aten.detach.default, func
        return cls(args[0].codes)


class Readable(Opaque):
    def dequantize(self, dtype: Any = None) -> Tensor:
        return self.codes


Opaque.__module__ = Readable.__module__ = "torchao.made_up"


def test_a_torchao_weight_that_only_its_kernel_reads_is_refused() -> None:
    net = dense()
    net.up.weight = nn.Parameter(Readable(net.up.weight.data), requires_grad=False)
    assert quantised.scheme(net.up) == "Readable" and quantised.dense(net.up).shape == (32, 16)
    net.up.weight = nn.Parameter(Opaque(torch.zeros(32, 16)), requires_grad=False)
    assert quantised.scheme(net.up) is None
    with pytest.raises(gw.GraftError, match=r"Opaque.* in a way that is not served"):
        gw.graft(net, gw.LoRA(2), sites=["up"])


def test_a_layer_that_repacks_its_weight_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = maker("fake", monkeypatch)()
    net.up.support_avx512bf16_for_cpu = True  # type: ignore[assignment]
    with pytest.raises(gw.GraftError, match="set support_avx512bf16_for_cpu = False"):
        gw.graft(net, gw.LoRA(2), sites=["up"])


def test_what_a_method_does_not_declare_to_read_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    net, dtype = maker("fake", monkeypatch)()
    monkeypatch.setattr(gw.DoRA, "reads_weight", False)
    graft = gw.graft(net, gw.DoRA(2), sites=["up"])
    assert bool(train(net, graft, dtype).isnan().any())


def test_a_subclass_with_a_forward_of_its_own_is_no_quantised_layer() -> None:
    class Other(fake.Linear4bit):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer = Other(16, 16)
    layer.quantise()
    assert quantised.scheme(layer) is None
    with pytest.raises(gw.GraftError, match="Other overrides the forward of its layer kind"):
        gw.graft(nn.Sequential(layer), gw.LoRA(2), sites=["0"])
