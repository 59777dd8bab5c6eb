"""Modules that read a child's weight without calling the child are served exactly, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

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
    first(model(*args, **kwargs)).sin().sum().backward()
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
    first(functional_call(dense, weights, args, kwargs)).sin().sum().backward()
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
