"""The order of the data, the curve file, and randomness as functions of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from graftwork.errors import GraftError
from graftwork.lightning.curve import HEADER, CurveLogger
from graftwork.lightning.data import ResumableLoader, ShuffleSampler, mixed_seed, sample_generator
from graftwork.lightning.resume import keyed


class Places(Dataset[Tensor]):
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        return torch.tensor(place)


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(int, 1)


@given(
    n=st.integers(1, 40),
    size=st.integers(1, 9),
    cut=st.integers(0, 40),
    drop=st.booleans(),
    seed=st.integers(0, 9),
)
def test_a_loader_started_in_the_middle_yields_the_rest(
    n: int, size: int, cut: int, drop: bool, seed: int
) -> None:
    def loader() -> ResumableLoader:
        return ResumableLoader(Places(n), batch_size=size, seed=seed, drop_last=drop)

    first = loader()
    whole = [[b.tolist() for b in first]]
    first._order.set_epoch(1)
    whole.append([b.tolist() for b in first])
    second = loader()
    batches = iter(second)
    taken = [b.tolist() for _, b in zip(range(cut), batches, strict=False)]
    state = second.state_dict()
    third = loader()
    third.load_state_dict(state)
    rest = [b.tolist() for b in third]
    if len(taken) < len(first):
        assert taken + rest == whole[0]
    else:
        assert taken == whole[0] and rest == whole[1]
    assert len(third) == len(first)


def test_workers_and_prefetching_change_nothing() -> None:
    loader = ResumableLoader(Places(20), batch_size=3, seed=1, num_workers=2)
    batches = iter(loader)
    got = [next(batches).tolist() for _ in range(2)]
    assert loader.state_dict()["batches"] == 2
    plain = [b.tolist() for b in ResumableLoader(Places(20), batch_size=3, seed=1)]
    assert got + [b.tolist() for b in batches] == plain


def test_iterating_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(ResumableLoader(Places(5), batch_size=2, seed=1))
    assert torch.equal(before, torch.get_rng_state())


def test_orders_differ_between_epochs_and_seeds_and_are_permutations() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = ShuffleSampler(range(50), seed=seed)
        sampler.set_epoch(epoch)
        return [i for _, i in sampler]

    orders = {tuple(order(s, e)) for s in range(4) for e in range(4)}
    assert len(orders) == 16
    assert all(sorted(o) == list(range(50)) for o in orders)


def test_a_samples_noise_is_its_own() -> None:
    def noise(*place: int) -> float:
        return float(torch.rand((), generator=sample_generator(*place)))

    values = {noise(s, e, i) for s in range(5) for e in range(5) for i in range(5)}
    assert len(values) == 125
    assert noise(1, 2, 3) == noise(1, 2, 3)
    assert 0 <= mixed_seed("x", -5) < 2**63


def test_another_data_set_is_refused() -> None:
    state = ResumableLoader(Places(5), batch_size=2, seed=1).state_dict()
    for other, field in ((Places(6), "samples"), (Places(5), "batch_size")):
        size = 2 if field == "samples" else 3
        with pytest.raises(GraftError, match=field):
            ResumableLoader(other, batch_size=size, seed=1).load_state_dict(state)
    with pytest.raises(GraftError, match="no length"):
        ResumableLoader(Endless(), batch_size=2, seed=1)
    foreign = ResumableLoader(Places(5), batch_size=2, seed=1, sampler=[(0, 0)])
    with pytest.raises(GraftError, match="own order"):
        foreign.load_state_dict(state)


def test_the_curve_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    curve = CurveLogger(tmp_path)
    curve.log_metrics({"loss": 0.1, "epoch": 0}, step=0)
    state = curve.state_dict()
    curve.log_metrics({"b": 2.0, "a": float("nan"), "epoch": 0}, step=1)
    assert curve.file.read_text() == HEADER + "0,0,loss,0.1\n1,0,a,nan\n1,0,b,2.0\n"
    again = CurveLogger(tmp_path)
    again.load_state_dict(state)
    again.log_metrics({"loss": 1 / 3, "epoch": 0}, step=1)
    assert curve.file.read_text() == HEADER + f"0,0,loss,0.1\n1,0,loss,{1 / 3!r}\n"


def test_a_curve_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    curve = CurveLogger(tmp_path)
    with pytest.raises(GraftError, match=r"metrics\.csv: 0 bytes|bytes, but the checkpoint"):
        curve.log_metrics({"loss": 1.0}, step=0)
        curve.load_state_dict({"bytes": 10_000})
    curve.file.write_text("mine,not yours\n")
    for keep in (0, 5):
        with pytest.raises(GraftError, match="not a curve"):
            CurveLogger(tmp_path).load_state_dict({"bytes": keep})
    assert curve.file.read_text() == "mine,not yours\n"
    other = CurveLogger(tmp_path / "new")
    other.load_state_dict({"bytes": 500})
    assert other.file.read_text() == HEADER


def test_keyed_generators_are_those_of_manual_seed() -> None:
    torch.manual_seed(77)
    expected = torch.rand(3)
    torch.rand(5)
    with keyed(77):
        assert torch.equal(torch.rand(3), expected)
