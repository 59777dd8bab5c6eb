"""Modules that read a child's weight without calling the child are served exactly, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import graftwork as gw
from graftwork.attach import grafts_of
from tests.core.core_helpers import close, stir


@dataclass(frozen=True)
class Case:
    """A module, the sites that something reads directly, and inputs."""

    build: Callable[[], nn.Module]
    sites: tuple[str, ...]
    inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]


def sequence(n: int = 3, length: int = 5, width: int = 8) -> Tensor:
    return torch.randn(n, length, width, dtype=torch.float64)


def attention(**kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: nn.MultiheadAttention(8, 2, batch_first=True, **kwargs)


def self_attention() -> tuple[tuple[Any, ...], dict[str, Any]]:
    x = sequence()
    return (x, x, x), {"need_weights": False}


def cross_attention() -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (sequence(), sequence(width=6), sequence(width=10)), {}


def padded() -> tuple[tuple[Any, ...], dict[str, Any]]:
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = mask[2, 4:] = True
    return (sequence(),), {"src_key_padding_mask": mask}


def encoder_layer(**kwargs: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, **kwargs)


def timm_attention(module: str, name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import importlib

        made: nn.Module = getattr(importlib.import_module(f"timm.{module}"), name)(**kwargs)
        return made

    return build


ATTENTION = ("in_proj_weight", "out_proj")
LAYER = ("self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2")
CASES = {
    "MultiheadAttention": Case(attention(), ATTENTION, self_attention),
    "MultiheadAttention, no bias": Case(attention(bias=False), ATTENTION, self_attention),
    "MultiheadAttention, add_bias_kv": Case(
        attention(add_bias_kv=True, add_zero_attn=True), ATTENTION, self_attention
    ),
    "MultiheadAttention, kdim and vdim": Case(
        attention(kdim=6, vdim=10),
        ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj"),
        cross_attention,
    ),
    "TransformerEncoderLayer": Case(encoder_layer, LAYER, lambda: ((sequence(),), {})),
    "TransformerEncoderLayer, norm first": Case(
        lambda: encoder_layer(norm_first=True, activation="gelu"), LAYER, padded
    ),
    "TransformerEncoder": Case(
        lambda: nn.TransformerEncoder(encoder_layer(), 2),
        # torch converts to nested tensors if the first layer needs no gradient, and fails if a
        # later one does; so every layer has its graft
        tuple(f"layers.{i}.{s}" for i in (0, 1) for s in LAYER),
        padded,
    ),
    "TransformerDecoderLayer": Case(
        lambda: nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True),
        ("self_attn.in_proj_weight", "multihead_attn.in_proj_weight", "multihead_attn.out_proj"),
        lambda: ((sequence(), sequence(length=4)), {}),
    ),
    "timm BEiT": Case(
        timm_attention("models.beit", "Attention", dim=8, num_heads=2, qkv_bias=True),
        ("qkv",),
        lambda: ((sequence(),), {}),
    ),
    "timm EVA": Case(
        timm_attention(
            "models.eva", "EvaAttention", dim=8, num_heads=2, qkv_bias=True, norm_layer=nn.LayerNorm
        ),
        ("qkv",),
        lambda: ((sequence(),), {}),
    ),
    "timm SwinV2": Case(
        timm_attention(
            "models.swin_transformer_v2", "WindowAttention", dim=8, window_size=(2, 2), num_heads=2
        ),
        ("qkv",),
        lambda: ((sequence(length=4),), {}),
    ),
}
METHODS = {"lora": gw.LoRA(3), "dora": gw.DoRA(2), "diablo": gw.DiaBlo(2), "ia3": gw.IA3()}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Any:
    return METHODS[request.param]


def build(case: Case, method: Any) -> tuple[nn.Module, gw.Graft, Any, Any]:
    torch.manual_seed(0)
    model = case.build().double()
    args, kwargs = case.inputs()
    graft = gw.graft(model, method, sites=list(case.sites))
    stir(graft)
    return model, graft, args, kwargs


def first(out: Any) -> Tensor:
    out = out[0] if isinstance(out, tuple) else out
    assert isinstance(out, Tensor)
    return out


@pytest.mark.filterwarnings("ignore:.*nested tensor.*")
@pytest.mark.parametrize("mode", ["train", "eval under no_grad", "eval with gradients"])
def test_forward_equals_merged_forward(case: Case, method: Any, mode: str) -> None:
    model, graft, args, kwargs = build(case, method)
    model.train(mode == "train")

    def run(model: nn.Module) -> Tensor:
        out = first(model(*args, **kwargs))
        # torch leaves padded positions undefined: its fast path zeroes them, its slow path does not
        mask = kwargs.get("src_key_padding_mask")
        return out if mask is None else out.masked_fill(mask.unsqueeze(-1), 0.0)

    with torch.set_grad_enabled(mode != "eval under no_grad"):
        out = run(model)
        with graft.off():
            base = run(model)
        graft.merge()
        merged = run(model)
        graft.unmerge()
        twin = run(copy.deepcopy(model))
    close(out, merged, 1e-12)
    close(twin, out, 1e-12)
    assert float((out - base).detach().abs().max()) > 1e-3  # and not because nothing changed


@pytest.mark.filterwarnings("ignore:.*nested tensor.*")
@pytest.mark.parametrize("training", [True, False])
def test_gradients_equal_those_through_the_dense_weight(case: Case, training: bool) -> None:
    model, graft, args, kwargs = build(case, gw.LoRA(3))
    model.train(training)
    first(model(*args, **kwargs)).square().sum().backward()
    mine = {n: p.grad for n, p in graft.named_parameters()}

    dense = copy.deepcopy(model)
    gw.get(dense).remove()
    factors = {n: p.detach().requires_grad_() for n, p in graft.named_parameters()}
    weights = {}
    for site in case.sites:
        name = site if site.endswith("_weight") else f"{site}.weight"
        weights[name] = (
            dense.get_parameter(name).detach() + factors[f"{site}.B"] @ (factors[f"{site}.A"])
        )
    first(functional_call(dense, weights, args, kwargs)).square().sum().backward()
    for name, factor in factors.items():
        assert mine[name] is not None and factor.grad is not None, name
        close(mine[name], factor.grad, 1e-10)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*nested tensor.*")
def test_reach_and_the_untouched_parameter_outside(case: Case) -> None:
    model, _, args, kwargs = build(case, gw.LoRA(3))
    gw.check_reach(model, *args, **kwargs)
    assert_shut(model)
    for site in case.sites:
        owner, _, leaf = site.rpartition(".")
        module = model.get_submodule(site if not leaf.endswith("_weight") else owner)
        name = leaf if leaf.endswith("_weight") else "weight"
        assert getattr(module, name) is module._parameters[name]


def test_a_branch_that_needs_the_call_is_refused_by_name(case: Case) -> None:
    for method, word in (
        (gw.AdaptFormer(2), "activations"),
        (gw.LoRA(2, dropout=0.1), "dropout"),
        (gw.DiaBlo(2, dropout=0.1), "dropout"),
    ):
        model = case.build()
        for site in case.sites:
            with pytest.raises(gw.GraftError, match=word) as error:
                gw.graft(model, method, sites=[site])
            assert site in str(error.value) and "reads its weight directly" in str(error.value)
        assert not any(grafts_of(m) for m in model.modules())


def test_weighted_sums_are_exact_where_weights_are_read(case: Case) -> None:
    model, a, args, kwargs = build(case, gw.LoRA(3))
    model.eval()
    b = stir(gw.graft(model, gw.IA3(), sites=list(case.sites), name="b"), seed=3)
    dense = copy.deepcopy(model)
    deltas: dict[str, Tensor] = {}
    for graft, weight in ((a, 0.7), (b, -1.5)):
        for site, state in graft.states():
            assert site in case.sites
            layer = model.get_submodule(site.rpartition(".")[0] if "_proj_weight" in site else site)
            for leaf, delta in zip(
                (state.weight_name, state.bias_name), state.delta(layer), strict=True
            ):
                if delta is not None and leaf:
                    path = site.rpartition(".")[0] if "_proj_weight" in site else site
                    key = f"{path}.{leaf}".lstrip(".")
                    deltas[key] = deltas.get(key, torch.zeros(())) + weight * delta.detach()
    for graft in gw.grafts(dense).values():
        graft.remove()
    gw.activate(model, {"default": 0.7, "b": -1.5})
    with torch.no_grad():
        for key, delta in deltas.items():
            dense.get_parameter(key).add_(delta)
        close(first(model(*args, **kwargs)), first(dense(*args, **kwargs)), 1e-12)


def assert_shut(model: nn.Module) -> None:
    for name, module in model.named_modules():
        grafts = grafts_of(module)
        assert grafts is None or (not grafts.open and not grafts._read), name


def test_the_gate_shuts_after_an_exception(case: Case) -> None:
    model, graft, args, kwargs = build(case, gw.LoRA(3))

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    for name, module in list(model.named_modules()):
        if "_graft" in name or not list(module.parameters()):
            continue
        hook = module.register_forward_hook(fail)
        for grad in (True, False):
            with torch.set_grad_enabled(grad), pytest.raises(KeyboardInterrupt):
                model(*args, **kwargs)
                raise KeyboardInterrupt  # this part is never called: nothing to show
            assert_shut(model)
        hook.remove()
    with pytest.raises(Exception):  # noqa: B017 (each module fails in its own way)
        model(*(a[..., :3] for a in args), **kwargs)
    assert_shut(model)
    graft.remove()


def test_the_fast_path_really_runs_and_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = encoder_layer().double().eval()
    graft = stir(gw.graft(layer, gw.LoRA(3)))
    calls: list[tuple[Tensor, ...]] = []
    real = torch._transformer_encoder_layer_fwd

    def spy(*args: Any) -> Any:
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", spy)
    x = sequence()
    with torch.no_grad():
        fast = layer(x)
    assert len(calls) == 1
    slow = layer(x)  # gradients on: the slow path
    assert len(calls) == 1
    close(fast, slow, 1e-12)
    assert calls[0][3] is not layer.self_attn.in_proj_weight
    graft.remove()


# -- readers that only a look at the code can find --------------------------------------------


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.named = nn.ModuleDict({"a": nn.Linear(4, 4)})
        self.fc, self.alias, self.deep = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.linear(x, layer.weight, layer.bias)
        x = F.linear(x, self.named["a"].weight, None)
        fc = self.fc
        x = x + F.linear(x, fc.weight)
        x = x + self.apply_alias(x)
        return x + (lambda w: F.linear(x, w))(self.deep.weight)

    def apply_alias(self, x: Tensor) -> Tensor:
        return F.linear(x, self.alias_weight)

    @property
    def alias_weight(self) -> Tensor:
        return self.alias.weight


class Looker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.called, self.read = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.called.bias is not None and isinstance(self.called.weight, Tensor):
            x = x.to(self.called.weight.dtype)[: self.called.weight.shape[0]]
        has_bias = self.called.bias is None
        return F.linear(self.called(x), self.read.weight, None if has_bias else self.read.bias)

    def unused(self, x: Tensor) -> Tensor:
        return x @ self.called.weight


def owned(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        grafts = grafts_of(module)
        for path in grafts.serves if grafts else ():
            yield ".".join(p for p in (name, path) if p)


def test_every_way_to_read_is_found_and_exact() -> None:
    model = Reader().double()
    graft = stir(gw.graft(model, gw.LoRA(2)))
    assert set(owned(model)) == {"layers.0", "layers.1", "named.a", "fc", "alias", "deep"}
    x = torch.randn(3, 4, dtype=torch.float64)
    out = model(x)
    gw.check_reach(model, x)
    graft.merge()
    close(model(x), out, 1e-12)


def test_a_layer_that_is_only_looked_at_takes_dropout() -> None:
    model = Looker()
    gw.graft(model, gw.LoRA(2, dropout=0.5), sites="called")
    gw.check_reach(model, torch.randn(3, 4))
    with pytest.raises(gw.GraftError, match="Looker reads its weight directly"):
        gw.graft(Looker(), gw.LoRA(2, dropout=0.5), sites="read")


class Both(nn.Module):
    """Calls the layer and reads its weight (a tied output), with a read that has no effect too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        return F.linear(h, self.embed.weight) + 0 * self.embed.weight.sum()


