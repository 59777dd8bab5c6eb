"""How LoFT is built and used: targets, groups, clipping, precision, memory, refusals."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_helpers import Factored, gradients, loft
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import graftwork as gw
from graftwork.graft import graft_from_spec
from graftwork.optim.pairs import Trained, find_pairs

BOTH = [gw.LoFT, gw.LoFTSimple]


def grafted(method: Any = None, **options: Any) -> tuple[nn.Module, gw.Graft]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    options = {"sites": ["0", "2"], **options}
    return model, gw.graft(model, method or gw.LoRA(2), **options)


def descend(model: nn.Module, optimizer: Any, steps: int = 4) -> None:
    for i in range(steps):
        torch.manual_seed(i)
        optimizer.zero_grad()
        x = torch.randn(5, 6, dtype=next(model.parameters()).dtype)
        model(x).float().sin().sum().backward()
        optimizer.step()


LAYERS = [
    (lambda: nn.Linear(5, 7), 3),
    (lambda: nn.Embedding(9, 6), 3),
    (lambda: nn.Conv2d(4, 6, (2, 3), groups=2), 4),
    (lambda: nn.Conv3d(6, 9, 2, groups=3), 2),  # shared by the groups
    (lambda: nn.ConvTranspose2d(6, 4, 2, groups=2), 2),
]


@pytest.mark.parametrize(("make", "rank"), LAYERS)
def test_a_pairs_product_is_the_layers_change(make: Any, rank: int) -> None:
    layer = make()
    g = gw.graft(layer, gw.LoRA(rank), sites=["*"])
    torch.nn.init.normal_(dict(g.named_parameters())["A"])
    torch.nn.init.normal_(dict(g.named_parameters())["B"])
    (pair,), (_, state) = find_pairs(g, "LoFT"), next(g.states())
    product = pair.tall(pair.b, pair.b) @ pair.tall(pair.a, pair.a).mT
    change = state.geo.rows(state.delta(layer).weight)
    torch.testing.assert_close(product.reshape(change.shape), change)
    for p in (pair.a, pair.b):
        assert torch.equal(pair.flat(p, pair.tall(p, p)), p)


@pytest.mark.parametrize("optimizer_class", BOTH)
@pytest.mark.parametrize(("make", "rank"), LAYERS)
def test_every_layer_kind_trains(make: Any, rank: int, optimizer_class: Any) -> None:
    torch.manual_seed(0)
    layer = make()
    kind = type(layer).__name__
    spatial = layer.weight.dim() - 2
    g = gw.graft(layer, gw.LoRA(rank), sites=["*"])
    optimizer = optimizer_class(g, lr=0.01, weight_decay=0.0)
    x = (
        torch.arange(9)
        if kind == "Embedding"
        else torch.randn(4, 6 if spatial else 5, *[5] * spatial)
    )
    x = torch.randn(4, 4, 5, 5) if kind == "Conv2d" else x
    start = {k: t.clone() for k, t in g.tensors().items()}
    with torch.no_grad():  # a target within reach
        for p in g.parameters():
            p.copy_(0.3 * torch.randn_like(p))
        target = layer(x)
    g.load_tensors(start)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert min(losses[-5:]) < (0.6 if optimizer_class is gw.LoFT else 0.95) * losses[0]
    assert all(torch.isfinite(p).all() and p.any() for p in g.parameters())


def test_graft_module_list_and_groups_are_the_same() -> None:
    ends = []
    for form in (
        lambda model, g: g,
        lambda model, g: model,
        lambda model, g: Trained(model),
        lambda model, g: [{"params": g}],
        lambda model, g: [{"params": model, "lr": 0.01}],
    ):
        model, g = grafted(also_train=[gw.NewRows("2", 1)])
        assert {id(p) for p in Trained(model)} == {id(p) for p in g.parameters()}
        descend(model, gw.LoFT(form(model, g), lr=0.01))
        ends.append([p.detach() for p in g.parameters()])
    for other in ends[1:]:
        assert all(torch.equal(p, q) for p, q in zip(ends[0], other, strict=True))


def test_groups_have_rates_of_their_own() -> None:
    model, g = grafted(sites=["0"])
    second = gw.graft(model, gw.LoRA(1), sites=["2"], name="second")
    gw.activate(model, {"default": 1.0, "second": 1.0})
    loose = nn.Parameter(torch.ones(3))
    optimizer = gw.LoFT(
        [{"params": g, "lr": 0.0}, {"params": second}, {"params": [loose]}], lr=0.05
    )
    before = copy.deepcopy([list(g.parameters()), list(second.parameters())])
    loose.grad = torch.ones(3)
    optimizer.step()
    model(torch.randn(5, 6)).sum().backward()
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(before[0], g.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(before[1], second.parameters(), strict=True))
    assert (loose < 1).all()
    optimizer.add_param_group({"params": nn.Parameter(torch.ones(2)), "lr": 0.1})
    assert len(optimizer.param_groups) == 4


@pytest.mark.parametrize("optimizer_class", BOTH)
def test_a_schedule_moves_the_rate(optimizer_class: Any) -> None:
    model, g = grafted()
    optimizer = optimizer_class(g, lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)
    descend(model, optimizer, 1)
    schedule.step()
    before = [p.detach().clone() for p in g.parameters()]
    descend(model, optimizer, 2)
    assert all(torch.equal(p, q) for p, q in zip(before, g.parameters(), strict=True))


def test_accumulated_gradients_are_one_step() -> None:
    ends = []
    for parts in (1, 4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
        g = gw.graft(model, gw.LoRA(2), sites=["0", "2"])
        optimizer = gw.LoFT(g, lr=0.01)
        torch.manual_seed(1)
        for x in torch.randn(3, 8, 6, dtype=torch.float64):
            optimizer.zero_grad()
            for piece in x.chunk(parts):
                model(piece).sin().sum().backward()
            optimizer.step()
        ends.append([p.detach() for p in g.parameters()])
    for p, q in zip(*ends, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)


@settings(max_examples=10)
@given(c=st.floats(0.1, 10), max_norm=st.floats(0.1, 5))
def test_clipping_is_by_the_projected_gradient(c: float, max_norm: float) -> None:
    """It is the same for every split of B A, and equals scaling the gradients by hand."""
    ends = []
    for split, by_hand in ((1.0, False), (c, False), (1.0, True)):
        net = Factored(6, 5, 2)
        head = nn.Parameter(torch.ones(3, dtype=torch.float64))
        with torch.no_grad():
            net.b.mul_(split)
            net.a.div_(split)
        groups = [{"params": net.graft}, {"params": [head]}]
        optimizer = loft(groups, lr=0.01, max_norm=None if by_hand else max_norm)
        for g in gradients(6, 5, 6):
            net.backward(g)
            head.grad = torch.full((3,), 0.7, dtype=torch.float64)
            if by_hand:
                share = min(1.0, max_norm / (float(optimizer.effective_norm()) + 1e-6))
                for p in (net.a, net.b, head):
                    p.grad *= share
            optimizer.step()
        ends.append((net.w, head.detach().clone()))
    for w, head in ends[1:]:
        torch.testing.assert_close(w, ends[0][0], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(head, ends[0][1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer_class", BOTH)
def test_half_precision_factors_follow_the_full_ones(optimizer_class: Any) -> None:
    """A rate far below bfloat16's resolution still moves them, because a wide copy is kept."""
    nets = [Factored(16, 12, 2, dtype=d) for d in (torch.float32, torch.bfloat16)]
    with torch.no_grad():
        for p, q in zip(nets[0].graft.parameters(), nets[1].graft.parameters(), strict=True):
            p.copy_(q)
    assert nets[1].b.dtype == torch.bfloat16
    start = nets[0].w.clone()
    optimizers = [optimizer_class(n.graft, lr=2e-5, weight_decay=0.0) for n in nets]
    for g in gradients(16, 12, 120):
        for net, optimizer in zip(nets, optimizers, strict=True):
            # the same gradient for both: what is compared is the step
            nets[0].backward((g.sign() + 0.5).float())
            for p, q in zip(nets[0].graft.parameters(), net.graft.parameters(), strict=True):
                q.grad = p.grad.to(q.dtype)
            optimizer.step()
    assert all(s["exp_avg"].dtype == torch.float32 for s in optimizers[1].state.values())
    moved = (nets[0].w - start).norm()
    b, a = (optimizers[1].state[p]["master"] for p in (nets[1].b, nets[1].a))
    assert moved > 0 and (b @ a - nets[0].w).norm() < 0.2 * moved
    assert torch.equal(b.to(torch.bfloat16), nets[1].b)
    with torch.no_grad():
        nets[1].b.zero_()  # somebody writes to the factor: his value counts
    for p in nets[1].graft.parameters():
        p.grad = torch.zeros_like(p)
    optimizers[1].param_groups[0]["lr"] = 0.0
    optimizers[1].step()
    assert not nets[1].b.any() and not optimizers[1].state[nets[1].b]["previous"].any()


