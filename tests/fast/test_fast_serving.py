"""Few rows from an unmerged graft inside `serving`: the same function, made of fewer operations, never stale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.fast import folded
from graftwork.methods.base import Method

METHODS = [gw.LoRA(3, alpha=4.5), gw.LoRA(2, dropout=0.5), gw.DoRA(3), gw.PiSSA(2), gw.IA3()]


class Attention(nn.Module):
    """q, k and v read one input; o follows; an embedding in front."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(8, 12, bias=bias), nn.Linear(8, 12, bias=bias)
        self.v, self.o = nn.Linear(8, 6, bias=bias), nn.Linear(6, 8, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        mixed = 1 + 0.1 * torch.tanh((self.q(x) * self.k(x)).mean(-1, keepdim=True))
        return x + self.o(mixed * self.v(x))


def grafted(
    method: Method, bias: bool = False, dtype: torch.dtype = torch.float32, name: str = "default"
) -> tuple[nn.Module, gw.Graft]:
    torch.manual_seed(0)
    model = Attention(bias).to(dtype)
    return model.eval(), stirred(gw.graft(model, method, sites=["type:Linear"], seed=0, name=name))


def stirred(graft: gw.Graft, seed: int = 1) -> gw.Graft:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in graft.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=draw).to(p))
    return graft


