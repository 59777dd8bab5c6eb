"""The common battery: every registered method on one small network of many layer kinds."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from method_layers_attention import SelfAttention
from method_settings import small
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graftwork as gw
from graftwork.cards import cards
from graftwork.methods import method_class

IDS = [c["id"] for c in cards()]
CARDS = {c["id"]: c for c in cards()}
#: methods whose change is a tensor of numbers added to the output, so that two can be summed
SUMS = [i for i in IDS if CARDS[i]["changes"] not in ("module", "attention")]
MERGES = [i for i in IDS if CARDS[i]["mergeable"]]


class Network(nn.Module):
    """Convolutions both ways, norms, attention, a feed-forward block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.attn = SelfAttention(6, 2, 2, 3, mask="none", fused=True)
        self.ln = nn.LayerNorm(6)
        self.mlp = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(torch.relu(self.bn(self.stem(x)))).flatten(2).transpose(1, 2)
        h = (h + self.attn(h)).mean(1)
        return self.head(h + self.mlp(self.ln(h)))


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    net = Network()
    for b in (net.bn.running_mean, net.bn.running_var):
        b.uniform_(0.5, 1.5)
    return net.eval()


def x(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(5))


def grafted(method_id: str, model: nn.Module, name: str = "default", seed: int = 1) -> gw.Graft:
    return gw.graft(model, small(method_id), name=name, seed=seed)


def move(g: gw.Graft, seed: int = 2, size: float = 0.1) -> None:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in g.parameters():
            p.add_((size * torch.randn(p.shape, generator=rng)).to(p.dtype))


def train(model: nn.Module, steps: int = 3) -> None:
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=0.02)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(x()).square().mean().backward()
        optimizer.step()
    model.eval()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method_id", IDS)
def test_start_equals_the_base_and_values_differ_after_training(method_id: str) -> None:
    model, base = network(), network()
    g = grafted(method_id, model)
    if g.method.starts_at_base:
        assert torch.equal(model(x()), base(x()))
    train(model)
    assert not torch.equal(model(x()), base(x()))
    with g.off():
        assert torch.equal(model(x()), base(x()))


@pytest.mark.parametrize("method_id", IDS)
def test_trains_its_own_tensors_only_and_the_base_keeps_its_bits(method_id: str) -> None:
    model, base = network(), network()
    g = grafted(method_id, model)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in g.parameters()}
    assert model.state_dict().keys() == base.state_dict().keys()
    start = {n: t.clone() for n, t in g.tensors().items()}
    train(model, steps=3)
    assert same(model.state_dict(), base.state_dict())
    still = [n for n, p in g.named_parameters() if torch.equal(p, start[n])]
    assert not still, f"{method_id}: {still} did not move in three steps"
    g.remove()
    assert same(model.state_dict(), base.state_dict())
    assert all(type(m) is type(n) for m, n in zip(model.modules(), base.modules(), strict=True))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method_id", MERGES)
@pytest.mark.parametrize("keep", ["device", "cpu", "disk"])
def test_merge_unmerge_merge(method_id: str, keep: str) -> None:
    model, base = network(), network()
    g = grafted(method_id, model)
    move(g)
    before = model(x())
    for _ in range(2):
        g.merge(keep=keep)
        torch.testing.assert_close(model(x()), before, rtol=1e-5, atol=1e-5)
        with pytest.raises(gw.GraftError, match="merged already"):
            g.merge()
        g.unmerge()
        assert same(model.state_dict(), base.state_dict())
        assert torch.equal(model(x()), before)
    with pytest.raises(gw.GraftError, match="not merged"):
        g.unmerge()


@pytest.mark.parametrize("method_id", [i for i in IDS if i not in MERGES])
def test_activation_methods_refuse_to_merge(method_id: str) -> None:
    model = network()
    g = grafted(method_id, model)
    move(g)
    before = model(x())
    with pytest.raises(gw.GraftError, match=method_id):
        g.merge()
    assert torch.equal(model(x()), before)


@pytest.mark.parametrize("method_id", IDS)
def test_saves_itself_alone_and_loads_on_a_fresh_base(method_id: str, tmp_path: Path) -> None:
    model = network()
    g = grafted(method_id, model)
    train(model)
    gw.save(g, tmp_path / "adapter")
    fresh = network()
    loaded = gw.load(fresh, tmp_path / "adapter")
    assert torch.equal(fresh(x()), model(x()))
    assert same(loaded.tensors(), g.tensors())
    with pytest.raises(gw.GraftError):
        gw.load(nn.Sequential(nn.Linear(3, 3)), tmp_path / "adapter")


@pytest.mark.parametrize("method_id", IDS)
def test_a_resumed_training_is_the_uninterrupted_one(method_id: str, tmp_path: Path) -> None:
    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        model.train()
        for step in range(first, last):
            optimizer.zero_grad()
            with gw.extra_loss(model) as extra:
                (model(step + x()).square().mean() + extra()).backward()
            optimizer.step()

    def start(graft: gw.Graft) -> torch.optim.Optimizer:
        return torch.optim.AdamW(graft.parameters(), lr=0.02)

    whole, model, fresh = network(), network(), network()
    one, two = grafted(method_id, whole), grafted(method_id, model)
    steps(whole, start(one), 0, 5)
    optimizer = start(two)
    steps(model, optimizer, 0, 2)
    gw.save(two, tmp_path / "adapter")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    loaded = gw.load(fresh, tmp_path / "adapter")
    optimizer = start(loaded)
    optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    steps(fresh, optimizer, 2, 5)
    assert same(loaded.tensors(), one.tensors()) and not same(one.tensors(), two.tensors())
    assert torch.equal(fresh.eval()(x()), whole.eval()(x()))


