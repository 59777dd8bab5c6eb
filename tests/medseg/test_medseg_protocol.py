"""The few-shot protocol and the baselines: disjoint, fixed by hash, counted; the base at the start."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from domain_folders import openkbp_folder, real
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_medseg.domain import openkbp
from graftwork_medseg.fewshot import baselines, protocol
from graftwork_medseg.fewshot.protocol import TASKS, draw, split
from graftwork_medseg.module import find_head
from graftwork_medseg.networks.network import NetworkConfig, build

ORGANS = ("a", "b", "c")


@st.composite
def sites(draw_: Any) -> tuple[dict[str, frozenset[str]], int]:
    count = draw_(st.integers(6, 40))
    sets = st.frozensets(st.sampled_from(ORGANS))
    cases = {f"case{i}": draw_(sets) for i in range(count)}
    return cases, draw_(st.integers(1, count - 3))


@given(sites(), st.integers(1, 10), st.integers(0, 4), st.sampled_from([("a",), ("a", "b")]))
def test_an_episode_is_disjoint_annotated_and_counted(
    site: Any, k: int, fold: int, organs: tuple[str, ...]
) -> None:
    cases, tests = site
    groups = split(cases, "task", tests)
    assert len(groups["test"]) == tests and not {*groups["test"]} & {*groups["pool"]}
    assert {*groups["test"], *groups["pool"]} == set(cases)
    fit = {g: {n for n in names if {*organs} <= cases[n]} for g, names in groups.items()}
    try:
        episode = draw(cases, "task", tests, organs, k, fold)
    except GraftError as refusal:
        assert len(fit["pool"]) < k + 1 or not fit["test"]
        pool = f"only {len(fit['pool'])} of {len(groups['pool'])} qualify"
        assert (pool if fit["test"] else "no test case has") in str(refusal)
        return
    assert len(set(episode.train)) == k and episode.audit not in episode.train
    assert {episode.audit, *episode.train} <= fit["pool"]
    assert set(episode.test) == fit["test"]
    assert f"{k} shots + 1 audit case" in episode.title
    assert f"n = {len(fit['test'])} test cases" in episode.title
    shuffled = dict(sorted(cases.items(), reverse=True))
    assert draw(shuffled, "task", tests, organs[::-1], k, fold).train == episode.train


@given(st.integers(0, 5))
def test_more_shots_are_added_to_the_same_ones(fold: int) -> None:
    cases = {f"case{i}": frozenset("a") for i in range(30)}
    one, five, ten = (draw(cases, "task", 10, ("a",), k, fold) for k in protocol.SHOTS)
    assert one.train == five.train[:1] and five.train == ten.train[:5]
    assert one.audit == five.audit == ten.audit and one.test == ten.test


def test_folds_and_tasks_differ_and_the_test_set_does_not() -> None:
    cases = {f"case{i}": frozenset("ab") for i in range(30)}
    folds = [draw(cases, "task", 10, ("a",), 5, fold) for fold in protocol.FOLDS]
    assert len({e.train for e in folds}) == 3 and len({e.test for e in folds}) == 1
    assert draw(cases, "other", 10, ("a",), 5, 0).test != folds[0].test
    # What was drawn once is drawn for ever: a changed hash would change every published figure.
    assert draw(cases, "task", 10, ("a",), 1, 0).train == ("case15",)
    assert draw(cases, "task", 10, ("a",), 1, 0).audit == "case13"


@pytest.mark.parametrize(("k", "fold", "organs"), [(0, 0, ("a",)), (1, -1, ("a",)), (1, 0, ())])
def test_senseless_episodes_are_refused(k: int, fold: int, organs: tuple[str, ...]) -> None:
    cases = {f"case{i}": frozenset("a") for i in range(9)}
    with pytest.raises(GraftError, match="an episode needs"):
        draw(cases, "task", 3, organs, k, fold)
    with pytest.raises(GraftError, match="9 test cases cannot be taken out of 9"):
        split(cases, "task", 9)


def test_the_site_task_draws_from_the_shifted_site_alone(tmp_path: Path) -> None:
    folder = openkbp_folder(tmp_path, source=4, shifted=52)
    task = TASKS["openkbp-site"]
    cases = openkbp.annotations(folder)
    base = {n for names in openkbp.split_source(cases).values() for n in names}
    for organ in task.organs:
        episode = task.episode(folder, 1, 0, [organ])
        everyone = {episode.audit, *episode.train, *episode.test}
        assert not everyone & base and all(cases[n].site == "shifted" for n in everyone)
        assert all(organ in cases[n].organs for n in everyone)
    assert task.episode(folder, 1, 0).organs == openkbp.NOVEL_ORGANS
    with pytest.raises(GraftError, match="has no 'Spleen'; it has Brainstem"):
        task.episode(folder, 1, 0, ["Spleen"])


def test_the_real_tasks_have_their_counts() -> None:
    folder = real("openkbp")
    task, seen = TASKS["openkbp-site"], []
    assert {g: len(n) for g, n in task.split(folder).items()} == {"pool": 56, "test": 40}
    for organ in task.organs:
        for k in protocol.SHOTS:
            for fold in protocol.FOLDS:
                episode = task.episode(folder, k, fold, [organ])
                assert len(episode.train) == k
        seen.append(episode.title)
    print("\n".join(seen))
    assert min(len(task.episode(folder, 10, 0, [o]).test) for o in task.novel) >= 15
    whole = TASKS["hippocampus"]
    episode = whole.episode(real("hippocampus"), 10, 2)
    assert (len(episode.train), len(episode.test)) == (10, 60)
    assert episode.organs == ("anterior", "posterior")


# ---- the baselines ----

SMALL = {
    "conv": NetworkConfig(
        "SegResNet",
        {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "init_filters": 8,
         "upsample_mode": "deconv"},
    ),
    "swin": NetworkConfig(
        "SwinUNETR",
        {"in_channels": 1, "out_channels": 3, "feature_size": 12, "depths": [1, 1, 1, 1],
         "num_heads": [1, 1, 2, 2],
         # Not instance norm, which wants more than the one voxel that 32^3 leaves at the bottom.
         "norm_name": ["group", {"num_groups": 4}]},
    ),
}  # fmt: skip
SIZE = {"conv": 16, "swin": 32}


@pytest.fixture(scope="module", params=["conv", "swin"])
def base(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = build(SMALL[request.param]).eval()
    x = torch.randn(1, 1, *[SIZE[request.param]] * 3)
    with torch.no_grad():
        return model, x, model(x)


def expected(name: str, model: nn.Module, level: int, new: int) -> int:
    """The counts by formula, from the base's layers."""
    head = model.get_submodule(find_head(model))
    width, classes = head.in_channels, head.out_channels  # type: ignore[union-attr]
    own = (width + 1) * (new or classes)
    layers = [
        m
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear | nn.Conv3d | nn.ConvTranspose3d) and n != find_head(model)
    ]
    if name == "bias":
        return own + sum(m.bias.numel() for m in layers if m.bias is not None)
    if name == "affine":
        norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm)]
        return own + sum(2 * m.weight.numel() for m in norms)
    if name == "lora":
        total = 0
        for m in layers:
            if isinstance(m, nn.Linear):
                total += level * (m.in_features + m.out_features)
            else:
                kernel = m.kernel_size[0] * m.kernel_size[1] * m.kernel_size[2]
                total += level * (m.in_channels * kernel + m.out_channels)
        return own + total
    if name.startswith("spatial"):
        return 2 * width**2 * int(name[-1]) ** 3 + (width + 1) * (classes + new)
    if name == "full":
        return sum(p.numel() for p in model.parameters()) + (width + 1) * new
    return own


