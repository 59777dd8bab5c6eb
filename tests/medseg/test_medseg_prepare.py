"""Images on the working grid and back: axes, spacing per axis, and each intensity rule by hand."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import NormalizeIntensity, ScaleIntensityRange

from graftwork.errors import GraftError
from graftwork_medseg.demo import sim
from graftwork_medseg.images import nifti, prepare
from graftwork_medseg.images.contract import Contract, Intensity
from graftwork_medseg.images.volume import simulated
from tests.medseg.kit import noise

orientations = st.sampled_from(["RAS", "LPS", "SAR", "PIR", "ijk", "kji", "ikj", "jki"])


# -- axes and grids


def affine_of(axes: tuple[int, ...], flips: tuple[int, ...], spacing: tuple[float, ...]) -> Any:
    """A file whose array axis i runs along world axis axes[i], turned a little."""
    matrix = np.zeros((3, 3))
    for i, (a, f, s) in enumerate(zip(axes, flips, spacing, strict=True)):
        matrix[a, i] = f * s
    angle = 0.2
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    return nib.affines.from_matvec(turn @ matrix, [5, -6, 7])


@settings(max_examples=40, deadline=None)
@given(
    orientations,
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
    st.one_of(st.none(), st.tuples(*[st.floats(0.8, 3)] * 3)),
)
def test_the_mask_comes_back_on_the_files_grid(
    axes: str, order: Any, flips: Any, spacing: Any
) -> None:
    label = np.zeros((24, 20, 28), np.uint8)
    label[2:16, 1:12, 3:18] = 1  # off the middle, so that a wrong flip shows
    affine = affine_of(order, flips, (1.0, 1.5, 2.0))
    working, placement = nifti.place(label.astype(np.float32), affine, spacing, axes)
    small = nifti.place_label(label, placement, working.shape, 2)
    scores = torch.stack([torch.from_numpy(small == k).float() * 9 for k in range(2)])
    back = placement.restore(scores)
    assert back.shape == label.shape
    if spacing is None:
        assert np.array_equal(back, label)
    else:
        assert 2 * ((back == 1) & (label == 1)).sum() / (back.sum() + label.sum()) > 0.7
        shift = [np.mean(np.nonzero(back)[i]) - np.mean(np.nonzero(label)[i]) for i in range(3)]
        assert np.abs(shift * nifti.spacing_of(affine)).max() < 0.75 * max(*spacing, 2.0)
        for n, own, want, size in zip(
            placement.turned_shape, placement.own, spacing, working.shape, strict=True
        ):
            assert abs(size - n * own / want) <= 0.5 + 1e-9


@pytest.mark.parametrize("code", ["RAS", "LPS", "SAR", "PIR", "AIL"])
def test_axis_codes_say_where_each_working_axis_runs(code: str) -> None:
    """World coordinates as voxel values: along working axis i they rise in the direction of its code."""
    affine = affine_of((2, 0, 1), (1, -1, 1), (2.0, 1.0, 1.5))
    grid = np.stack(np.meshgrid(*map(np.arange, (7, 8, 9)), indexing="ij"), -1)
    world = nib.affines.apply_affine(affine, grid)
    for i, letter in enumerate(code):
        along = "RAS".find(letter) if letter in "RAS" else "LPI".find(letter)
        working, placement = nifti.place(world[..., along].astype(np.float32), affine, None, code)
        step = np.diff(working, axis=i).mean() * (1 if letter in "RAS" else -1)
        tilt = 1.0 if along == 2 else np.cos(0.2)
        assert step == pytest.approx(placement.own[i] * tilt, rel=1e-4)


def test_file_axes_are_reversed_and_never_flipped() -> None:
    voxels = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    affine = affine_of((2, 0, 1), (-1, -1, 1), (1.0, 2.0, 3.0))
    for code, order in (("ijk", (0, 1, 2)), ("kji", (2, 1, 0)), ("jki", (1, 2, 0))):
        working, placement = nifti.place(voxels, affine, None, code)
        assert np.array_equal(working, voxels.transpose(order))
        assert placement.own == pytest.approx([(1.0, 2.0, 3.0)[i] for i in order])


# -- rules


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        (
            Intensity("window", -175, 250),
            ScaleIntensityRange(a_min=-175, a_max=250, b_min=0, b_max=1, clip=True),
        ),
        (Intensity("nonzero"), NormalizeIntensity(nonzero=True, channel_wise=True)),
        (Intensity("volume"), NormalizeIntensity(channel_wise=True)),
    ],
)
def test_rules_agree_with_monai(rule: Intensity, theirs: Any) -> None:
    voxels = noise()
    voxels[:3] = 0
    contract = Contract(channels=("CT",), intensity=rule)
    image, _, _ = prepare.prepare([voxels], np.eye(4), contract)
    exact = torch.as_tensor(theirs(voxels[None]))
    # "volume" divides by the unbiased standard deviation, MONAI by the biased one.
    ratio = ((voxels.size - 1) / voxels.size) ** 0.5 if rule.rule == "volume" else 1.0
    assert (image - ratio * exact).abs().max() < 1e-5


def test_the_default_is_what_it_was_bit_for_bit() -> None:
    scan = sim.simulate("b", 1001)
    assert torch.equal(simulated("b", 1001).image, sim.normalise(scan.image)[None])


def test_ct_and_zscore_by_hand() -> None:
    voxels = noise()
    [[ct]] = prepare.prepare(
        [voxels], np.eye(4), Contract(channels=("CT",), intensity=Intensity("ct", -100, 200, 7, 30))
    )[:1]
    assert np.allclose(ct, (np.clip(voxels, -100, 200) - 7) / 30, atol=1e-5)
    voxels[:2] = voxels[:, -3:] = 0  # the box is 2:, :-3
    inside = voxels[2:, :-3]
    for masked in (False, True):
        rule = Intensity("zscore", mask=masked)
        [[z]] = prepare.prepare([voxels], np.eye(4), Contract(intensity=rule))[:1]
        want = (voxels - inside.mean()) / inside.std()
        if masked:
            assert not z[:2].any() and not z[:, -3:].any()
        assert np.allclose(z[2:, :-3], want[2:, :-3], atol=1e-5)


def test_quantiles_are_in_the_images_own_units_only_where_the_rule_keeps_them() -> None:
    voxels = noise((20, 20, 20))
    for rule, source in ((Intensity("window", -175, 250), voxels), (Intensity("volume"), None)):
        image, _, seen = prepare.prepare([voxels], np.eye(4), Contract(intensity=rule))
        values = image.numpy() if source is None else source
        assert seen.percentiles[0] == pytest.approx(
            np.percentile(values, (0.5, 50, 99.5)), rel=1e-5
        )
    assert seen.spacing == (1, 1, 1) and seen.extent == (20, 20, 20)


def test_another_number_of_channels_is_refused() -> None:
    two = Contract(channels=("CT", "PET"))
    with pytest.raises(
        GraftError, match=r"scan.nii: has 1 channel\(s\), the network takes 2: CT, PET"
    ):
        prepare.prepare([noise()], np.eye(4), two, "scan.nii")
