"""What trains beside the adapter belongs to the graft: whole modules, new rows, buffers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from tests.core.core_helpers import base_bits, bits, close, net, picture, stir, tokens, train


def test_globs_and_nesting() -> None:
    model = net()
    graft = gw.graft(model, gw.LoRA(2), also_train=["layer1.*", "layer1", "layer1.2", "no*"])
    assert [(b.name, b.new) for b in graft.entry.beside] == [("layer1", None), ("norm", None)]
    rows = [r[0] for r in graft.summary().rows]
    assert rows == ["stem.0", "head", "layer1", "norm"]  # no site inside what trains whole


def test_a_site_inside_a_copied_module_is_no_site() -> None:
    with pytest.raises(gw.GraftError, match="matches no layer"):
        gw.graft(net(), gw.LoRA(2), sites="layer1.0", also_train="layer1")


def test_head_only() -> None:
    model = net()
    base = model(tokens())
    graft = gw.graft(model, gw.LoRA(2), sites=[], also_train="head")
    assert graft.summary().trainable == 27
    losses = train(model, graft, lambda: model(tokens()), steps=20)
    assert losses[-1] < losses[0] / 2
    model.eval()
    with graft.off():
        assert torch.equal(model(tokens()), base)


def test_a_container_with_batch_norm_trains_like_the_plain_module() -> None:
    """The copy, trained, equals the same module trained without any graft, bit for bit."""
    model, plain = net(), net()
    gw.graft(model, gw.LoRA(2), sites=[], also_train="stem")
    for p in plain.parameters():
        p.requires_grad_(False)
    for p in plain.stem.parameters():
        p.requires_grad_(True)
    for m in (model, plain):
        optimizer = torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=0.01)
        m.train()
        for step in range(4):
            optimizer.zero_grad()
            m(tokens(seed=step)).square().mean().backward()
            optimizer.step()
    mine = gw.get(model).tensors()
    for name, value in plain.stem.state_dict().items():
        assert torch.equal(mine[f"stem.module.{name}"], value), name
    assert int(mine["stem.module.1.num_batches_tracked"]) == 7
    assert torch.equal(model.eval()(tokens()), plain.eval()(tokens()))


def test_rows_behind_a_copy_and_on_grouped_layers() -> None:
    model = net()
    graft = stir(gw.graft(model, gw.LoRA(2), also_train=["head", gw.NewRows("head", 2)]))
    out = model(tokens())
    assert out.shape[-1] == 5
    graft.merge()
    close(model(tokens()), out, 1e-5)
    graft.unmerge()
    with pytest.raises(gw.GraftError, match="groups"):
        gw.graft(
            nn.Sequential(nn.Conv1d(4, 4, 1, groups=2)), gw.LoRA(2), also_train=gw.NewRows("0")
        )


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.bn = nn.BatchNorm1d(3)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0]))
        self.register_buffer("scratch", torch.full((3,), float("-inf")), persistent=False)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return torch.softmax(self.bn(self.fc(x)) + self.mask, -1)


def test_buffers_belong_to_the_graft() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Buffers())
    before = base_bits(model)
    graft = gw.graft(model, gw.LoRA(1), sites="0", also_train="1")
    x = torch.randn(4, 3)
    train(model, graft, lambda: model(x))
    mine = graft.tensors()
    assert "1.module.mask" in mine and "1.module.scratch" not in mine  # as in state_dict
    assert int(mine["1.module.steps"]) == 3
    assert base_bits(model) == before
    # a mask holds infinities by right; a weight does not
    graft.load_tensors({k: v.clone() for k, v in mine.items()})
    model.eval()
    out = model(x)
    graft.merge()
    close(model(x), out, 1e-5)
    graft.unmerge()
    assert base_bits(model) == before


FAULTS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "head.A: missing": lambda t: t.pop("head.A"),
    "head.C: not part of this graft": lambda t: t.update({"head.C": torch.ones(1)}),
    "head.B: shape (2, 3), expected (3, 2)": lambda t: t.update({"head.B": torch.ones(2, 3)}),
    "stem.module.0.bias: holds NaN or infinite values": lambda t: t["stem.module.0.bias"].fill_(
        float("nan")
    ),
    "stem.module.1.running_var: holds NaN or infinite values": lambda t: t[
        "stem.module.1.running_var"
    ].fill_(float("inf")),
    "layer1.0.new_rows.bias: holds NaN or infinite values": lambda t: t[
        "layer1.0.new_rows.bias"
    ].fill_(float("-inf")),
}


def loaded() -> tuple[nn.Module, gw.Graft]:
    model = net()
    also = ["stem", gw.NewRows("layer1.0", 2)]
    graft = gw.graft(model, gw.LoRA(2), sites="head", also_train=also, seed=0)
    return model, graft


@pytest.mark.parametrize("fault", FAULTS)
def test_loading_is_strict(fault: str) -> None:
    _, graft = loaded()
    before = {k: bits(v) for k, v in graft.tensors().items()}
    tensors = {k: v.clone() + 1 for k, v in graft.tensors().items()}
    FAULTS[fault](tensors)
    with pytest.raises(gw.GraftError) as error:
        graft.load_tensors(tensors)
    assert fault in str(error.value)
    assert {k: bits(v) for k, v in graft.tensors().items()} == before


def test_loading_lists_all_faults_at_once() -> None:
    _, graft = loaded()
    tensors = {k: v.clone() for k, v in graft.tensors().items()}
    for fault in FAULTS.values():
        fault(tensors)
    with pytest.raises(gw.GraftError) as error:
        graft.load_tensors(tensors)
    assert all(fault in str(error.value) for fault in FAULTS)
    with pytest.raises(gw.GraftError) as error:
        gw.graft_from_spec(net(), graft.spec(), tensors=tensors)
    assert all(fault in str(error.value) for fault in FAULTS)


def test_tensors_round_trip_onto_a_fresh_base() -> None:
    model, graft = loaded()
    model.layer1 = nn.Sequential(model.layer1[0], nn.GELU(), nn.Linear(10, 8))
    x = tokens()
    train(model, graft, lambda: model(x))
    model.eval()
    fresh = net()
    fresh.layer1 = copy.deepcopy(nn.Sequential(fresh.layer1[0], nn.GELU(), model.layer1[2]))
    untouched = base_bits(fresh)
    twin = gw.graft_from_spec(fresh, graft.spec(), "again", graft.tensors())
    assert torch.equal(fresh(x), model(x))
    assert base_bits(fresh) == untouched
    assert twin.spec() == graft.spec()
    assert {k: bits(v) for k, v in twin.tensors().items()} == {
        k: bits(v) for k, v in graft.tensors().items()
    }


def test_an_lstm_trains_whole_and_merges() -> None:
    """torch keeps a flat list of an LSTM's weights beside its parameters."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lstm = nn.Linear(3, 3), nn.LSTM(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.lstm(self.fc(x))[0]
            return out

    torch.manual_seed(0)
    model, x = Recurrent(), torch.randn(2, 5, 3)
    base, before = model(x), picture(model)
    graft = stir(gw.graft(model, gw.LoRA(2), also_train="lstm"))
    out = model(x)
    assert not torch.equal(out, base)
    graft.merge()
    close(model(x), out, 1e-5)
    graft.unmerge()
    assert torch.equal(model(x), out)
    graft.remove()
    assert torch.equal(model(x), base)
    assert picture(model) == before