@pytest.mark.parametrize("method_id", IDS)
def test_two_grafts_switch(method_id: str) -> None:
    model = network()
    outputs = {}
    for seed, name in enumerate("ab"):
        move(grafted(method_id, model, name), seed)
        outputs[name] = model(x())
    assert not torch.equal(outputs["a"], outputs["b"])
    for name in "aba":
        gw.activate(model, name)
        assert torch.equal(model(x()), outputs[name])
    gw.activate(model, None)
    assert torch.equal(model(x()), network()(x()))


@pytest.mark.parametrize("method_id", SUMS)
def test_a_weighted_sum_adds_the_changes(method_id: str) -> None:
    """On one layer, so that the sum is seen before any nonlinearity."""
    kind = "linear" if "linear" in CARDS[method_id]["layer_kinds"] else "norm"
    model = nn.Linear(8, 5) if kind == "linear" else nn.LayerNorm(8)
    z = torch.randn(3, 8)
    base, changes = model(z), {}
    for seed, name in enumerate("ab"):
        move(gw.graft(model, small(method_id), sites=["*"], name=name), seed)
        changes[name] = model(z) - base
    gw.activate(model, {"a": 0.25, "b": -2.0})
    torch.testing.assert_close(model(z), base + 0.25 * changes["a"] - 2.0 * changes["b"])


@pytest.mark.parametrize("method_id", [i for i in IDS if i not in SUMS])
def test_copies_of_modules_refuse_a_sum(method_id: str) -> None:
    model = network()
    for name in "ab":
        grafted(method_id, model, name)
    with pytest.raises(gw.GraftError, match="weighted sum"):
        gw.activate(model, {"a": 0.5, "b": 0.5})


@pytest.mark.parametrize("method_id", IDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_with_single(method_id: str, dtype: torch.dtype) -> None:
    single, half = network(), network().to(dtype)
    outputs = []
    for model in (single, half):
        g = grafted(method_id, model)
        move(g)
        kind = torch.float32 if CARDS[method_id]["changes"] != "module" else model.head.weight.dtype
        assert {p.dtype for p in g.parameters()} == {kind}
        outputs.append(model(x().to(model.head.weight.dtype)).float())
    assert (outputs[0] - outputs[1]).abs().max() < 0.1 * outputs[0].abs().max()


@pytest.mark.parametrize("method_id", IDS)
def test_gradients_reach_the_input(method_id: str) -> None:
    model = network()
    g = grafted(method_id, model)
    move(g)
    z = x().requires_grad_()
    model(z).square().sum().backward()
    assert z.grad is not None and bool(z.grad.any())
    assert all(p.grad is not None and bool(p.grad.any()) for p in g.parameters())
    gw.check_reach(model, x())


@pytest.mark.parametrize("method_id", IDS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(method_id: str, reentrant: bool) -> None:
    model = network()
    g = grafted(method_id, model)
    move(g)
    grads = []
    for run in (model, lambda z: checkpoint(model, z, use_reentrant=reentrant)):
        for p in g.parameters():
            p.grad = None
        run(x().requires_grad_()).square().sum().backward()
        grads.append([p.grad for p in g.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("method_id", IDS)
def test_compiles_to_one_graph(method_id: str) -> None:
    torch._dynamo.reset()
    model = network()
    g = grafted(method_id, model)
    move(g)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    y = compiled(x())
    torch.testing.assert_close(y, model(x()))
    y.square().sum().backward()
    ours = [p.grad.clone() for p in g.parameters()]
    for p in g.parameters():
        p.grad = None
    model(x()).square().sum().backward()
    for a, p in zip(ours, g.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own imports
def test_compiles_with_the_default_backend() -> None:
    assert shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"), (
        "torch.compile on a CPU needs a C++ compiler: apt-get install g++"
    )
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    g = gw.graft(model, gw.LoRA(2))
    move(g)
    z = torch.randn(3, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(z), model(z))


@pytest.mark.parametrize("method_id", IDS)
def test_a_deepcopy_carries_its_own_graft(method_id: str) -> None:
    model = network()
    g = grafted(method_id, model)
    move(g)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x()), model(x()))
    before = model(x())
    move(gw.get(twin), seed=9)
    assert torch.equal(model(x()), before) and not torch.equal(twin(x()), before)


@pytest.mark.parametrize("method_id", IDS)
def test_settings_are_strict_and_round_trip(method_id: str) -> None:
    from graftwork.methods.base import from_config

    cls = method_class(method_id)
    method = cls()
    assert from_config(cls, method.config()) == method
    with pytest.raises(gw.GraftError, match="unknown field 'wrong'"):
        from_config(cls, {"wrong": 1})
    for name, value in method.config().items():
        bad: object = float("nan") if isinstance(value, float) else [object()]
        with pytest.raises(gw.GraftError, match=name):
            from_config(cls, {name: bad})
