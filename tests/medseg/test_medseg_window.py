"""Streamed windows against MONAI's inferer: equal scores, equal masks, less memory, refused up front."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SegResNet
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_medseg.images.contract import Contract
from graftwork_medseg.images.prepare import prepare
from graftwork_medseg.images.volume import Volume
from graftwork_medseg.module import Segmenter
from graftwork_medseg.prediction import calibration, maps, window
from graftwork_medseg.prediction.maps import Canvas, Wanted
from graftwork_medseg.prediction.window import Windows


class Scorer(nn.Module):
    """Class scores that depend on the neighbourhood and on the place within the window."""

    def __init__(self, classes: int = 5, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(classes)
        self.conv = nn.Conv3d(channels, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * torch.linspace(0.5, 2, x.shape[-1])


def monai_scores(net: nn.Module, image: Tensor, windows: Windows) -> Tensor:
    inferer = SlidingWindowInferer(
        windows.roi, sw_batch_size=windows.batch, overlap=windows.overlap, mode="gaussian"
    )
    with torch.inference_mode():
        return inferer(image[None], net)[0]


def ours(net: nn.Module, image: Tensor, windows: Windows) -> Tensor:
    with torch.inference_mode():
        slabs = [(a, s.clone()) for a, s in windows.stream(net, image)]
    ends = [a + s.shape[1] for a, s in slabs]
    assert [a for a, _ in slabs] == [0, *ends[:-1]], "planes come in order, each once"
    return torch.cat([s for _, s in slabs], 1)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    roi=st.tuples(*[st.integers(2, 12)] * 3),
    overlap=st.floats(0, 0.9),
    batch=st.integers(1, 5),
    channels=st.integers(1, 2),
)
def test_scores_are_monais_bit_for_bit(
    shape: Any, roi: Any, overlap: float, batch: int, channels: int
) -> None:
    image = torch.randn(channels, *shape, generator=torch.Generator().manual_seed(0))
    net, windows = Scorer(channels=channels), Windows(roi, overlap, batch)
    scores = ours(net, image, windows)
    assert torch.equal(scores, monai_scores(net, image, windows))
    plan = windows.plan(shape)
    assert windows.ring_bytes(shape, 5) == 4 * 6 * plan.depth * plan.padded[1] * plan.padded[2]


def test_the_ring_is_one_window_deep() -> None:
    windows = Windows((16, 16, 16), 0.25, 4)
    plan = windows.plan((160, 40, 40))
    assert plan.depth == 16
    assert windows.ring_bytes((160, 40, 40), 105) == 4 * 106 * 16 * 40 * 40


GRID = np.array([[0.1, 1.3, 0, 5], [-1.1, 0.1, 0, 6], [0, 0.1, -2.2, 7], [0, 0, 0, 1]])


def case(spacing: float | None, shape: tuple[int, int, int] = (22, 19, 13)) -> Any:
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image, placement, _ = prepare([voxels], GRID, Contract(spacing=spacing))
    return image, placement


@pytest.mark.parametrize("spacing", [None, 1.0, 2.0, 3.1])
@pytest.mark.parametrize("classes", [2, 5])
def test_masks_on_the_files_grid_are_those_of_monai_and_one_restore(
    spacing: float | None, classes: int
) -> None:
    image, placement = case(spacing)
    net, windows = Scorer(classes), Windows((8, 8, 8), 0.5, 3)
    scores = monai_scores(net, image, windows)
    wanted = Wanted(confidence=True, entropy=True, probabilities=True)
    for found in (maps.predict(net, image, placement, windows, w) for w in (Wanted(), wanted)):
        assert found.mask.shape == (22, 19, 13) and found.mask.dtype == np.uint8
        assert np.array_equal(found.mask, placement.restore(scores))
    fine = torch.softmax(scores, 0)
    if spacing is not None:
        fine = nn.functional.interpolate(fine[None], placement.turned_shape, mode="trilinear")[0]
    p = np.stack([placement.to_file_order(one.numpy()) for one in fine])
    np.testing.assert_allclose(found.confidence, p.max(0), atol=1e-5)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(0) / np.log(classes), atol=1e-4)
    np.testing.assert_allclose(found.probabilities / 255, p, atol=0.5 / 255 + 1e-4)


@pytest.mark.parametrize("shape", [(4, 4, 4), (7, 6, 5)])
def test_ties_go_to_the_first_class_as_in_argmax(shape: tuple[int, int, int]) -> None:
    canvas = Canvas(shape, (4, 4, 4), Wanted())
    canvas.add(0, torch.tensor([0.0, 1.0, 1.0]).reshape(3, 1, 1, 1).expand(3, 4, 4, 4))
    assert (canvas.out["mask"] == 1).all() and canvas.painted == shape[0]


def test_flips_are_the_mean_probability_of_eight_mirror_images() -> None:
    net = Scorer(3)
    x = torch.randn(1, 1, 4, 5, 6)
    with torch.inference_mode():
        mean = torch.zeros(1, 3, 4, 5, 6)
        for i in range(8):
            axes = [axis for bit, axis in enumerate((2, 3, 4)) if i >> bit & 1]
            mean += net(x.flip(axes)).softmax(1).flip(axes) / 8
        torch.testing.assert_close(window.mirrored(net)(x), mean)
        image, placement = case(None)
        found = maps.predict(
            net, image, placement, Windows((8, 8, 8)), Wanted(confidence=True, flips=True)
        )
    assert found.confidence is not None
    assert found.confidence.min() >= 1 / 3 and found.confidence.max() <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Windows((8, 8)), "model.roi"),  # type: ignore[arg-type]
        (lambda: Windows((8, 0, 8)), "at least 1 voxel"),
        (lambda: Windows((8, 8, 8), 1.0), "model.overlap"),
        (lambda: Windows((8, 8, 8), 0.5, 0), "windows per forward pass"),
        (
            lambda: list(Windows((7, 8, 8)).stream(nn.AvgPool3d(2), torch.zeros(1, 8, 8, 8))),
            r"answers with \[3, 4, 4\]",
        ),
        (lambda: Canvas((2, 2, 2), (2, 2, 2), Wanted()).add(0, torch.zeros(257, 2, 2, 2)), "256"),
    ],
)
def test_what_cannot_work_is_named(make: Any, message: str) -> None:
    with pytest.raises(GraftError, match=message):
        make()


def test_a_forward_pass_is_weighed_without_running_it() -> None:
    net = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 2, 3, padding=1))
    assert window.forward_bytes(net, (2, 1, 16, 16, 16)) == 4 * 2 * 16**3 * (1 + 8 + 2)
    segresnet = SegResNet(init_filters=8, out_channels=3, in_channels=1)
    small, large = (window.forward_bytes(segresnet, (1, 1, n, n, n)) for n in (16, 32))
    assert 7.5 < large / small < 8.5

    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(x.max())

    assert window.forward_bytes(Reads(), (1, 1, 4, 4, 4)) == 4 * 64 * 64


def test_scores_of_half_precision_are_summed_in_float32() -> None:
    class Half(Scorer):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).bfloat16()

    net, windows = Half(), Windows((8, 8, 8), 0.75, 2)
    image = torch.randn(1, 20, 12, 10)
    scores = ours(net, image, windows)
    assert scores.dtype == torch.float32
    exact = monai_scores(Scorer(), image, windows)
    assert (scores - exact).abs().max() < 2**-8 * exact.abs().max()


def test_weighing_leaves_a_module_with_two_names_as_it_was() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Conv3d(1, 2, 3, padding=1)
            self.decoder = nn.Sequential(self.encoder, nn.Conv3d(2, 2, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(x)

    net = Two()
    before = dict(net.named_parameters(remove_duplicate=False))
    assert window.forward_bytes(net, (1, 1, 8, 8, 8)) == 4 * 8**3 * (1 + 2 + 2)
    assert all(p is before[n] for n, p in net.named_parameters(remove_duplicate=False))


def test_weighing_a_grafted_network_counts_the_graft_and_leaves_the_network() -> None:
    net = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 2, 3, padding=1))
    plain = window.forward_bytes(net, (1, 1, 8, 8, 8))
    graft = gw.graft(net, gw.LoRA(2), sites=["0", "1"])
    before = {k: v.clone() for k, v in net.named_parameters()}
    assert plain < window.forward_bytes(net, (1, 1, 8, 8, 8)) < 4 * plain
    after = dict(net.named_parameters())
    assert all(torch.equal(v, after[k]) for k, v in before.items()) and graft.tensors()


def test_what_does_not_fit_is_refused_before_the_first_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Segmenter(roi=(16, 16, 16))
    image, placement = case(2.0)
    volume = Volume("scan", image, None, None, placement)
    assert model.segment(volume).shape == (22, 19, 13)
    monkeypatch.setattr(maps, "available_bytes", lambda: 10_000)
    monkeypatch.setattr(model, "forward", lambda x: pytest.fail("a window ran"))
    with pytest.raises(GraftError, match=r"case scan: .* GiB of main memory, .* are free"):
        model.segment(volume)


def test_the_estimate_grows_with_what_is_kept() -> None:
    def need(classes: int = 4, **wanted: bool) -> int:
        grids = ((40, 40, 40), (80, 80, 80))
        return sum(maps.needed_bytes(*grids, Windows((16, 16, 16)), classes, Wanted(**wanted), 0))

    assert need() < need(entropy=True) < need(entropy=True, confidence=True)
    assert need(8) > need(4) and need(probabilities=True) > need() + 2 * 4 * 80**3


def test_reliability_by_hand() -> None:
    found = calibration.reliability(
        np.array([0.95, 0.94, 0.5, 1.0, 0.0]), np.array([True, False, True, True, False])
    )
    assert (found.count[14], found.count[0], found.count[7], found.voxels) == (3, 1, 1, 5)
    assert found.ece == pytest.approx((abs(2 - 2.89) + abs(1 - 0.5) + 0) / 5)
    expected = [(0.0, 0.0), (0.5, 1.0), (2.89 / 3, 2 / 3)]
    np.testing.assert_allclose(found.points(), expected)
    both = calibration.pooled([found, found])
    assert both.voxels == 10 and both.ece == pytest.approx(found.ece)


def test_the_foreground_leaves_out_voxels_that_all_call_background() -> None:
    mask, truth = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    mask[0], truth[:, 0] = 1, 1
    found = calibration.of_case(np.full((4, 4, 4), 0.75), mask, truth)
    assert found["foreground"].voxels == 28 and found["image"].voxels == 64
    assert found["foreground"].ece == pytest.approx(abs(0.75 - 4 / 28))


@settings(max_examples=30, deadline=None)
@given(p=st.floats(0.05, 0.95))
def test_honest_probabilities_have_a_small_error_and_boasts_a_large_one(p: float) -> None:
    draws = np.random.default_rng(0).random(40_000) < p
    honest = calibration.reliability(np.full(draws.shape, p), draws)
    assert honest.ece < 0.02
    assert calibration.reliability(np.ones(draws.shape), draws).ece == pytest.approx(
        1 - draws.mean()
    )
