"""Dice, HD95 and NSD against hand-made cases, a brute-force reading and MONAI."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance

from graftwork.errors import GraftError
from graftwork_medseg.prediction import metrics


def box(low: tuple[int, ...], high: tuple[int, ...], shape: tuple[int, ...] = (20, 20, 20)) -> Any:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def test_one_voxel_moved_by_three_voxels_of_two_millimetres() -> None:
    a, b = box((5, 5, 5), (6, 6, 6)), box((8, 5, 5), (9, 6, 6))
    found = metrics.score(a, b, (2.0, 1.0, 1.0), tolerance_mm=2.0)
    assert found == metrics.Score(0.0, 6.0, 0.0, "")
    assert metrics.score(a, b, (2.0, 1.0, 1.0), tolerance_mm=6.0).nsd == 1.0


def test_half_overlapping_boxes() -> None:
    a, b = box((0, 0, 0), (4, 4, 4)), box((2, 0, 0), (6, 4, 4))
    assert metrics.score(a, b, (1, 1, 1)).dice == pytest.approx(0.5)


def test_equal_masks_are_perfect_even_at_the_image_border() -> None:
    a = box((0, 0, 0), (20, 3, 20))
    assert metrics.score(a, a, (1, 2, 3)) == metrics.Score(1.0, 0.0, 1.0, "")


def test_the_surface_of_a_solid_cube_is_its_shell() -> None:
    assert len(metrics.surface(box((2, 2, 2), (7, 7, 7)), (1, 1, 1))) == 5**3 - 3**3
    assert len(metrics.surface(np.ones((5, 5, 5), bool), (1, 1, 1))) == 5**3 - 3**3


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("", "", metrics.Score(1.0, 0.0, 1.0, "both")),
        ("", "box", metrics.Score(0.0, pytest.approx(np.sqrt(20**2 + 40**2 + 60**2)), 0.0, "prediction")),
        ("box", "", metrics.Score(0.0, pytest.approx(np.sqrt(20**2 + 40**2 + 60**2)), 0.0, "reference")),
    ],
)  # fmt: skip
def test_empty_masks(prediction: str, reference: str, expected: metrics.Score) -> None:
    masks = {"": np.zeros((20, 20, 20), bool), "box": box((1, 1, 1), (4, 4, 4))}
    assert metrics.score(masks[prediction], masks[reference], (1, 2, 3)) == expected


def blobs(seed: int) -> tuple[Any, Any, tuple[float, ...]]:
    draw = np.random.default_rng(seed)
    spacing = tuple(draw.uniform(0.5, 3, 3).tolist())
    out = []
    for _ in range(2):
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in (14, 11, 12)), indexing="ij"), -1)
        centre, size = draw.uniform(3, 9, 3), draw.uniform(2, 4)
        out.append(np.linalg.norm(grid - centre, axis=-1) < size)
    return out[0], out[1], spacing


@pytest.mark.parametrize("seed", range(8))
def test_distances_against_every_pair_of_surface_voxels(seed: int) -> None:
    a, b, spacing = blobs(seed)

    def rim(mask: Any) -> Any:
        padded = np.pad(mask, 1)
        inner = mask.copy()
        for axis in range(3):
            for step in (-1, 1):
                inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
        return np.argwhere(mask & ~inner) * np.array(spacing)

    gaps = np.linalg.norm(rim(a)[:, None] - rim(b)[None], axis=-1)
    there, back = gaps.min(1), gaps.min(0)
    found = metrics.score(a, b, spacing, tolerance_mm=1.7)
    assert found.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    near = (there <= 1.7).sum() + (back <= 1.7).sum()
    assert found.nsd == pytest.approx(near / (len(there) + len(back)))


@pytest.mark.parametrize("seed", range(8))
def test_hd95_agrees_with_monai(seed: int) -> None:
    a, b, spacing = blobs(seed)
    one_hot = [torch.from_numpy(np.stack([~m, m]))[None] for m in (a, b)]
    theirs = compute_hausdorff_distance(*one_hot, percentile=95, spacing=spacing).item()
    assert metrics.score(a, b, spacing).hd95 == pytest.approx(theirs, rel=1e-5)


def test_means_count_the_empties() -> None:
    cases = [
        {"x": metrics.Score(1.0, 0.0, 1.0, "both"), "y": metrics.Score(0.5, 2.0, 0.75)},
        {"x": metrics.Score(0.0, 10.0, 0.0, "prediction"), "y": metrics.Score(0.7, 4.0, 0.25)},
    ]
    assert metrics.average(cases, "y") == pytest.approx(
        {"dice": 0.6, "hd95": 3.0, "nsd": 0.5, "n": 2, "empty_both": 0, "empty_one": 0}
    )
    assert metrics.average(cases)["dice"] == pytest.approx(0.55)
    assert metrics.average(cases)["empty_both"] == metrics.average(cases)["empty_one"] == 1
    with pytest.raises(GraftError, match="nothing to average"):
        metrics.average(cases, "z")


def test_bad_arguments_are_named() -> None:
    a = np.zeros((3, 3, 3), bool)
    with pytest.raises(GraftError, match="one 3D grid"):
        metrics.score(a, a[:2], (1, 1, 1))
    for spacing in ((1, 1, 0), (1, float("nan"), 1), (1, 1)):
        with pytest.raises(GraftError, match="spacing"):
            metrics.score(a, a, spacing)


def test_score_case_reads_class_indices() -> None:
    truth = np.zeros((6, 6, 6), np.uint8)
    truth[:3], truth[3:] = 1, 2
    wrong = np.where(truth == 1, 2, 1)
    classes = ("background", "left", "right")
    assert {k: s.dice for k, s in metrics.score_case(truth, truth, classes, (1, 1, 1)).items()} == {
        "left": 1.0,
        "right": 1.0,
    }
    assert metrics.case_dice(metrics.score_case(wrong, truth, classes, (1, 1, 1))) == 0.0
