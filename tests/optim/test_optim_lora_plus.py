"""LoRA+: rates by factor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optim_helpers import invariant
from torch import nn

import graftwork as gw
from graftwork.optim.pairs import Trained


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(7, 5)
        self.body = nn.Linear(5, 6)
        self.head = nn.Linear(6, 3)
        self.loose = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.table(x)).tanh()) + self.loose


def net(method: Any) -> tuple[Net, gw.Graft]:
    model = Net()
    return model, gw.graft(model, method, sites=["table", "body"], also_train=["head"])


@invariant("lora_plus", 1, 2)
@pytest.mark.parametrize("method", [gw.LoRA(2), gw.DoRA(2)])
def test_groups(method: Any) -> None:
    model, g = net(method)
    names = {id(p): k for k, p in g.named_parameters()}
    groups = gw.lora_plus(g, lr=1e-3, ratio=8.0, embedding_lr=1e-6)
    place = {names[id(p)]: (v["name"], v["lr"]) for v in groups for p in v["params"]}
    assert sorted(place) == sorted(names.values())
    assert sum(len(v["params"]) for v in groups) == len(names)
    assert place["body.A"] == ("A", 1e-3) and place["body.B"] == ("B", 8e-3)
    assert place["table.A"] == place["table.B"] == ("embedding", 1e-6)
    assert place["head.module.weight"] == place["head.module.bias"] == ("beside", 1e-3)
    if "magnitude" in str(names):
        assert place["body.magnitude"] == ("B", 8e-3)
    plain = gw.lora_plus(g, lr=1e-3)
    rates = {names[id(p)]: v["lr"] for v in plain for p in v["params"]}
    assert rates["table.B"] == rates["body.B"] == 16e-3 and rates["table.A"] == 1e-3
    model.loose.requires_grad_(True)
    for whole in (model, Trained(model)):
        (beside,) = (v for v in gw.lora_plus(whole, lr=1e-3) if v["name"] == "beside")
        assert any(p is model.loose for p in beside["params"])


@invariant("lora_plus", 3)
@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_ratio_one_is_lora(ratio: float) -> None:
    ends = []
    for build in (
        lambda g: gw.LoRAPlus(g, lr=1e-2, ratio=ratio, weight_decay=0.1),
        lambda g: torch.optim.AdamW(gw.lora_plus(g, 1e-2, ratio), weight_decay=0.1),
        lambda g: torch.optim.AdamW(g.parameters(), lr=1e-2, weight_decay=0.1),
    ):
        model, g = net(gw.LoRA(2))
        optimizer = build(g)
        for i in range(4):
            optimizer.zero_grad()
            model(torch.tensor([i, 1, 2])).sin().sum().backward()
            optimizer.step()
        ends.append([p.detach() for p in g.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(ends[0], ends[1], strict=True))
    same = all(torch.equal(p, q) for p, q in zip(ends[0], ends[2], strict=True))
    assert same is (ratio == 1.0)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: gw.lora_plus(Net().parameters(), 1e-3), "does not say which is A"),
        (lambda: gw.lora_plus(net(gw.LoRA(2))[1], 1e-3, ratio=0.0), "ratio must be above 0"),
        (lambda: gw.lora_plus(net(gw.LoRA(2))[1], float("nan")), "lr must be above 0"),
        (lambda: gw.LoRAPlus(net(gw.DiaBlo(2))[1]), "no graft here has a B"),
        (lambda: gw.LoRAPlus(gw.graft(Net(), gw.VeRA(2), sites=["body"])), "no graft here has a B"),
    ],
)
def test_refusals(build: Any, words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        build()