@pytest.mark.parametrize("new", [0, 2])
@pytest.mark.parametrize("name", list(baselines.BASELINES))
def test_a_baseline_starts_as_the_base_and_trains_what_it_says(
    name: str, new: int, base: Any
) -> None:
    original, x, wanted = base
    model = copy.deepcopy(original)
    trained = baselines.apply(name, model, new=new, level=2, seed=1)
    with torch.no_grad():
        found = model.eval()(x)
    assert found.shape[1] == 3 + new
    assert torch.allclose(found[:, :3], wanted, atol=1e-6) and not found[:, 3:].any()
    training = {id(p) for p in model.parameters() if p.requires_grad}
    assert training == {id(p) for ps, _ in trained.groups for p in ps}
    if name != "adaptformer":
        assert trained.count == expected(name, original, 2, new)
    assert (trained.graft is None) == (name in ("spatial1", "spatial3", "full"))
    (model.train()(x) - 1).square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for ps, _ in trained.groups for p in ps)
    if trained.graft is not None:
        trained.graft.remove()
        with torch.no_grad():
            assert torch.equal(model.eval()(x), wanted)


def test_adaptformer_sits_beside_each_mlp_or_each_convolution(base: Any) -> None:
    model = copy.deepcopy(base[0])
    trained = baselines.apply("adaptformer", model, level=4)
    assert trained.graft is not None
    sites = {site["name"] for site in trained.graft.spec()["sites"]}
    blocks = {n for n, _ in base[0].named_modules() if n.endswith(".mlp")}
    assert sites == (blocks or set(baselines.layers_of(base[0], find_head(base[0]))))
    for name in blocks:
        width = base[0].get_submodule(name).linear1.in_features  # type: ignore[union-attr]
        own = [p for n, p in trained.graft.named_parameters() if n.startswith(f"{name}.")]
        assert sum(p.numel() for p in own) == 4 * 2 * width + 4 + width


@pytest.mark.parametrize("name", ["lora", "adaptformer"])
def test_a_cap_gives_the_largest_level_below_it(name: str, base: Any) -> None:
    one, two = (baselines.apply(name, copy.deepcopy(base[0]), level=k).count for k in (1, 2))
    each = two - one
    for level, cap in ((2, two), (1, two - 1), (2, one + 3 * each - 1), (4, one + 3 * each)):
        trained = baselines.at_cap(name, copy.deepcopy(base[0]), cap)
        assert trained.level == level and trained.count == one + (level - 1) * each <= cap
    model = copy.deepcopy(base[0])
    with pytest.raises(GraftError, match=f"trains at least {one} parameters, the cap is {one - 1}"):
        baselines.at_cap(name, model, one - 1)
    assert not gw.grafts(model) and all(p.requires_grad for p in model.parameters())


def test_full_has_no_cap_and_unknown_names_are_refused(base: Any) -> None:
    trained = baselines.at_cap("full", copy.deepcopy(base[0]), 1, rate=0.5)
    assert trained.count > 1 and trained.groups[0][1] == 0.5
    with pytest.raises(GraftError, match="baseline 'prompt': choose one of head, bias"):
        baselines.at_cap("prompt", base[0], 9)


def test_the_head_of_a_spatial_adapter_is_still_the_head(base: Any) -> None:
    model = copy.deepcopy(base[0])
    head = find_head(model)
    baselines.apply("spatial3", model, new=1)
    assert find_head(model) == f"{head}.head"
    with pytest.raises(GraftError, match="1x1x1 convolution is needed"):
        baselines.widen(nn.Sequential(nn.Conv3d(1, 2, 3)), "0", 1)
