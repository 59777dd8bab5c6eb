"""What trains in each arm, and the one training loop."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import SegResNet
from torch import Tensor, nn

from benchmarks.fewshot import arms, training
from benchmarks.fewshot.sites import Site, Tiny
from graftwork.allocation import Search
from graftwork.allocation.unit import exclusions
from graftwork_medseg.fewshot import baselines
from graftwork_medseg.images.nifti import Placement
from graftwork_medseg.images.organs import Organs
from graftwork_medseg.images.volume import Volume

ORGANS = Organs.match(("background", "heart"), ("background", "front", "back"), ["front", "back"])
SIZE = (16, 16, 16)


def a_base() -> nn.Module:
    torch.manual_seed(0)
    return SegResNet(
        init_filters=8, in_channels=1, out_channels=2, blocks_down=(1, 1), blocks_up=(1,)
    ).eval()


BASE = a_base()
UNITS = arms.units_of(BASE)
TOTAL = sum(p.numel() for p in BASE.parameters())


def volumes(count: int = 2) -> list[Volume]:
    draw = torch.Generator().manual_seed(0)
    affine = np.eye(4)
    shape = (20, 14, 24)  # narrower than a patch on one axis
    ones = (1.0, 1.0, 1.0)
    out = []
    for i in range(count):
        label = torch.zeros(shape, dtype=torch.uint8)
        label[4:10, 4:9, 4:10], label[4:10, 4:9, 12:20] = 2, 3
        image = torch.rand((1, *shape), generator=draw) + label[None]
        where = Placement(affine, shape, np.array([[0, 1], [1, 1], [2, 1]]), shape, ones, ones)
        out.append(Volume(f"case{i}", image, label, label.numpy(), where))
    return out


def prepared(arm: str, cap: int | None, new: int = 2) -> arms.Ready:
    return arms.prepare(arm, copy.deepcopy(BASE), new=new, cap=cap, seed=0, size=SIZE)


@settings(max_examples=30)
@given(budget=st.integers(0, 20_000), seed=st.integers(0, 10**6))
def test_a_random_set_fits_excludes_nothing_and_is_full(budget: int, seed: int) -> None:
    taken = arms.random_set(UNITS, budget, seed)
    names, excludes = {u.name for u in taken}, exclusions(UNITS)
    spent = sum(u.cost for u in taken)
    assert spent <= budget
    assert not any(excludes[n] & names for n in names)
    for unit in UNITS:
        if unit.name not in names and not excludes[unit.name] & names:
            assert unit.cost > budget - spent  # nothing more fits
    assert arms.random_set(UNITS, budget, seed) == taken


def test_random_sets_differ_by_seed() -> None:
    sets = {tuple(u.name for u in arms.random_set(UNITS, 2000, seed)) for seed in range(5)}
    assert len(sets) > 1


@pytest.mark.parametrize("arm", ["lora-last", "lora-first", "adaptformer-last", "random"])
@pytest.mark.parametrize("cap", [900, 3000])
def test_an_arm_keeps_its_cap_the_head_included(arm: str, cap: int) -> None:
    ready = prepared(arm, cap)
    assert 0 < ready.trained <= cap
    assert sum(p.numel() for p in ready.head) == arms.head_count(BASE, 2) == 18
    trains = {n for n, p in ready.network.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in ready.network.parameters() if p.requires_grad) == ready.trained
    assert trains and ready.body


def test_parts_are_counted_from_the_end_that_they_name() -> None:
    order = arms.running_order(BASE, baselines.layers_of(BASE, "conv_final.2.conv"), SIZE)
    assert order[0] == "convInit.conv" and order[-1].startswith("up_layers")
    last, first = prepared("lora-last", 3000), prepared("lora-first", 3000)

    def touched(ready: arms.Ready) -> set[str]:
        named = [n for n, p in ready.network.named_parameters() if p.requires_grad]
        return {o for o in order if any(n.startswith(f"{o}.") for n in named)}

    assert touched(last) == set(order[-last.facts["layers"] :])
    assert touched(first) == set(order[: first.facts["layers"]])


def test_every_arm_starts_as_the_base_does() -> None:
    x = torch.rand(1, 1, *SIZE)
    with torch.no_grad():
        before = BASE(x)
        for arm in ("head", "affine", "lora", "lora-last", "adaptformer-last", "random", "full"):
            free = arm in ("head", "affine", "lora", "full")
            after = prepared(arm, None if free else 3000).network(x)
            assert torch.allclose(after[:, :2], before, atol=1e-5), arm
            assert (after[:, 2:] == 0).all(), arm  # new organs have no opinion yet


def test_what_does_not_fit_says_what_it_would_take() -> None:
    with pytest.raises(arms.DoesNotFit, match=r"lora.*at least [\d]+ parameters, the cap is 500"):
        prepared("lora", 500)
    with pytest.raises(arms.DoesNotFit, match=r"lora-last trains at least \d+ .* the cap is 20"):
        prepared("lora-last", 20)


def test_a_known_organs_head_trains_whole() -> None:
    assert sum(p.numel() for p in prepared("head", None, new=0).head) == 18
    assert arms.head_count(BASE, 0) == 18


def test_the_unet_is_nnunets_for_the_patch() -> None:
    net = arms.unet(3, (32, 48, 32), 0)
    inner = net.network
    assert [len(stage.blocks) for stage in inner.encoder.stages] == [1, 3, 4, 6]
    assert inner.encoder.output_channels == [32, 64, 128, 256]
    with torch.no_grad():
        assert net(torch.zeros(1, 1, 32, 48, 32)).shape == (1, 3, 32, 48, 32)


# -- the loop ---------------------------------------------------------------------------------------


def test_patches_are_a_function_of_seed_and_step() -> None:
    a, b = (training.Patches(volumes(), ORGANS, SIZE, seed, "cpu") for seed in (1, 2))
    x, y = a.batch(3)
    assert x.shape == (2, 1, *SIZE) and y.shape == (2, *SIZE)
    again = training.Patches(volumes(), ORGANS, SIZE, 1, "cpu").batch(3)
    assert torch.equal(x, again[0]) and torch.equal(y, again[1])
    assert not torch.equal(x, b.batch(3)[0]) and not torch.equal(x, a.batch(4)[0])
    # image and label are cut alike: the image is the label plus a fraction
    inside = torch.nn.functional.pad(volumes()[0].label, (0, 0, 1, 1))
    assert inside.shape == (20, 16, 24)
    assert torch.equal((x[:, 0].floor() == y)[y > 0], torch.ones(int((y > 0).sum()), dtype=bool))


def test_a_rate_rises_and_falls_to_nothing() -> None:
    heights = [training.height(i / 100) for i in range(101)]
    assert heights[0] == pytest.approx(0.04) and max(heights) == pytest.approx(1.0, abs=1e-3)
    assert heights[-1] == pytest.approx(0.0, abs=1e-9)
    peak = heights.index(max(heights))
    assert heights[: peak + 1] == sorted(heights[: peak + 1])
    assert heights[peak:] == sorted(heights[peak:], reverse=True)


def trained(arm: str, half: bool, steps: int = 4) -> tuple[Tensor, training.Trace]:
    ready = prepared(arm, 3000 if arm in ("lora-last", "random") else None)
    patches = training.Patches(volumes(), ORGANS, SIZE, 0, "cpu")
    optimizer = training.optimizer_of([(ready.body, 3e-3), (ready.head, 3e-2)], "cpu")
    trace = training.fit(
        ready.network, patches, optimizer, "cpu", steps=steps, known=ORGANS.known, half=half
    )
    with torch.no_grad():
        return ready.network(patches.batch(9)[0]), trace


@pytest.mark.parametrize("arm", ["head", "affine", "lora-last", "random", "full"])
def test_half_precision_trains_to_the_same_scores(arm: str) -> None:
    (single, one), (half, two) = trained(arm, False), trained(arm, True)
    assert one.steps == two.steps == 4 and one.seconds > 0
    assert two.losses == pytest.approx(one.losses, rel=0.02)
    assert (single - half).abs().max() < 0.05 * single.abs().max()
    assert not torch.equal(single, half)  # the switch does something


def test_training_lowers_the_loss_and_is_repeatable() -> None:
    first, trace = trained("full", False, steps=41)
    assert trace.losses[-1] < trace.losses[0] - 0.1
    assert torch.equal(first, trained("full", False, steps=41)[0])


def test_seconds_end_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(training, "now", lambda _: float(next(clock)))
    ready = prepared("head", None)
    patches = training.Patches(volumes(), ORGANS, SIZE, 0, "cpu")
    optimizer = training.optimizer_of([(ready.head, 1e-2)], "cpu")
    trace = training.fit(ready.network, patches, optimizer, "cpu", seconds=3.0)
    # a tick at the start, after step 1, 10 and 20: three seconds are over then
    assert trace.steps == 20
    assert optimizer.param_groups[0]["lr"] < 1e-2


def test_a_search_runs_in_the_loop_and_leaves_a_set_that_trains_afresh() -> None:
    network = copy.deepcopy(BASE)
    head = baselines.apply("head", network, new=2).graft
    assert head is not None
    patches = training.Patches(volumes(), ORGANS, SIZE, 0, "cpu")
    x, y = patches.batch(50)

    def score(net: nn.Module) -> float:
        return -float(training.dice_ce(net(x), y))

    plan = arms.search_plan(tiny=True)
    search = Search(
        network, arms.units_of(network), score, budget=1000, plan=plan, beside=[head.name]
    )
    optimizer = training.optimizer_of([(list(head.parameters()), 1e-2)], "cpu", search.groups(1e-2))
    trace = training.fit(
        network, patches, optimizer, "cpu", steps=plan.warm_up + plan.steps, search=search
    )
    assert search.done and trace.steps == plan.warm_up + plan.steps
    result = search.finish()
    assert result.units and result.cost <= 1000 and search.binds
    ready = arms.with_units(copy.deepcopy(BASE), result.units, 2, 0)
    assert ready.trained == result.cost + arms.head_count(BASE, 2)


# -- real cases -------------------------------------------------------------------------------------


@pytest.fixture(name="folder")
def fixture_folder() -> Callable[[str], Path]:
    root = os.environ.get("GRAFTWORK_DATA")
    if not root:
        pytest.skip(
            "GRAFTWORK_DATA is unset: it names the folder that holds the prepared data sets"
        )
    return Path


@pytest.mark.parametrize(("task", "shots"), [("hippocampus", 5), ("openkbp-site", 5)])
def test_a_sites_cases_are_apart_and_placed(
    folder: Callable[[str], Path], task: str, shots: int
) -> None:
    site = Site(task, folder(os.environ["GRAFTWORK_DATA"]), Tiny())
    episode = site.episode(shots, 3, site.task.novel)
    pool = site.pool(episode)
    used = {*episode.train, episode.audit}
    assert len(used) == shots + 1 and pool
    assert not used & {*pool} and not {*pool} & {*episode.test} and not used & {*episode.test}
    organs = Organs.match(site.plan.classes, site.dataset.classes, site.task.novel)
    volume = site.volume(episode.audit, organs)
    assert site.volume(episode.audit) is site.volume(episode.audit)  # read once
    for organ in organs.asked:
        k = organs.classes.index(organ)
        assert volume.truth is not None and volume.label is not None
        file, grid = (volume.truth == k).sum(), int((volume.label == k).sum())
        share = np.prod(volume.spacing) / site.plan.spacing**3
        assert grid == pytest.approx(file * share, rel=0.15)
