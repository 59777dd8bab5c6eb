"""The audit's score: soft Dice by hand, every organ in some crop, no trace, the same for ever."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork_medseg.fewshot.audit import AuditScore
from graftwork_medseg.images.organs import Organs
from graftwork_medseg.images.volume import Volume

ORGANS = Organs.match(("background", "spleen"), ("background", "a", "b"), ["b", "a"])


def volume(label: Tensor, seed: int = 0) -> Volume:
    draw = torch.Generator().manual_seed(seed)
    image = torch.randn(1, *label.shape, generator=draw)
    return Volume("case", image, label.to(torch.uint8), None, placement=None)  # type: ignore[arg-type]


def corners(size: int = 24) -> Tensor:
    """Organ a (output 3) in one corner, one voxel of b (output 2) far away."""
    label = torch.zeros(size, size, size)
    label[:6, :6, :6] = 3
    label[-2, -2, -2] = 2
    return label


class Fixed(nn.Module):
    """Scores (N, 4, ...) that are a fixed function of the image."""

    def __init__(self, pair: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -1.0, 0.7, 1.2]))
        self.pair, self.shapes = pair, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Any:
        assert not torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()
        self.shapes.append(tuple(x.shape))
        scores = x * self.weight.reshape(1, -1, 1, 1, 1)
        return [scores, x] if self.pair else scores


@given(st.integers(0, 5), st.integers(1, 7), st.booleans())
def test_the_score_is_soft_dice_by_hand(seed: int, batch: int, pair: bool) -> None:
    score = AuditScore(volume(corners(), seed), ORGANS, (8, 8, 8), seed=seed, batch=batch)
    network = Fixed(pair).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = score(network)
    terms, weight = [], network.weight.detach().double()
    for x, y in zip(score.x.double(), score.y, strict=True):
        p = (x * weight.reshape(-1, 1, 1, 1)).softmax(0)
        for k in (2, 3):
            t = (y == k).double()
            terms.append((2 * (p[k] * t).sum() + 1) / (p[k].sum() + t.sum() + 1))
    assert found == pytest.approx(float(sum(terms) / len(terms)), abs=1e-6)
    assert network.training and network.weight.grad is None
    assert max(s[0] for s in network.shapes) <= batch
    assert score(network) == found


@given(st.integers(0, 20))
def test_every_organ_is_in_some_crop_and_the_crops_are_the_cases_own(seed: int) -> None:
    case = volume(corners())
    score = AuditScore(case, ORGANS, (8, 8, 8), crops=1, seed=seed)
    assert (score.y == 2).any() and (score.y == 3).any()
    assert len(score.x) == len(score.y) == 2  # one drawn, one more for what it missed
    places = case.image[0].unfold(0, 8, 1).unfold(1, 8, 1).unfold(2, 8, 1).reshape(-1, 8, 8, 8)
    labels = case.label.unfold(0, 8, 1).unfold(1, 8, 1).unfold(2, 8, 1).reshape(-1, 8, 8, 8)  # type: ignore[union-attr]
    for x, y in zip(score.x[:, 0], score.y, strict=True):
        (at,) = (places == x).flatten(1).all(1).nonzero()
        assert torch.equal(labels[at[0]], y)


def test_crops_that_are_the_same_are_kept_once() -> None:
    small = AuditScore(volume(corners(7)), ORGANS, (8, 8, 8))
    assert len(small.x) == len(small.y) == 1
    large = AuditScore(volume(corners()), ORGANS, (8, 8, 8), crops=4)
    assert len(large.x) > 1
    assert all(
        not torch.equal(large.x[i], large.x[j]) for i in range(len(large.x)) for j in range(i)
    )


def test_the_places_follow_case_and_seed() -> None:
    case = volume(corners())
    first = AuditScore(case, ORGANS, (8, 8, 8))
    assert torch.equal(first.x, AuditScore(case, ORGANS, (8, 8, 8)).x)
    assert not torch.equal(first.x, AuditScore(case, ORGANS, (8, 8, 8), seed=1).x)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    AuditScore(case, ORGANS, (8, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_audited_is_refused() -> None:
    label = corners()
    label[label == 2] = 0
    with pytest.raises(GraftError, match="no voxel of 'b' is in any crop"):
        AuditScore(volume(label), ORGANS, (8, 8, 8))
    bare = volume(corners())
    bare.label = None
    with pytest.raises(GraftError, match="case: has no label to audit by"):
        AuditScore(bare, ORGANS, (8, 8, 8))
