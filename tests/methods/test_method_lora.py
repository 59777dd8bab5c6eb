"""LoRA's numbered invariants and its start values."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from method_invariants import invariant
from safetensors.torch import load_file, save_file
from torch import nn

import graftwork as gw
from graftwork.store.hf import from_peft, to_peft

LAYERS = [
    (nn.Linear(6, 10), (4, 6), 3 * 6 + 10 * 3),
    (nn.Conv2d(4, 6, (3, 2), groups=1), (2, 4, 7, 7), 3 * 4 * 6 + 6 * 3),
    (nn.Conv3d(6, 9, 3, groups=3), (1, 6, 5, 5, 5), 3 * 2 * 27 + 9 * 1),
    (nn.ConvTranspose2d(6, 9, 2, groups=3), (1, 6, 5, 5), 3 * 2 * 4 + 9 * 1),
]


def moved(model: nn.Module, size: float = 0.3) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in gw.get(model).parameters():
            p.add_(size * torch.randn_like(p))


@invariant("lora", 1, 3)
@pytest.mark.parametrize(("layer", "shape", "count"), LAYERS)
def test_start_is_the_base_and_the_count_is_the_formula(
    layer: nn.Module, shape: tuple[int, ...], count: int
) -> None:
    model, x = copy.deepcopy(layer), torch.randn(shape)
    g = gw.graft(model, gw.LoRA(3))
    assert torch.equal(model(x), layer(x))
    assert sum(p.numel() for p in g.parameters()) == count


@invariant("lora", 2)
def test_forward_is_the_equation() -> None:
    layer, x = nn.Linear(5, 7).double(), torch.randn(3, 5, dtype=torch.float64)
    model = copy.deepcopy(layer)
    g = gw.graft(model, gw.LoRA(2, alpha=3.0))
    moved(model)
    t = g.tensors()
    by_hand = x @ (layer.weight + 3.0 / 2 * t["B"] @ t["A"]).T + layer.bias
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)
    g.merge()
    torch.testing.assert_close(model(x), by_hand, rtol=0, atol=1e-12)


@invariant("lora", 4)
def test_only_b_has_a_gradient_on_the_first_step() -> None:
    model = nn.Linear(5, 7)
    g = gw.graft(model, gw.LoRA(2))
    model(torch.randn(3, 5)).square().sum().backward()
    grads = {n: p.grad for n, p in g.named_parameters()}
    assert not grads["A"].any() and grads["B"].abs().min() > 0


@invariant("lora", 5)
def test_rslora_of_rank_one_is_lora() -> None:
    x = torch.randn(3, 5)
    outputs = []
    for rslora in (False, True):
        model = nn.Linear(5, 7)
        torch.nn.init.ones_(model.weight)
        torch.nn.init.ones_(model.bias)
        gw.graft(model, gw.LoRA(1, alpha=4.0, rslora=rslora), seed=0)
        moved(model)
        outputs.append(model(x))
    assert torch.equal(*outputs)


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    assert gw.LoRA(9, alpha=6.0, rslora=True).scale == pytest.approx(2.0)
    assert gw.LoRA(9, alpha=6.0).scale == pytest.approx(2 / 3)
    assert gw.LoRA(9).scale == 1.0 and gw.LoRA(9, rslora=True).scale == 3.0


@invariant("lora", 7)
def test_the_scale_of_a_federation() -> None:
    for rank, clients in ((1, 1), (4, 3), (8, 20)):
        scale = gw.LoRA(rank, alpha=6.0, clients=clients).scale
        rooted = gw.LoRA(rank, alpha=6.0, clients=clients, rslora=True).scale
        assert scale == rooted == pytest.approx(6.0 * (clients / rank) ** 0.5)
        assert gw.LoRA(rank, alpha=6.0, clients=4 * clients).scale == pytest.approx(2 * scale)
        assert gw.LoRA(4 * rank, alpha=6.0, clients=clients).scale == pytest.approx(scale / 2)
        one = gw.LoRA(rank, alpha=6.0, clients=1).scale
        assert one == pytest.approx(gw.LoRA(rank, alpha=6.0, rslora=True).scale)
    assert gw.LoRA(5, alpha=3.0, clients=5).scale == 3.0
    with pytest.raises(gw.GraftError, match=r"LoRA\.clients"):
        gw.LoRA(4, clients=0)


@pytest.mark.parametrize("independent", [True, False])
def test_the_first_step_of_a_federation_does_not_depend_on_its_size(independent: bool) -> None:
    """E[s B A] after one SGD step is -s^2 (r / N) sigma^2 lr v x^T: flat in N and r, if N belongs there."""
    found = {}
    v, x, draws = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0, -1.0]), 400
    generator = torch.Generator().manual_seed(0)
    for clients, rank in ((1, 4), (16, 4), (16, 32)):
        scale, total = gw.LoRA(rank, alpha=1.0, clients=clients).scale, torch.zeros(2, 3)
        for _ in range(draws):
            a = torch.randn(clients if independent else 1, rank, 3, generator=generator).mean(0)
            b = -0.1 * scale * torch.outer(v, a @ x)
            total += scale * b @ a / draws
        found[clients, rank] = float((total * torch.outer(v, x)).sum() / (v @ v * (x @ x)))
    expected = {k: -0.1 * (1 if independent else k[0]) for k in found}
    assert found == pytest.approx(expected, rel=0.15)


def descended(method: gw.LoRA, start: dict[str, torch.Tensor], steps: int = 3) -> gw.Graft:
    """A graft on the same layer, after some steps of gradient descent from `start`."""
    torch.manual_seed(0)
    model = nn.Linear(5, 7).double()
    g = gw.graft(model, method)
    g.load_tensors(start)
    x, target = torch.randn(6, 5).double(), torch.randn(6, 7).double()
    optimizer = torch.optim.SGD(g.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
    return g


@invariant("lora", 7)
def test_one_client_trains_as_rslora_step_for_step() -> None:
    start = {"A": torch.randn(3, 5), "B": torch.randn(7, 3)}
    one = descended(gw.LoRA(3, alpha=2.0, clients=1), start)
    rooted = descended(gw.LoRA(3, alpha=2.0, rslora=True), start)
    many = descended(gw.LoRA(3, alpha=2.0, clients=4), start)
    for name, t in one.tensors().items():
        torch.testing.assert_close(t, rooted.tensors()[name], rtol=1e-12, atol=1e-12)
        assert (t - many.tensors()[name]).abs().max() > 1e-3


@invariant("lora", 8)
def test_the_scale_can_move_into_b_but_the_steps_are_others() -> None:
    method, plain = gw.LoRA(3, alpha=2.0, clients=12), gw.LoRA(3)
    start = {"A": torch.randn(3, 5).double(), "B": torch.randn(7, 3).double()}
    x = torch.randn(4, 5).double()
    moved_start = start | {"B": method.scale * start["B"]}
    ends = [
        [
            g.model(x).detach()
            for g in (descended(method, start, n), descended(plain, moved_start, n))
        ]
        for n in (0, 1)
    ]
    torch.testing.assert_close(*ends[0], rtol=0, atol=1e-12)
    assert (ends[1][0] - ends[1][1]).abs().max() > 1e-3
    merged = []
    for b in (start["B"], 2 * start["B"]):
        g = descended(method, start | {"B": b}, 0)
        y = g.model(x)
        g.merge()
        torch.testing.assert_close(g.model(x), y, rtol=0, atol=1e-12)
        merged.append(g.model.weight)
    assert not torch.allclose(*merged)


@invariant("lora", 6)
@pytest.mark.parametrize("kind", ["linear", "conv", "embedding"])
def test_dropout_acts_in_training_on_the_branch_only(kind: str) -> None:
    layer: nn.Module = {
        "linear": nn.Linear(64, 5),
        "conv": nn.Conv1d(64, 5, 1),
        "embedding": nn.Embedding(64, 5),
    }[kind]
    x = torch.randint(64, (20,)) if kind == "embedding" else torch.randn(3, 64, 1).squeeze(-1)
    x = torch.randn(3, 64, 4) if kind == "conv" else x
    base = layer(x)
    model = copy.deepcopy(layer)
    gw.graft(model, gw.LoRA(4, dropout=0.5), sites=["*"])
    assert torch.equal(model.train()(x), base), "the base path was dropped out"
    moved(model)
    model.train()
    assert not torch.equal(model(x), model(x))
    mean = torch.stack([model(x) for _ in range(400)]).mean(0)
    model.eval()
    assert torch.equal(model(x), model(x))
    # inverted dropout: its mean is the branch
    assert (mean - model(x)).abs().max() < 0.35 * (model(x) - base).abs().max()


@pytest.mark.parametrize(
    ("layer", "fan_in"), [(nn.Linear(400, 8), 400), (nn.Conv2d(40, 8, (5, 2), groups=2), 200)]
)
def test_a_starts_uniform_and_b_zero(layer: nn.Module, fan_in: int) -> None:
    t = gw.graft(layer, gw.LoRA(8), sites=["*"]).tensors()
    bound = 1 / math.sqrt(fan_in)
    a = t["A"]
    assert not t["B"].any()
    assert -bound <= a.min() < -0.98 * bound and 0.98 * bound < a.max() <= bound
    assert abs(float(a.mean())) < 0.06 * bound
    assert float(a.std()) == pytest.approx(bound / math.sqrt(3), rel=0.06)


def test_an_embedding_starts_with_a_zero_and_b_normal() -> None:
    t = gw.graft(nn.Embedding(20, 300), gw.LoRA(8), sites=["*"]).tensors()
    assert not t["A"].any()
    assert abs(float(t["B"].mean())) < 0.1 and float(t["B"].std()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("rslora", [True, False])
def test_a_peft_folder_keeps_the_scale_of_a_federation(rslora: bool, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 7))
    g = gw.graft(model, gw.LoRA(4, alpha=3.0, clients=9, rslora=rslora), sites=["0"])
    moved(model)
    to_peft(g, tmp_path / "peft")
    fresh = copy.deepcopy(model)
    gw.get(fresh).remove()
    back = from_peft(fresh, tmp_path / "peft")
    assert back.method.scale == pytest.approx(3.0 * 1.5)
    x = torch.randn(3, 5)
    torch.testing.assert_close(fresh(x), model(x))


NARROW = [
    (nn.Linear(6, 3), 3),
    (nn.Embedding(9, 4), 4),
    (nn.Conv2d(1, 12, 3), 9),
    (nn.ConvTranspose1d(4, 12, 1), 4),
    (nn.Conv1d(6, 6, 3, groups=3), 6),  # two of each group
]


def names(g: gw.Graft) -> list[str]:
    return [site["name"] for site in g.spec()["sites"]]


@pytest.mark.parametrize("method", [gw.LoRA, gw.DoRA])
@pytest.mark.parametrize(("layer", "most"), NARROW)
def test_a_rank_above_the_layers_is_refused_with_the_largest(
    layer: nn.Module, most: int, method: type[gw.LoRA]
) -> None:
    model = nn.ModuleDict({"narrow": copy.deepcopy(layer), "wide": nn.Linear(40, 40)})
    groups = getattr(layer, "groups", 1)
    with pytest.raises(gw.GraftError, match=rf"narrow \(.*, in \d+, out \d+\).*own, {most};"):
        gw.graft(model, method(most + groups), sites=["*"])
    assert not gw.grafts(model)
    g = gw.graft(model, method(most + groups), overrides={"narrow": {"rank": most}}, sites=["*"])
    assert set(names(g)) == {"narrow", "wide"}
    g.remove()
    assert names(gw.graft(model, method(most + groups))) == ["wide"]


def test_a_shared_a_may_have_more_rows_than_a_group_of_channels() -> None:
    depthwise = nn.Conv2d(8, 8, 3, groups=8)  # the change of all groups is one (8, 9) matrix
    gw.graft(copy.deepcopy(depthwise), gw.LoRA(7), sites=["*"])
    with pytest.raises(gw.GraftError, match="own, 8;"):
        gw.graft(copy.deepcopy(depthwise), gw.LoRA(9), sites=["*"])


def test_default_sites_of_tiny_layers_only_serve_any_rank_but_named_ones_do_not() -> None:
    tiny = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    assert names(gw.graft(copy.deepcopy(tiny), gw.LoRA(5))) == ["0", "1"]
    with pytest.raises(gw.GraftError, match=r"0 \(linear, in 4, out 4\): LoRA.rank = 5"):
        gw.graft(copy.deepcopy(tiny), gw.LoRA(5), sites=["0"])
    with pytest.raises(gw.GraftError, match=r"1 \(linear, in 4, out 2\): LoRA.rank = 3"):
        gw.graft(copy.deepcopy(tiny), gw.LoRA(1), overrides={"1": {"rank": 3}})
    g = gw.graft(copy.deepcopy(tiny), gw.LoRA(5), sites=["0", "1"], any_rank=True)
    assert {k: tuple(t.shape) for k, t in g.tensors().items()} == {
        "0.A": (5, 4), "0.B": (4, 5), "1.A": (5, 4), "1.B": (2, 5),
    }  # fmt: skip


def test_all_narrow_layers_are_refused_in_one_message_with_the_remedies() -> None:
    wide = nn.Linear(40, 40)
    model = nn.ModuleDict({"wide": wide, **{f"n{i}": nn.Linear(6, 1 + i) for i in range(30)}})
    with pytest.raises(gw.GraftError) as refusal:
        gw.graft(model, gw.LoRA(4), sites=["*"], overrides={"n1": gw.DoRA(3), "n2": {"rank": 3}})
    told, *lines = str(refusal.value).splitlines()
    assert all(word in told for word in ("`overrides`", "`sites`", "`any_rank`", "lower rank"))
    assert [line.split()[0] for line in lines] == ["n0", "n1"]
    assert "LoRA.rank = 4" in lines[0] and "own, 1" in lines[0]
    assert "DoRA.rank = 3" in lines[1] and "own, 2" in lines[1]
    with pytest.raises(gw.GraftError, match=r"\n  n19 .*\n  and 10 more$"):
        gw.graft(model, gw.LoRA(7), sites=["n*"])
    assert not gw.grafts(model)


def test_a_rank_that_a_file_may_have_trains_in_a_dual_only_if_it_is_said() -> None:
    model = nn.Sequential(nn.Linear(9, 2), nn.Linear(2, 9))
    for shared, private in ((gw.LoRA(2), gw.LoRA(3)), (gw.LoRA(3), gw.LoRA(2))):
        with pytest.raises(gw.GraftError, match=r"0 \(linear, in 9, out 2\): LoRA.rank = 3"):
            gw.dual(model, shared, private, sites=["*"])
        assert not gw.grafts(model)
    pair = gw.dual(model, gw.LoRA(2), gw.LoRA(3), sites=["*"], any_rank=True)
    assert pair.private is not None and pair.private.tensors()["0.A"].shape == (3, 9)


def test_a_file_with_a_rank_above_the_layers_still_loads(tmp_path: Path) -> None:
    tall = nn.Sequential(nn.Linear(6, 3))
    g = gw.graft(tall, gw.LoRA(3))
    moved(tall)
    to_peft(g, tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_model.safetensors"
    wide = {
        key: torch.cat([t, torch.zeros_like(t)], 0 if "lora_A" in key else 1).contiguous()
        for key, t in load_file(path).items()
    }
    save_file(wide, path)
    config = tmp_path / "peft" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 6, "lora_alpha": 6}))
    x, fresh = torch.randn(2, 6), copy.deepcopy(tall)
    gw.get(fresh).remove()
    back = from_peft(fresh, tmp_path / "peft", allow_other_base=True)
    assert back.method.rank == 6
    torch.testing.assert_close(fresh(x), tall(x))
    gw.save(back, tmp_path / "ours")
    back.remove()
    assert gw.load(fresh, tmp_path / "ours").method.rank == 6
    torch.testing.assert_close(fresh(x), tall(x))
