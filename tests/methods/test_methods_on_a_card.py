"""Every method on every layer kind of its card: a GPU gives the CPU's answers in float32, to stated limits.

The same comparison also runs from the CPU to the CPU, where every answer must be the very same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from method_checks import Values, error, graft, move, values_for
from method_layers import Conv1D, LayerCase, Residual
from method_layers_attention import SelfAttention
from method_settings import small
from torch import Tensor, nn

import graftwork as gw
from graftwork.cards import cards

#: largest error over max|y|: a few hundred roundings of float32, as between two orders of the same sums
LIMITS = {"cpu": 0.0, "cuda": 2e-5}
#: backward sums over more terms, and what a softmax or a root does to them
GRADIENTS = {"cpu": 0.0, "cuda": 1e-4}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]
PAIRS = [(card["id"], kind) for card in cards() for kind in card["layer_kinds"]]


def case_of(kind: str) -> LayerCase:
    """One layer of the kind, with an input of a few hundred numbers."""
    if kind.startswith("conv"):
        n = int(kind[-2])
        transposed = kind.startswith("conv_transpose")
        make: Any = getattr(nn, f"Conv{'Transpose' if transposed else ''}{n}d")
        sizes = {"in_channels": 8, "out_channels": 12, "kernel_size": 3}
        return LayerCase(
            kind, make, {**sizes, "groups": 2, "stride": 2}, (2, 8, *[7] * n), (8, *[7] * n)
        )
    width, rows = 8, (4, 10)
    made: dict[str, tuple[Any, dict[str, Any]]] = {
        "linear": (nn.Linear, {"in_features": width, "out_features": 12}),
        "transposed_linear": (Conv1D, {"nf": 12, "nx": width}),
        "norm": (nn.LayerNorm, {"normalized_shape": width}),
        "block": (Residual, {"width": width, "hidden": 12, "out": width, "act": "gelu"}),
    }
    if kind == "embedding":
        args = {"num_embeddings": 20, "embedding_dim": width}
        return LayerCase(kind, nn.Embedding, args, rows, (), tokens=20)
    if kind == "attention":
        sizes = {"width": width, "heads": 2, "kv_heads": 2, "size": 4}
        args = {**sizes, "mask": "causal", "fused": False}
        return LayerCase(kind, SelfAttention, args, (*rows, width), (10, width))
    make, args = made[kind]
    return LayerCase(kind, make, args, (*rows, width), (width,))


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """No TF32, whose products keep ten bits: cuDNN's convolutions use it unless told."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def numbers(case: LayerCase) -> Tensor:
    x = case.inputs()
    return x.float() if x.is_floating_point() else x


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output in training, and the gradients of the input and of all trained tensors, on the CPU."""
    model.train()
    x = x.clone().requires_grad_(x.is_floating_point())
    with gw.extra_loss(model) as extra:
        y = model(x)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(4)).to(y)
        ((y * weights).sum() + extra()).backward()
    model.eval()
    grads = [p.grad for p in gw.get(model).parameters()] + [x.grad] * x.requires_grad
    assert all(g is not None for g in grads), "a trained tensor has no gradient"
    return y.detach().cpu(), [g.cpu() for g in grads if g is not None]


def near(found: list[Tensor], wanted: list[Tensor], limit: float, what: str) -> None:
    apart = error(found, [t.double() for t in wanted])
    print(f"  {what}: {apart:.1e}", flush=True)
    assert apart <= limit, f"{what}: {apart:.2e} of the largest, limit {limit:.0e}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("method_id", "kind"), PAIRS, ids=[f"{m}-{k}" for m, k in PAIRS])
def test_a_card_gives_the_cpus_answers(
    method_id: str, kind: str, device: str, tmp_path: Path
) -> None:
    case, method = case_of(kind), small(method_id)
    values = values_for(method, case)
    assert values is not None, "no values whose gates are decided"
    base, x = case.build().float(), numbers(case)
    one = copy.deepcopy(base)
    here = graft(one, method, case)
    move(here, case, values)
    gw.save(here, tmp_path / "here")
    two = copy.deepcopy(base).to(device)
    there = gw.load(two, tmp_path / "here")
    assert {t.device.type for t in there.tensors().values()} == {device}

    limit = LIMITS[device]
    y, grads = run(one, x)
    y_there, grads_there = run(two, x.to(device))
    near([y_there], [y], limit, "forward")
    names = [n for n, _ in here.named_parameters()]
    names += ["input"] * (len(grads) - len(names))
    # one that is zero by symmetry holds roundings of the others
    least = 0.01 * max(float(g.abs().max()) for g in grads)
    for name, a, b in zip(names, grads_there, grads, strict=True):
        apart = float((a - b).abs().max()) / max(least, float(b.abs().max()))
        assert apart <= GRADIENTS[device], f"gradient of {name}: {apart:.2e} of the largest"
    back = copy.deepcopy(base)
    gw.save(there, tmp_path / "there")
    loaded = gw.load(back, tmp_path / "there").tensors()
    assert loaded.keys() == here.tensors().keys()
    assert all(torch.equal(loaded[n], t) for n, t in here.tensors().items())
    with torch.no_grad():
        assert torch.equal(back(x), one(x))
        if method.mergeable:
            # bits of tensors, not of answers: transposed convolutions of a card add in any order
            plain = {n: t.clone() for n, t in two.state_dict().items()}
            here.merge()
            there.merge()
            near([two(x.to(device)).cpu()], [one(x)], limit, "merged")
            there.unmerge()
            again = two.state_dict()
            assert again.keys() == plain.keys()
            assert all(torch.equal(again[n], t) for n, t in plain.items())
    there.remove()
    left, was = two.state_dict(), base.state_dict()
    assert left.keys() == was.keys() and all(torch.equal(left[n].cpu(), was[n]) for n in was)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method_id", [card["id"] for card in cards()])
def test_a_start_on_the_card_is_the_base(method_id: str, device: str) -> None:
    """Drawn and decomposed where the weight lies."""
    kind = next(card for card in cards() if card["id"] == method_id)["layer_kinds"][0]
    case, method = case_of(kind), small(method_id)
    model, x = case.build().float().to(device), numbers(case).to(device)
    with torch.no_grad():
        plain = model(x)
        made = graft(model, method, case)
        assert {t.device.type for t in made.tensors().values()} == {device}
        if method.starts_at_base:
            assert torch.equal(model(x), plain)
        move(made, case, Values(0.1, 0))
        assert not torch.equal(model(x), plain)
