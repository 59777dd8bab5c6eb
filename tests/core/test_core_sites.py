"""Which layers a graft takes, and that a refusal leaves the model untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from tests.core.core_helpers import Net, net, picture, tokens


def sites_of(graft: gw.Graft) -> list[str]:
    return [row[0] for row in graft.summary().rows]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("layer1.*", ["layer1.0", "layer1.2"]),
        (["head", "layer1.2"], ["layer1.2", "head"]),  # model order, whatever the order asked
        ("*", ["embed", "stem.0", "layer1.0", "layer1.2", "head"]),
        ("*.0", ["stem.0", "layer1.0"]),
        ("layer1.[02]", ["layer1.0", "layer1.2"]),
        ("type:Linear", ["layer1.0", "layer1.2", "head"]),
        ("type:Conv*", ["stem.0"]),
        (nn.Conv1d, ["stem.0"]),
        ([nn.Linear, "stem.0"], ["stem.0", "layer1.0", "layer1.2", "head"]),
        (nn.Module, ["embed", "stem.0", "layer1.0", "layer1.2", "head"]),
    ],
)
def test_patterns_select(patterns: Any, expected: list[str]) -> None:
    assert sites_of(gw.graft(net(), gw.LoRA(2), sites=patterns)) == expected


def test_a_generator_of_patterns_is_read_once() -> None:
    assert sites_of(gw.graft(net(), gw.LoRA(2), sites=(p for p in ("head",)))) == ["head"]


def test_default_sites_leave_embeddings_and_norms_and_say_why() -> None:
    graft = gw.graft(net(), gw.LoRA(2))
    assert sites_of(graft) == ["stem.0", "layer1.0", "layer1.2", "head"]
    left = dict(graft.summary().left_out)
    assert set(left) == {"embed", "norm", "stem.1"}
    assert "embedding" in left["embed"]


def test_default_sites_leave_layers_that_the_graft_would_outgrow() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    assert sites_of(gw.graft(model, gw.LoRA(8))) == ["0"]
    assert sites_of(gw.graft(nn.Sequential(nn.Linear(4, 2)), gw.LoRA(8))) == ["0"]  # none is larger


def test_a_bare_layer_is_a_model() -> None:
    layer = nn.Linear(4, 3)
    graft = gw.graft(layer, gw.LoRA(2))
    assert list(graft.tensors()) == ["A", "B"]
    assert sites_of(graft) == [""]
    assert "(model)" in str(graft.summary())


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("layer1.O", "layer1.0"), ("haed", "head"), ("layer9.2", "layer1.2"), ("*.layer1", "layer1")],
)
def test_a_pattern_without_match_names_near_misses(pattern: str, near: str) -> None:
    with pytest.raises(gw.GraftError, match="matches no layer") as error:
        gw.graft(net(), gw.LoRA(2), sites=[pattern])
    assert near in str(error.value).split("near misses:")[-1]


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class SameConv(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Own(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.fc, self.odd = nn.Linear(4, 4), layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.odd(self.fc(x))
        return out


def scripted() -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Linear(4, 4))


def wrapped() -> nn.Module:
    layer = nn.Linear(4, 4)
    inner = layer.forward
    layer.forward = lambda x: inner(x)  # type: ignore[method-assign]
    return layer


def parametrised() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))


def hooked() -> nn.Module:
    return nn.utils.spectral_norm(nn.Linear(4, 4))


def sharded() -> nn.Module:
    from torch.testing._internal.two_tensor import TwoTensor

    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(TwoTensor(torch.ones(4, 4), torch.ones(4, 4)))
    return layer


def eight_bits() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.ones(4, 4).to(torch.float8_e4m3fn), requires_grad=False)
    return layer


def quantised() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    return layer


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (lambda: Scaled(4, 4), "Scaled overrides the forward"),
        (lambda: SameConv(4, 4, 1), "SameConv overrides the forward"),
        (wrapped, "replaced on the instance"),
        (parametrised, "parametri"),
        (hooked, "hook"),
        (quantised, "quantised"),
        (eight_bits, "quantised"),
        (sharded, "sharded"),
        (lambda: nn.Embedding(4, 4, max_norm=1.0), "max_norm"),
        (lambda: nn.Embedding(4, 4, sparse=True), "sparse"),
    ],
)
def test_a_layer_that_is_not_what_it_seems_is_refused_by_name(
    layer: Callable[[], nn.Module], word: str
) -> None:
    model = Own(layer())
    before = {n: (type(m), sorted(m.__dict__)) for n, m in model.named_modules()}
    with pytest.raises(gw.GraftError, match=word) as error:
        gw.graft(model, gw.LoRA(2), sites=["fc", "odd"])
    assert "odd" in str(error.value)
    assert before == {n: (type(m), sorted(m.__dict__)) for n, m in model.named_modules()}
    graft = gw.graft(model, gw.LoRA(2))  # by default it is left out, with the reason
    assert sites_of(graft) == ["fc"]
    assert word in dict(graft.summary().left_out)["odd"]


def test_a_registered_class_is_served() -> None:
    class Loud(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    model = Own(Loud(4, 4))
    with pytest.raises(gw.GraftError, match="register_layer"):
        gw.graft(model, gw.LoRA(2), sites="odd")
    gw.register_layer(Loud, nn.Linear)
    assert sites_of(gw.graft(model, gw.LoRA(2), sites="odd")) == ["odd"]
    with pytest.raises(gw.GraftError, match="not a known layer"):
        gw.register_layer(Loud, nn.ReLU)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"sites": ["layer1.*", "nope"]}, "nope"),
    ({"sites": [""]}, "glob"),
    ({"sites": [3]}, "glob"),
    ({"sites": ["x" * 501]}, "glob"),
    ({"sites": nn.ReLU}, "ReLU"),
    ({"sites": "norm"}, "other kinds"),
    ({"sites": []}, "both empty"),
    ({"overrides": {"nope": {"rank": 4}}}, "overrides"),
    ({"overrides": {"head": {"rnak": 4}}}, "rnak"),
    ({"overrides": {"head": {"rank": 0}}}, "rank"),
    ({"overrides": {"head": {"rank": 2.5}}}, "rank"),
    ({"overrides": {"head": 4}}, "fields or a method"),
    ({"overrides": {"head": gw.NormAffine()}}, "switch"),
    ({"also_train": "nope"}, "also_train"),
    ({"also_train": [gw.NewRows("layer1.*")]}, "matches 2 layers"),
    ({"also_train": [gw.NewRows("norm")]}, "no layer with rows"),
    ({"also_train": [gw.NewRows("stem")]}, "no layer with rows"),
    ({"also_train": ["layer1", gw.NewRows("layer1.2")]}, "lies inside layer1"),
    ({"also_train": "*"}, "no default site"),
    ({"name": ""}, "name"),
    ({"name": "a.b"}, "name"),
    ({"name": "../up"}, "name"),
    ({"name": "a:b"}, "name"),
    ({"name": "new\nline"}, "name"),
    ({"name": "x" * 101}, "name"),
    ({"name": "train"}, "reserved"),
    ({"name": "forward"}, "reserved"),
    ({"name": 3}, "name"),
]


@pytest.mark.parametrize(("arguments", "word"), BAD, ids=[repr(a)[:60] for a, _ in BAD])
def test_a_refusal_leaves_the_model_untouched(arguments: dict[str, Any], word: str) -> None:
    model = net()
    before, state = picture(model), torch.random.get_rng_state()
    with pytest.raises(gw.GraftError, match=word):
        gw.graft(model, gw.LoRA(2), **arguments)
    assert picture(model) == before
    assert torch.equal(state, torch.random.get_rng_state())
    gw.graft(model, gw.LoRA(2))


def test_wrong_kinds_of_arguments_are_named() -> None:
    with pytest.raises(gw.GraftError, match=r"instance such as LoRA\(8\)"):
        gw.graft(net(), gw.LoRA)  # type: ignore[arg-type]
    with pytest.raises(gw.GraftError, match=r"torch\.nn\.Module"):
        gw.graft("model", gw.LoRA(2))  # type: ignore[arg-type]
    with pytest.raises(gw.GraftError, match="at least 1"):
        gw.NewRows("head", 0)


def test_a_model_without_a_site_is_refused() -> None:
    with pytest.raises(gw.GraftError, match="no default site in ReLU"):
        gw.graft(nn.ReLU(), gw.LoRA(2))
    with pytest.raises(gw.GraftError, match="normalisation"):
        gw.graft(nn.Linear(3, 3), gw.NormAffine())
    with pytest.raises(gw.GraftError, match="new_biases"):
        gw.graft(nn.Linear(3, 3, bias=False), gw.BitFit())


def test_a_later_refusal_leaves_an_earlier_graft_in_force() -> None:
    model = net()
    first = gw.graft(model, gw.LoRA(2), name="a")
    before = picture(model)
    for arguments in ({"name": "a"}, {"name": "b", "sites": "nope"}):
        with pytest.raises(gw.GraftError):
            gw.graft(model, gw.LoRA(2), **arguments)  # type: ignore[arg-type]
    assert picture(model) == before
    assert list(gw.grafts(model)) == ["a"]
    first.remove()
    gw.graft(model, gw.LoRA(2), name="a")  # a removed name is free again


def test_part_and_whole_of_a_grafted_model_are_refused() -> None:
    model = net()
    gw.graft(model, gw.LoRA(2))
    with pytest.raises(gw.GraftError, match="part of a grafted model"):
        gw.graft(model.layer1, gw.LoRA(2))
    with pytest.raises(gw.GraftError, match="inside this one is already grafted"):
        gw.graft(nn.Sequential(model), gw.LoRA(2))
    assert list(gw.grafts(nn.Sequential(model))) == ["default"]  # a wrapper finds it, though


def test_overrides() -> None:
    model = net()
    graft = gw.graft(
        model,
        gw.LoRA(2),
        sites="*",
        overrides={
            "layer1.*": {"rank": 4},
            "layer1.2": {"alpha": 16.0},  # adds to the one before
            "type:Conv1d": gw.IA3(),
        },
    )
    shapes = {k: tuple(v.shape) for k, v in graft.tensors().items()}
    assert shapes["layer1.0.A"] == shapes["layer1.2.A"] == (4, 8)
    assert shapes["head.A"] == (2, 8)
    assert shapes["stem.0.scale"] == (8,)
    methods = {s.name: m for s, m in graft.entry.sites}
    assert methods["layer1.2"] == gw.LoRA(4, alpha=16.0)
    assert methods["layer1.0"] == gw.LoRA(4)
    again = gw.graft_from_spec(net(), graft.spec(), tensors=graft.tensors())
    assert torch.equal(again.model(tokens()), model(tokens()))


def test_an_override_that_a_layer_cannot_take_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False))
    with pytest.raises(gw.GraftError, match="BitFit"):
        gw.graft(model, gw.LoRA(2), overrides={"0": gw.BitFit()})
    assert type(model[0]) is nn.Linear


def test_summary_counts_by_hand() -> None:
    model = net()
    base = sum(p.numel() for p in model.parameters())
    graft = gw.graft(
        model, gw.LoRA(2), sites="layer1.*", also_train=["norm", gw.NewRows("head", 2)]
    )
    summary = graft.summary()
    assert summary.trainable == 2 * 2 * (8 + 8) + 16 + 2 * (8 + 1)
    assert summary.trainable == sum(p.numel() for p in graft.parameters())
    assert summary.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert summary.base == base
    assert summary.share == summary.trainable / base
    gw.graft(model, gw.LoRA(4), name="other")
    assert graft.summary().base == base  # another graft is no part of the base
    assert "5 sites" not in str(summary) and "4 sites" in str(summary)


def test_names_with_odd_characters_work() -> None:
    model = nn.ModuleDict({"a b": nn.Linear(3, 3), "[x]": nn.Linear(3, 3), "ä*": nn.Linear(3, 3)})
    graft = gw.graft(model, gw.LoRA(1), name="näme with space")
    assert sites_of(graft) == ["a b", "[x]", "ä*"]
    assert gw.get(model, "näme with space").tensors().keys() == graft.tensors().keys()


def test_the_start_values_follow_the_seed() -> None:
    def start(seed: int | None) -> Tensor:
        torch.manual_seed(5)
        return gw.graft(net(), gw.LoRA(2), seed=seed).tensors()["head.A"]

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    before = torch.random.get_rng_state()
    model = Net()
    after = torch.random.get_rng_state()
    gw.graft(model, gw.LoRA(2), seed=3)
    assert torch.equal(after, torch.random.get_rng_state()) and not torch.equal(before, after)


def test_a_shared_module_is_one_site() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    graft = gw.graft(model, gw.LoRA(2))
    assert sites_of(graft) == ["0"]
    gw.check_reach(model, torch.randn(2, 4))


def test_a_model_with_lazy_layers_is_refused_until_it_ran() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4))
    with pytest.raises(gw.GraftError, match="lazy"):
        gw.graft(model, gw.LoRA(2))
    model(torch.randn(2, 4))
    assert sites_of(gw.graft(model, gw.LoRA(2))) == ["0", "1"]


def test_a_compiled_graph_is_refused() -> None:
    with pytest.raises(gw.GraftError):
        gw.graft(scripted(), gw.LoRA(2))


def test_an_attribute_of_our_name_is_refused() -> None:
    model = net()
    model.head._graft = 3
    before = picture(model)
    with pytest.raises(gw.GraftError, match="_graft"):
        gw.graft(model, gw.LoRA(2))
    assert picture(model) == before
