"""A layer kind is told by the forward that its class resolves to; everything else is refused by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import timm.layers
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import graftwork as gw
from graftwork.algebra import recognise


def refused(layer: nn.Module, *words: str) -> None:
    model = nn.ModuleDict({"inner": layer})
    before = {id(m): type(m) for m in model.modules()}
    with pytest.raises(gw.GraftError) as e:
        gw.graft(model, gw.LoRA(2), sites=["inner"])
    assert "inner" in str(e.value)
    for word in words:
        assert word in str(e.value), f"{word!r} is not in {e.value}"
    assert all(type(m) is before[id(m)] for m in model.modules())


@pytest.mark.parametrize("name", ["StdConv2d", "ScaledStdConv2d", "Conv2dSame"])
def test_timm_convolutions_with_another_forward(name: str) -> None:
    refused(getattr(timm.layers, name)(4, 4, 3), name, "register_layer")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "word"),
    [
        (weight_norm, "weight_norm"),
        (spectral_norm, "spectral_norm"),
        (parametrizations.weight_norm, "parametri"),
        (parametrizations.spectral_norm, "parametri"),
    ],
    ids=["old weight_norm", "old spectral_norm", "new weight_norm", "new spectral_norm"],
)
@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 4), lambda: nn.Conv2d(4, 4, 3)])
def test_reparametrised_weights(
    wrap: Callable[[nn.Module], nn.Module], word: str, make: Callable[[], nn.Module]
) -> None:
    refused(wrap(make()), word)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize.*:UserWarning")
def test_quantised_layers() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    assert type(model[0]) is not nn.Linear
    with pytest.raises(gw.GraftError):
        gw.graft(model, gw.LoRA(2), sites=["0"])
    whole = nn.Linear(4, 4)
    whole.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    refused(whole, "int8")


def test_a_lazy_layer() -> None:
    refused(nn.LazyLinear(4), "lazy")


def test_a_forward_replaced_on_the_instance() -> None:
    layer = nn.Linear(4, 4)
    layer.forward = functools.partial(nn.Linear.forward, layer)  # type: ignore[method-assign]
    refused(layer, "replaced on the instance")


@pytest.mark.parametrize("kwargs", [{"max_norm": 1.0}, {"sparse": True}])
def test_embeddings_that_cannot_be_exact(kwargs: dict[str, Any]) -> None:
    refused(nn.Embedding(5, 3, **kwargs), next(iter(kwargs)))


class Doubling(nn.Linear):
    """Computes something else than its base class."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class Renamed(nn.Linear):
    """The same function under another name, and an attribute."""

    note = "mine"


class Rewritten(nn.Linear):
    """The same function, written again."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(input, self.weight, self.bias)


def test_a_subclass_counts_by_its_forward() -> None:
    refused(Doubling(3, 3), "Doubling", "register_layer")
    refused(Rewritten(3, 3), "Rewritten", "register_layer")
    layer = Renamed(3, 3)
    gw.graft(layer, gw.LoRA(2))
    assert isinstance(layer, Renamed) and layer.note == "mine"


def test_register_layer_vouches_for_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognise, "_REGISTERED", {})
    gw.register_layer(Rewritten, nn.Linear)
    layer, x = Rewritten(3, 4), torch.randn(2, 3)
    g = gw.graft(layer, gw.LoRA(2))
    with torch.no_grad():
        for p in g.parameters():
            p.normal_()
    before = layer(x)
    g.merge()
    torch.testing.assert_close(layer(x), before)
    with pytest.raises(gw.GraftError, match="not a known layer kind"):
        gw.register_layer(Rewritten, nn.ReLU)


def test_default_sites_leave_out_what_is_refused_and_say_so() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), timm.layers.StdConv2d(4, 4, 3))
    summary = gw.graft(model, gw.LoRA(2)).summary()
    assert [r[0] for r in summary.rows] == ["0"]
    assert any(name == "1" and "StdConv2d" in why for name, why in summary.left_out)
