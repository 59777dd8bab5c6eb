"""VeRA's numbered invariants, and its exchange with Hugging Face PEFT."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from method_invariants import invariant
from safetensors.torch import load_file, save_file
from torch import nn

import graftwork as gw
from graftwork.store import from_peft, to_peft

LAYERS = [
    (nn.Linear(6, 10), (4, 6)),
    (nn.Conv2d(4, 6, (3, 2), groups=2), (2, 4, 7, 7)),
    (nn.ConvTranspose1d(6, 9, 3, stride=2, groups=3), (1, 6, 5)),
]


def net() -> nn.Sequential:
    torch.manual_seed(3)
    layers = OrderedDict(
        a=nn.Linear(6, 5), act=nn.Tanh(), b=nn.Linear(5, 9), c=nn.Linear(9, 3, bias=False)
    )
    return nn.Sequential(layers)


def with_head() -> nn.Sequential:
    model = net()
    model.add_module("cls", nn.Linear(3, 2))
    return model


def moved(model: nn.Module, size: float = 0.5) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in gw.get(model).parameters():
            p.add_(size * torch.randn_like(p))


def drawn(g: gw.Graft) -> dict[str, dict[str, torch.Tensor]]:
    return {site: {k: getattr(state, k) for k in "AB"} for site, state in g.states()}


@invariant("vera", 1, 3)
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_start_is_the_base_and_the_count_is_the_formula(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    model, x = copy.deepcopy(layer), torch.randn(shape)
    g = gw.graft(model, gw.VeRA(6, d_initial=0.3))
    y = model(x)
    assert torch.equal(y, layer(x))
    out = getattr(layer, "out_features", None) or layer.out_channels
    tensors = g.tensors()
    assert {n: tuple(t.shape) for n, t in tensors.items()} == {"b": (out,), "d": (6,)}
    assert not tensors["b"].any() and bool((tensors["d"] == 0.3).all())
    y.square().sum().backward()
    grads = {n: p.grad for n, p in g.named_parameters()}
    assert grads["b"].abs().min() > 0 and not grads["d"].any()
    assert not any(t.requires_grad for t in drawn(g)[""].values())


@invariant("vera", 2, 5)
def test_forward_is_the_equation_and_linear_in_each_vector() -> None:
    layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.VeRA(4))
    moved(model)
    t = {k: v.clone() for k, v in (g.tensors() | drawn(g)[""]).items()}
    by_hand = x @ (layer.weight + t["b"].diag() @ t["B"] @ t["d"].diag() @ t["A"]).T + layer.bias
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    base, change = layer(x), model(x) - layer(x)
    for name in "bd":
        g.load_tensors(g.tensors() | {name: -3 * t[name]})
        torch.testing.assert_close(model(x) - base, -3 * change, rtol=0, atol=1e-12)
        g.load_tensors(g.tensors() | {name: t[name]})
    g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    g.unmerge()
    g.load_tensors(g.tensors() | {"b": torch.zeros(7)})
    assert torch.equal(model(x), base)


@invariant("vera", 4)
def test_all_layers_use_corners_of_the_same_matrices() -> None:
    g = gw.graft(net(), gw.VeRA(4, seed=5))
    assert (g.method.width_in, g.method.width_out) == (9, 9)
    found = drawn(g)
    widest, tallest = found["c"]["A"], found["b"]["B"]
    for site, (ins, outs) in {"a": (6, 5), "b": (5, 9), "c": (9, 3)}.items():
        assert torch.equal(found[site]["A"], widest[:, :ins])
        assert torch.equal(found[site]["B"], tallest[:outs])
    other = drawn(gw.graft(net(), gw.VeRA(4, seed=6)))
    assert not any(torch.equal(found[s][k], other[s][k]) for s in found for k in "AB")
    conv = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Linear(7, 5))
    g = gw.graft(conv, gw.VeRA(4), sites=["0", "1"])
    assert (g.method.width_in, g.method.width_out) == (18, 6)
    small, large = drawn(g)["1"]["A"], drawn(g)["0"]["A"]
    assert torch.equal(small, large.flatten(1)[:, :7])


def test_sites_share_among_those_of_the_same_settings() -> None:
    g = gw.graft(net(), gw.VeRA(4), overrides={"c": {"rank": 2}})
    assert g.method == gw.VeRA(4, width_in=6, width_out=9)
    assert {s.name: m for s, m in g.entry.sites}["c"] == gw.VeRA(2, width_in=9, width_out=3)


def test_a_reload_needs_no_matrices_and_gives_every_bit(tmp_path: Path) -> None:
    model = net()
    g = gw.graft(model, gw.VeRA(4, seed=2))
    moved(model)
    gw.save(g, tmp_path / "a")
    assert all(k[-1] in "bd" for k in load_file(next((tmp_path / "a").glob("*.safetensors"))))
    fresh = net()
    again = gw.load(fresh, tmp_path / "a")
    x = torch.randn(3, 6)
    assert torch.equal(fresh(x), model(x)) and again.method == g.method


@invariant("vera", 6)
def test_dropout_acts_in_training_on_the_branch_only() -> None:
    layer, x = nn.Linear(64, 5), torch.randn(3, 64)
    model = copy.deepcopy(layer)
    gw.graft(model, gw.VeRA(4, dropout=0.5))
    assert torch.equal(model.train()(x), layer(x))
    moved(model)
    model.train()
    assert not torch.equal(model(x), model(x))
    mean = torch.stack([model(x) for _ in range(400)]).mean(0)
    model.eval()
    assert torch.equal(model(x), model(x))
    assert (mean - model(x)).abs().max() < 0.35 * (model(x) - layer(x)).abs().max()


# -- Hugging Face PEFT ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft")


def by_peft(peft: Any, folder: Path, save_projection: bool = True, **fields: Any) -> nn.Module:
    """A trained VeRA of PEFT's, saved in a folder."""
    config = peft.VeraConfig(
        r=4, target_modules=["a", "b"], save_projection=save_projection, **fields
    )
    model = peft.get_peft_model(net(), config)
    torch.manual_seed(2)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "vera_lambda" in n:
                p.normal_()
    model.save_pretrained(folder)
    return model.eval()