def rows(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(1, n, 8, generator=torch.Generator().manual_seed(n)).to(dtype)


@pytest.fixture(params=["folded", "apart"])
def fold(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Weights folded here too, as on a GPU."""
    if request.param == "folded":
        monkeypatch.setattr(folded, "DEVICES", ("cpu", "cuda"))
    return bool(request.param == "folded")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.id}{m.config()}")
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.bfloat16, 3e-2)])
def test_the_function_is_the_same(
    method: Method, bias: bool, dtype: torch.dtype, near: float, fold: bool
) -> None:
    model, _ = grafted(method, bias, dtype)
    with torch.no_grad():
        expected = [model(rows(n, dtype)) for n in (30, 1, 1, 4)]
        with gw.serving(model):
            got = [model(rows(n, dtype)) for n in (30, 1, 1, 4)]
    for one, two in zip(got, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=near, atol=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_a_new_graft_is_the_base_bit_for_bit(bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Attention(bias).to(dtype).eval()
    with torch.no_grad():
        expected = [model(rows(n, dtype)) for n in (1, 1, 5)]
        gw.graft(model, gw.LoRA(3), sites=["type:Linear"], seed=0)
        model(rows(3, dtype))
        with gw.serving(model):
            assert all(
                torch.equal(model(rows(n, dtype)), e)
                for n, e in zip((1, 1, 5), expected, strict=True)
            )


class Operations(TorchDispatchMode):
    """Counts what is issued, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.overloadpacket.__name__ != "_unsafe_view":
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_family_issues_two_products_and_one_sum_each_and_no_cast() -> None:
    model, graft = grafted(gw.LoRA(3), dtype=torch.bfloat16)
    x = rows(1, torch.bfloat16)
    with torch.no_grad():
        model(x)
        with graft.off(), Operations() as base:
            model(x)
        with Operations() as plain:
            model(x)
        with gw.serving(model):
            model(x)
            with Operations() as serving:
                model(x)
    # q, k and v: 2 products and 3 sums; o: 2 products and a sum
    assert len(serving.names) == len(base.names) + 5 + 3
    assert "_to_copy" not in serving.names and "_to_copy" in plain.names


@pytest.mark.parametrize("bias", [False, True])
def test_a_fold_issues_two_products_for_a_family_and_gives_the_weights_back(
    bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folded, "DEVICES", ("cpu",))
    model, graft = grafted(gw.LoRA(3), bias, torch.bfloat16)
    b = stirred(gw.graft(model, gw.LoRA(2), sites=["type:Linear"], name="b", seed=3), seed=5)
    gw.activate(model, "default")
    layers: list[Any] = [model.q, model.k, model.v, model.o]
    weights = [m.weight for m in layers]
    numbers, places = [w.clone() for w in weights], [w.data_ptr() for w in weights]
    x = rows(1, torch.bfloat16)
    with torch.no_grad():
        model(x)
        with graft.off(), Operations() as base:
            model(x)
        with gw.serving(model):
            model(x)
            with Operations() as serving:
                model(x)
            # q, k and v: two operations in place of three; o: two in place of one
            assert len(serving.names) == len(base.names)
            shared = {w.untyped_storage().data_ptr() for w in weights}
            assert len(shared) == 2 and weights[0].data_ptr() != places[0]
            memory = weights[0].data_ptr()
            for which in ("b", "default", "b"):  # a switch writes A into the same memory
                gw.activate(model, which)
                model(x.expand(1, 40, 8))
                got = model(x)
                torch.testing.assert_close(
                    got, model(x.expand(1, 40, 8))[:, :1], rtol=3e-2, atol=3e-2
                )
                assert weights[0].data_ptr() == memory
    assert b.name == "b"
    for m, w, n in zip(layers, weights, numbers, strict=True):
        assert m.weight is w and torch.equal(w, n)
        assert w.untyped_storage().nbytes() == w.numel() * w.element_size()


@pytest.mark.usefixtures("fold")
def test_switching_and_writing_inside_the_block_are_noticed() -> None:
    model, _ = grafted(gw.LoRA(3), name="a")
    b = stirred(gw.graft(model, gw.LoRA(2), sites=["type:Linear"], name="b", seed=3), seed=5)
    x = rows(1)

    def wanted() -> Tensor:
        # many rows go the plain way, inside the block as outside
        return model(x.expand(1, 40, 8))[:, :1]

    with torch.no_grad(), gw.serving(model):
        for which in ("a", "b", "a", None, {"a": 0.5, "b": 2.0}, "b"):
            gw.activate(model, which)  # type: ignore[arg-type]
            wanted()
            for _ in range(3):
                torch.testing.assert_close(model(x), wanted(), rtol=1e-5, atol=1e-5)
        stirred(b, seed=9)
        torch.testing.assert_close(model(x), wanted(), rtol=1e-5, atol=1e-5)
        b.load_tensors({k: 2 * t for k, t in b.tensors().items()})
        torch.testing.assert_close(model(x), wanted(), rtol=1e-5, atol=1e-5)
        model.q.weight = nn.Parameter(-model.q.weight, requires_grad=False)  # type: ignore[union-attr]
        torch.testing.assert_close(model(x), wanted(), rtol=1e-5, atol=1e-5)
        model.double()
        x = x.double()
        torch.testing.assert_close(model(x), wanted(), rtol=1e-5, atol=1e-5)
    optimizer = torch.optim.AdamW(b.parameters(), lr=0.1, fused=True)
    with gw.serving(model):
        with torch.no_grad():
            model(x)
            before = model(x)
        model(x).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            torch.testing.assert_close(model(x), wanted(), rtol=1e-5, atol=1e-5)
            assert not torch.allclose(model(x), before)


@pytest.mark.usefixtures("fold")
def test_dropout_and_other_ways_of_calling() -> None:
    model, graft = grafted(gw.LoRA(2, dropout=0.5))
    x = rows(1)
    with torch.no_grad(), gw.serving(model):
        model(x)
        calm = model(x)
        model.train()
        assert any(not torch.allclose(model(x), calm) for _ in range(8))
        model.eval()
        torch.testing.assert_close(model(x), calm)
        layer: Any = model.q
        # a layer called alone, then with the others again
        torch.testing.assert_close(layer(x), layer(x.expand(1, 40, 8))[:, :1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(x), calm)
    with torch.inference_mode(), gw.serving(model):
        torch.testing.assert_close(model(x.clone()), calm)
    with gw.serving(model):
        loss = model(x.requires_grad_()).sum()
        loss.backward()
        assert all(p.grad is not None for p in graft.parameters())
        with (
            pytest.raises(GraftError, match="inside another such block"),
            gw.serving(model),
        ):
            pass
    with gw.serving(model):
        pass
