"""Every way to read a weight without calling its layer is found, or is not silent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from graftwork.attach import grafts_of
from tests.core.core_helpers import close, stir
from tests.core.test_core_fused import assert_shut, attention, encoder_layer, padded, sequence

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


class CheckpointedReader(nn.Module):
    """Recomputes the read in backward, when its own forward is long over."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.fc, self.reentrant = nn.Linear(4, 4), reentrant

    def read(self, x: Tensor) -> Tensor:
        return F.linear(x, self.fc.weight).sin()

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        out: Tensor = checkpoint(self.read, x, use_reentrant=self.reentrant)
        return out


def test_a_read_that_is_recomputed_in_backward_is_never_silent() -> None:
    """A limit: the gate is shut when backward recomputes a part of an owner's forward."""
    from torch.utils.checkpoint import CheckpointError

    x = torch.randn(3, 4, requires_grad=True)
    for reentrant, error in ((False, CheckpointError), (True, gw.GraftError)):
        model = CheckpointedReader(reentrant)
        gw.graft(model, gw.LoRA(2))
        with pytest.raises(error):
            gw.check_reach(model, x)
        assert_shut(model)


class CheckpointedOwner(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.layer, self.reentrant = encoder_layer(), reentrant

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        out: Tensor = checkpoint(self.layer, x, use_reentrant=self.reentrant)
        return out


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_owner_gives_the_same_gradients(reentrant: bool) -> None:
    model = CheckpointedOwner(reentrant).double()
    graft = stir(gw.graft(model, gw.LoRA(2)))
    x = sequence().requires_grad_()
    model.layer(x).sin().sum().backward()
    plain = {n: p.grad for n, p in graft.named_parameters()}
    model.zero_grad()
    model(x).sin().sum().backward()
    for name, p in graft.named_parameters():
        assert p.grad is not None and plain[name] is not None
        close(p.grad, plain[name], 1e-12)  # type: ignore[arg-type]