class Largest(TorchDispatchMode):
    """The largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [t.numel() for t in tree_flatten(out)[0] if isinstance(t, Tensor)]
        self.elements = max([self.elements, *made])
        return out


def test_scratch_is_bounded_by_the_chunk() -> None:
    ends, sizes = [], []
    for chunk in (2**24, 600):
        net = Factored(300, 200, 2)
        optimizer = gw.LoFT(net.graft, lr=0.01, chunk=chunk)
        for g in gradients(300, 200, 2):
            net.backward(g)
            with Largest() as largest:
                optimizer.step()
        ends.append(net.w)
        sizes.append(largest.elements)
    assert sizes[0] >= 300 * 200 and sizes[1] <= 300 * 4  # no more than the state itself
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)


@settings(max_examples=5)
@given(chunk=st.integers(1, 60))
def test_any_chunk_gives_the_same_step(chunk: int) -> None:
    ends = []
    for size in (2**24, chunk):
        net = Factored(9, 7, 2)
        optimizer = gw.LoFT(net.graft, lr=0.01, chunk=size)
        for g in gradients(9, 7, 3):
            net.backward(g)
            optimizer.step()
        ends.append(net.w)
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)


def test_copies_and_pickles_carry_their_pairs() -> None:
    model, g = grafted()
    optimizer = gw.LoFT(g, lr=0.01, max_norm=1.0)
    descend(model, optimizer, 3)
    both = copy.deepcopy((model, optimizer))
    stored = pickle.loads(pickle.dumps((model, optimizer)))
    for m, o in ((model, optimizer), both, stored):
        descend(m, o, 3)
    for m, _ in (both, stored):
        for p, q in zip(g.parameters(), gw.get(m).parameters(), strict=True):
            assert torch.equal(p, q)


def test_a_missing_gradient_is_no_step() -> None:
    _, g = grafted()
    optimizer = gw.LoFT(g, lr=0.1)
    before = [p.detach().clone() for p in g.parameters()]
    optimizer.step()
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3.0
    assert all(torch.equal(p, q) for p, q in zip(before, g.parameters(), strict=True))
    assert not optimizer.state


def from_a_file(rank: int) -> gw.Graft:
    """LoRA of a rank that a new graft may not have."""
    model, g = grafted()
    spec = g.spec()
    spec["method"]["config"]["rank"] = rank
    g.remove()
    return graft_from_spec(model, spec)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: gw.LoFT(grafted(gw.DoRA(2))[1]), "0: the change of DoRA is not B A alone"),
        (lambda: gw.LoFT(grafted(gw.BitFit())[1]), "BitFit is not B A alone"),
        (lambda: gw.LoFT(grafted(gw.LoRA(2, alpha=4.0))[1]), "has the scale 2.*alpha at None"),
        (lambda: gw.LoFT(grafted(gw.LoRA(2, clients=3))[1]), "scale.*clients unset"),
        (lambda: gw.LoFT(from_a_file(5)), "2: LoRA.rank.*rank 5.*at most 4"),
        (lambda: gw.LoFT(grafted()[0].parameters()), "does not say which A"),
        (lambda: gw.LoFT([]), "does not say which A"),
        (lambda: gw.LoFT(nn.Linear(2, 2)), "does not say which A"),
        (lambda: gw.LoFT([{"params": grafted()[0].parameters()}]), "does not say which A"),
        (lambda: gw.LoFT(grafted()[1], lr=-1.0), "LoFT.lr must be at least 0"),
        (lambda: gw.LoFT(grafted()[1], lr=float("nan")), "LoFT.lr must be at least 0"),
        (lambda: gw.LoFTSimple(grafted()[1], betas=(0.9, 1.0)), r"LoFTSimple.betas must lie"),
        (lambda: gw.LoFT(grafted()[1], ridge=(-1.0, 0.0)), "ridge must be"),
        (lambda: gw.LoFT(grafted()[1], max_norm=0.0), "max_norm must be above 0"),
        (lambda: gw.LoFT(grafted()[1], chunk=0), "chunk must be at least 1"),
    ],
)
def test_refusals(build: Any, words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        build()


def test_a_frozen_partner_is_refused_and_a_frozen_graft_left_out() -> None:
    model, g = grafted()
    named = dict(g.named_parameters())
    named["0.A"].requires_grad_(False)
    with pytest.raises(gw.GraftError, match="0: only one of A and B trains"):
        gw.LoFT(g)
    named["0.B"].requires_grad_(False)
    optimizer = gw.LoFT(model)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_a_singular_factor_without_a_ridge_and_a_foreign_state_are_refused() -> None:
    model, g = grafted()
    optimizer = gw.LoFT(g, ridge=(0.0, 0.0))  # B starts at zero
    with pytest.raises(gw.GraftError, match=r"0: a factor has no full rank.*ridge"):
        descend(model, optimizer, 1)
    descend(model, simple := gw.LoFTSimple(g), 1)
    with pytest.raises(gw.GraftError, match="no 'cross'; it is another optimizer's"):
        gw.LoFT(g).load_state_dict(simple.state_dict())
