"""Singular triplets: which ones, on what dtype, deterministic, and cached by the weight's hash."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graftwork.algebra.linear import Linear
from graftwork.starts import cache, svd


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cache, "_stores", {})
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    yield


def weight(m: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(1, m, n, generator=rng, dtype=torch.float64).to(dtype)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 99), st.data())
def test_picked_triplets_are_singular_triplets(
    m: int, n: int, seed: int, data: st.DataObject
) -> None:
    w = weight(m, n, seed)
    picks = data.draw(st.lists(st.integers(0, min(m, n) - 1), min_size=1, unique=True))
    t = svd.exact(w, picks)
    assert t.u.shape == (1, m, len(picks)) and t.v.shape == (1, len(picks), n)
    torch.testing.assert_close(t.s[0], torch.linalg.svdvals(w[0])[picks])
    torch.testing.assert_close(w @ t.v.mT, t.u * t.s.unsqueeze(1))
    torch.testing.assert_close(w.mT @ t.u, t.v.mT * t.s.unsqueeze(1))
    eye = torch.eye(len(picks), dtype=w.dtype)
    torch.testing.assert_close(t.u[0].T @ t.u[0], eye)
    torch.testing.assert_close(t.v[0] @ t.v[0].T, eye)
    assert bool((t.u.gather(1, t.u.abs().argmax(1, keepdim=True)) > 0).all())
    assert t.error < 1e-12


@pytest.mark.parametrize(("m", "n"), [(40, 40), (25, 60), (60, 25)])
def test_the_gram_route_is_closer_to_the_exact_triplets_than_an_svd_in_float32(
    m: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = min(m, n)
    left, right = (torch.linalg.qr(weight(k, k, k)[0])[0][:, :count] for k in (m, n))
    falling = torch.arange(1, count + 1, dtype=torch.float64) ** -1.5
    w = torch.stack([(left * falling) @ right.T, (left * 7 * falling) @ right.T]).float()
    picks = [0, 3, count - 1]
    u, s, vh = torch.linalg.svd(w.double(), full_matrices=False)
    want = u[:, :, picks] * s[:, picks].unsqueeze(1) @ vh[:, picks]

    def off(t: svd.Triplets) -> float:
        assert all(getattr(t, name).dtype == torch.float32 for name in "usv")
        return float((t.u.double() * t.s.unsqueeze(1).double() @ t.v.double() - want).abs().max())

    def never(*_: object, **__: object) -> None:
        raise AssertionError("an SVD, where the Gram matrix serves")

    with monkeypatch.context() as patched:
        patched.setattr(torch.linalg, "svd", never)
        mine = svd.exact(w, picks)
    for t, k in ((mine.u, m), (mine.v.mT, n)):
        assert t.shape == (2, k, 3)
        torch.testing.assert_close(t.mT @ t, torch.eye(3).expand(2, 3, 3), atol=1e-6, rtol=0)
    assert mine.error < 1e-6 and off(mine) < 1e-6
    monkeypatch.setattr(svd, "_by_gram", lambda w, picks: None)
    cache._stores.clear()
    assert off(mine) <= off(svd.exact(w, picks))


@pytest.mark.parametrize("smallest", [1e-6, 0.0])
def test_a_vector_too_small_for_the_gram_matrix_comes_from_the_svd(smallest: float) -> None:
    q, r = (torch.linalg.qr(weight(12, 12, seed)[0])[0] for seed in (0, 1))
    s = torch.linspace(1, 0.1, 12, dtype=torch.float64)
    s[-1] = smallest
    w = (q * s @ r.T).float()[None]
    assert svd._by_gram(w, [0, 10]) is not None and svd._by_gram(w, [11]) is None
    t = svd.exact(w, [10, 11])
    torch.testing.assert_close(t.u[0].T @ t.u[0], torch.eye(2), atol=1e-5, rtol=0)
    assert t.error < 1e-5
    zero = svd.exact(torch.zeros(1, 4, 3), [0, 1])
    torch.testing.assert_close(zero.u[0].T @ zero.u[0], torch.eye(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_work_is_in_float32_or_wider(dtype: torch.dtype) -> None:
    w = weight(6, 5, dtype=dtype)[0]
    made = svd.matrices(Linear(out=6, in_=5), w)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert made.dtype == wide and svd.exact(made, [0]).u.dtype == wide


def test_the_randomised_one_is_the_same_for_a_seed_and_moves_no_generator() -> None:
    w = weight(530, 520, dtype=torch.float32)
    state = torch.get_rng_state()
    first = svd.largest(w, 3, 2)
    assert torch.equal(torch.get_rng_state(), state)
    cache._stores.clear()
    torch.manual_seed(99)
    again = svd.largest(w, 3, 2)
    assert all(torch.equal(getattr(first, n), getattr(again, n)) for n in "usv")
    assert not torch.equal(svd.largest(w, 3, 2, seed=1).v, first.v)
    assert first.error > 1e-3  # a flat spectrum: it is told


@pytest.mark.parametrize("folder", [False, True])
def test_a_weight_is_decomposed_once(
    folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = {"n": 0}
    plain = svd._pick

    def counting(w: Tensor, picks: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        count["n"] += 1
        return plain(w, picks)

    monkeypatch.setattr(svd, "_pick", counting)
    if folder:
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "deep" / "cache"))
    w = weight(6, 5)
    first = svd.exact(w, [0, 2])
    for _ in range(2):
        if folder:
            cache._stores.clear()  # another process
        again = svd.exact(w.clone(), [0, 2])
        assert all(torch.equal(getattr(first, n), getattr(again, n)) for n in "usv")
        assert first.error == again.error
    assert count["n"] == 1
    svd.exact(w, [0, 1])  # other triplets, another weight, another dtype
    svd.exact(w + 1e-15, [0, 2])
    svd.exact(w.float(), [0, 2])
    assert count["n"] == 4


def entry(n: int) -> dict[str, Tensor]:
    return {name: torch.full((n,), 0.5) for name in ("u", "s", "v", "error")}


def test_memory_and_folder_are_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    one = 4 * 4 * 100
    store = cache.Store(tmp_path, memory=2 * one, disk=2 * one + 1200)
    for i, key in enumerate("abc"):
        store.put(key, entry(100))
        os.utime(tmp_path / f"{key}.safetensors", ns=(i + 1, i + 1))
        if key == "b":
            assert store.get("a") is not None  # in use again, in memory
    assert set(store._held) == {"a", "c"}
    assert {p.name[0] for p in tmp_path.iterdir()} == {"b", "c"}
    store.put("big", entry(1000))
    assert store.get("big") is None and store.get("c") is not None


@pytest.mark.parametrize("damage", ["cut", "other", "nan", "gone"])
def test_a_damaged_file_counts_as_absent(damage: str, tmp_path: Path) -> None:
    store = cache.Store(tmp_path)
    store.put("a", entry(10))
    file = tmp_path / "a.safetensors"
    assert cache.Store(tmp_path).get("a") is not None
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "other":
        cache.save_file({"u": torch.ones(2)}, file)
    elif damage == "nan":
        cache.save_file({**entry(10), "v": torch.full((10,), float("nan"))}, file)
    else:
        file.unlink()
    assert cache.Store(tmp_path).get("a") is None


def test_a_killed_or_failing_write_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(cache, "save_file", full)
    store = cache.Store(tmp_path)
    store.put("a", entry(10))
    assert store.get("a") is not None and list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    cache.Store(tmp_path / "file").put("a", entry(10))  # no folder there: kept in memory alone
