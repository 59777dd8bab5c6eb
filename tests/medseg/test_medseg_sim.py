"""The simulated default: reproducible, on real anatomy, folds nowhere, split by hash."""

from __future__ import annotations

import pytest
import torch

from graftwork.errors import GraftError
from graftwork_medseg.demo import sim, task, train_base


def test_a_scan_is_a_pure_function_of_seed_site_and_subject() -> None:
    first, again = sim.simulate("b", 3), sim.simulate("b", 3)
    assert torch.equal(first.image, again.image) and torch.equal(first.label, again.label)
    assert not torch.equal(first.image, sim.simulate("b", 4).image)
    assert not torch.equal(first.image, sim.simulate("b", 3, seed=1).image)


def test_two_sites_scan_the_same_anatomy_with_inverted_tissue_contrast() -> None:
    a, b = sim.simulate("a", 7), sim.simulate("b", 7)
    assert torch.equal(a.label, b.label)

    def means(scan: sim.Subject) -> list[float]:
        return [scan.image[scan.label == k].mean().item() for k in range(4)]

    _, gm_a, wm_a, csf_a = means(a)
    _, gm_b, wm_b, csf_b = means(b)
    assert csf_a < gm_a < wm_a and wm_b < gm_b < csf_b


def test_maps_are_fractions_and_csf_is_what_is_left_of_the_brain() -> None:
    maps, affine = sim.anatomy()
    _, gm, wm, csf = maps
    assert maps.min() >= 0 and (gm + wm + csf).max() <= 1 + 1e-6
    # The lateral ventricles, 1 mm right of the midline in the template, are nearly pure CSF.
    x, y, z = (
        round(v) for v in (torch.tensor([8.0, -30.0, 15.0]) - torch.tensor(affine[:3, 3])).tolist()
    )
    assert csf[x - 2 : x + 3, y - 5 : y + 6, z - 3 : z + 4].max() > 0.9


@pytest.mark.parametrize("subject", range(0, 40, 5))
def test_the_deformation_never_folds(subject: int) -> None:
    shift = sim.displacement(sim.SEED, subject)
    step = [torch.diff(shift[axis], dim=axis) / sim.SPACING for axis in range(3)]
    assert min(s.min().item() for s in step) > -0.9


def test_every_class_is_in_every_scan() -> None:
    label = sim.simulate("a", 11).label
    counts = torch.bincount(label.flatten().long(), minlength=4)
    assert (counts > 5_000).all() and label.shape == sim.SHAPE


def test_groups_are_disjoint_and_fixed_by_a_hash() -> None:
    groups = task.subjects()
    everyone = [s for members in groups.values() for s in members]
    assert len(everyone) == len(set(everyone))
    assert len(groups["train"]) == 5 and len(groups["test"]) >= 8
    assert min(everyone) >= task.FIRST > max(train_base.HELD_OUT)
    # A changed rule would silently reshuffle who was tested on.
    assert sim.split(40, train=5)["train"] == [s - task.FIRST for s in groups["train"]]
    with pytest.raises(GraftError, match="more than the 3 subjects"):
        sim.split(3, train=2, test=2)


def test_an_unknown_site_is_refused() -> None:
    with pytest.raises(GraftError, match="choose one of a, b"):
        sim.simulate("c", 0)


def test_normalised_volumes_have_zero_mean_and_unit_variance() -> None:
    x = sim.normalise(torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0)) * 7 + 3)
    assert abs(x.mean().item()) < 1e-5 and abs(x.std().item() - 1) < 1e-5
    assert torch.equal(sim.normalise(torch.full((4, 4, 4), 2.0)), torch.zeros(4, 4, 4))


def test_the_base_never_sees_csf() -> None:
    label = torch.tensor([0, 1, 2, 3])
    assert train_base.two_tissues(label).tolist() == [0, 1, 2, 0]