def test_what_is_tied_inside_a_copy_stays_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x))
            return out

    model = nn.Sequential(nn.Linear(3, 3), Tied()).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    graft = stir(gw.graft(model, gw.LoRA(1), sites="0", also_train="1"))
    out = model(x)
    for keep in ("device", "cpu", "disk"):
        graft.merge(keep)
        close(model(x), out, 1e-12)
        assert model[1].a.weight is model[1].b.weight
        graft.unmerge()
        assert model[1].a.weight is model[1].b.weight


def test_layers_with_weight_hooks_cannot_train_whole() -> None:
    for where in ("fc", "*"):
        inner = nn.Sequential()
        inner.add_module("fc", nn.utils.spectral_norm(nn.Linear(3, 3)))
        model = nn.Sequential(nn.Linear(3, 3), inner)
        with pytest.raises(gw.GraftError, match="spectral_norm"):
            gw.graft(model, gw.LoRA(1), sites="0", also_train="1.fc" if where == "fc" else "1")
        assert type(model[0]) is nn.Linear


class Listed(nn.Module):
    """Children in a list, a dict, a Sequential that holds one child twice, and a walk."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Linear(4, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())])
        self.named = nn.ModuleDict({"a": nn.Linear(4, 4), "none": nn.Identity()})
        self.twice = nn.Sequential(shared, nn.Tanh(), shared)
        self.walk, self.fc = Walk(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        for key in self.named:
            x = self.named[key](x)
        out: Tensor = self.fc(self.walk(self.twice(x)))
        return out


class Walk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


def test_a_list_of_modules_stands_for_its_children() -> None:
    torch.manual_seed(0)
    model, x = Listed(), torch.randn(2, 4)
    base, before = model(x), picture(model)
    graft = gw.graft(model, gw.LoRA(2), sites="fc", also_train=["layers", "named", "twice"])
    names = [b.name for b in graft.entry.beside]
    assert names == ["layers.0", "layers.1", "named.a", "twice"]
    assert torch.equal(model(x), base)
    gw.check_reach(model, x)
    stir(graft)
    out = model(x)
    with graft.off():
        assert torch.equal(model(x), base)
    twice = model.twice
    assert isinstance(twice, nn.Sequential)
    assert len(twice) == 3 and twice[2] is twice[0] and twice[-1] is twice[0]
    assert [type(m).__name__ for m in twice] == ["Linear", "Tanh", "Linear"]
    assert len(twice[1:]) == 2
    graft.merge()
    close(model(x), out, 1e-5)
    graft.unmerge()
    graft.remove()
    assert picture(model) == before


def test_a_module_that_walks_over_its_children_cannot_train_whole_but_they_can() -> None:
    model = Listed()
    with pytest.raises(gw.GraftError, match="walk: its forward loops over all its children"):
        gw.graft(model, gw.LoRA(2), sites="fc", also_train="walk")
    gw.graft(model, gw.LoRA(2), sites="fc", also_train="walk.*")
    gw.check_reach(model, torch.randn(2, 4))