@invariant("vera", 7)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("save_projection", [True, False])
def test_a_folder_of_pefts_computes_the_same_here(
    peft: Any, tmp_path: Path, save_projection: bool
) -> None:
    theirs = by_peft(peft, tmp_path / "p", save_projection, projection_prng_key=11)
    model, x = net(), torch.randn(3, 6)
    g = from_peft(model, tmp_path / "p")
    assert g.method == gw.VeRA(4, seed=11, width_in=6, width_out=9)
    found = drawn(g)
    vera = theirs.base_model
    assert torch.equal(found["a"]["A"], vera.vera_A["default"])
    assert torch.equal(found["b"]["B"], vera.vera_B["default"])
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(model(x), net()(x), rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_ours_goes_to_peft_and_back(peft: Any, tmp_path: Path) -> None:
    model, x = with_head(), torch.randn(3, 6)
    g = gw.graft(model, gw.VeRA(4, seed=3, dropout=0.25), sites=["a", "b"], also_train=["cls"])
    moved(model)
    to_peft(g, tmp_path / "p")
    plain = copy.deepcopy(model)
    gw.get(plain).remove()
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path / "p")).eval()
    torch.testing.assert_close(theirs(x), model.eval()(x), rtol=1e-5, atol=1e-6)
    fresh = copy.deepcopy(plain)
    back = from_peft(fresh, tmp_path / "p")
    assert back.method == g.method
    assert torch.equal(fresh.eval()(x), model(x))


@pytest.mark.filterwarnings("ignore")
def test_other_matrices_than_the_keys_are_refused(peft: Any, tmp_path: Path) -> None:
    by_peft(peft, tmp_path / "p")
    file = tmp_path / "p" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.vera_B"][1, 2] += 1e-3
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(gw.GraftError, match=r"vera_B: not the matrix that projection_prng_key = 0"):
        from_peft(net(), tmp_path / "p")
    del tensors["base_model.vera_A"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(gw.GraftError, match="vera_A: not the matrix"):
        from_peft(net(), tmp_path / "p")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bias": "vera_only"}, "trains base biases"),
        ({"r": 0}, "r = '0'"),
        ({"r": 5}, "vera_lambda_d has shape"),
        ({"projection_prng_key": -1}, "projection_prng_key"),
        ({"projection_prng_key": 1}, "not the matrix"),
        ({"vera_dropout": 1.0}, "vera_dropout"),
        ({"new_in_a_later_peft": 1}, "unknown field"),
    ],
)
def test_configs_that_do_not_fit_are_refused(
    peft: Any, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    by_peft(peft, tmp_path / "p")
    file = tmp_path / "p" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    model = net()
    with pytest.raises(gw.GraftError, match=words):
        from_peft(model, tmp_path / "p")
    assert type(model.a) is nn.Linear


@pytest.mark.parametrize(
    ("method", "overrides", "words"),
    [
        (gw.VeRA(4), {"c": {"rank": 2}}, "c: its rank is not that of a"),
        (gw.VeRA(4, width_in=20), {}, "PEFT draws for the largest of its layers, 9 and 9"),
    ],
)
def test_what_peft_has_no_place_for_is_refused(
    method: gw.VeRA, overrides: dict[str, Any], words: str, tmp_path: Path
) -> None:
    g = gw.graft(net(), method, overrides=overrides)
    with pytest.raises(gw.GraftError, match=words):
        to_peft(g, tmp_path / "p")
    conv = nn.Sequential(nn.Conv1d(3, 4, 3))
    with pytest.raises(gw.GraftError, match="PEFT has no VeRA for a conv1d"):
        to_peft(gw.graft(conv, gw.VeRA(4)), tmp_path / "p")
    g = gw.graft(net(), gw.VeRA(4), sites=["a"], also_train=["b"])
    with pytest.raises(gw.GraftError, match="b: PEFT would also save its own vera_lambda_b"):
        to_peft(g, tmp_path / "p")


@pytest.mark.parametrize(
    "fields", [{"rank": 0}, {"seed": -1}, {"dropout": 1.0}, {"width_in": 0}, {"width_out": 2**21}]
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(gw.GraftError, match=rf"VeRA\.{next(iter(fields))}"):
        gw.VeRA(**fields)


def test_a_layer_wider_than_the_shared_matrices_is_refused() -> None:
    for fields in ({"width_in": 8}, {"width_out": 8}):
        with pytest.raises(gw.GraftError, match="wider than the shared matrices"):
            gw.graft(net(), gw.VeRA(4, **fields), sites=["b", "c"])
    with pytest.raises(gw.GraftError, match=r"VeRA\.dropout"):
        gw.graft(nn.MultiheadAttention(8, 2), gw.VeRA(2, dropout=0.1), sites=["out_proj"])