def test_a_layer_that_is_called_and_read_counts_once_in_each() -> None:
    model = Both().double()
    x = torch.arange(6)
    graft = stir(gw.graft(model, gw.LoRA(2), sites="embed"))
    out = model(x)
    weight = (
        model.embed.weight.detach() + (graft.tensors()["embed.B"] @ graft.tensors()["embed.A"]).T
    )
    close(out, weight[x] @ weight.T, 1e-12)


class Far(nn.Module):
    """Reads through a helper that no look at the class finds."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return read_from_outside(self, x)


def read_from_outside(module: Far, x: Tensor) -> Tensor:
    return F.linear(x, module.inner.weight)


def test_a_read_out_of_sight_is_caught_by_the_reach_check_and_cured_by_declaring_it() -> None:
    model = Far()
    graft = gw.graft(model, gw.LoRA(2))
    with pytest.raises(gw.GraftError, match=r"inner .*not reached in training mode"):
        gw.check_reach(model, torch.randn(2, 4))
    graft.remove()
    gw.register_reader(Far, "inner.weight")
    graft = stir(gw.graft(model, gw.LoRA(2)))
    gw.check_reach(model, torch.randn(2, 4))
    x = torch.randn(2, 4)
    out = model(x)
    graft.merge()
    close(model(x), out, 1e-5)


# -- what trains beside the adapter, under a reader --------------------------------------------


@pytest.mark.parametrize("grad", [True, False])
def test_a_copied_layer_is_read_from_the_copy(grad: bool) -> None:
    layer = encoder_layer().double().eval()
    x = sequence()
    graft = gw.graft(layer, gw.LoRA(2), sites="linear2", also_train=["linear1", "norm1"])
    stir(graft)
    with torch.set_grad_enabled(grad):
        out = layer(x)
        graft.merge()
        close(layer(x), out, 1e-12)
        graft.unmerge()
    gw.check_reach(layer, x)
    train_only = gw.graft(encoder_layer(), gw.NormAffine())
    gw.check_reach(train_only.model, x.float())


def test_what_a_copy_or_new_rows_cannot_reach_is_refused() -> None:
    with pytest.raises(gw.GraftError, match="TransformerEncoderLayer reads the weight of"):
        gw.graft(encoder_layer(), gw.LoRA(2), sites="linear1", also_train="self_attn")
    with pytest.raises(gw.GraftError, match="MultiheadAttention reads the weight of out_proj"):
        gw.graft(attention()(), gw.LoRA(2), also_train=gw.NewRows("out_proj", 2))


@pytest.mark.filterwarnings("ignore:.*nested tensor.*")
def test_a_whole_layer_of_an_encoder_trains_beside() -> None:
    encoder = nn.TransformerEncoder(encoder_layer(), 2).double()
    args, kwargs = padded()
    graft = gw.graft(encoder, gw.LoRA(2), sites="layers.0.*", also_train="layers.1")
    stir(graft)
    gw.check_reach(encoder, *args, **kwargs)
    encoder.eval()
    with torch.no_grad():
        fast = encoder(*args, **kwargs)
        graft.merge()
        close(encoder(*args, **kwargs), fast, 1e-12)
