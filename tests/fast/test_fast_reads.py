"""One pass over the output's gradient against the two products, in Triton's interpreter on a CPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from graftwork.fast import reads

INTERPRETED = """
import torch
from graftwork.fast.kernels import one_read

cases = [(1, 1, 16, 1.0), (70, 130, 16, 2.0), (513, 40, 32, 0.25), (600, 200, 64, 1.0)]
for rows, out, rank, scale in cases:
    draw = torch.Generator().manual_seed(rows)
    dy = torch.randn(rows, out + 3, generator=draw)[:, :out]  # strided, as a slice of something
    b = torch.randn(out, rank, generator=draw)
    p = torch.randn(rows, 2 * rank, generator=draw)[:, rank:]
    dp, db = one_read(dy, b, p, scale)
    torch.testing.assert_close(dp, scale * (dy @ b), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(db, scale * (dy.t() @ p), rtol=1e-5, atol=1e-4)
print(len(cases))
"""


def test_one_pass_gives_both_products() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed: its kernels cannot be interpreted")
    # a process of its own: Triton decides when it is imported whether it interprets
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 4


def test_one_pass_is_taken_only_where_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "has_triton", lambda: True)
    monkeypatch.setattr(reads, "allowed", True)
    dy = torch.zeros(2**13, 2**11, dtype=torch.bfloat16)
    b = torch.zeros(2**11, 16, dtype=torch.bfloat16)
    assert reads.once_pays(dy, b)
    assert not reads.once_pays(dy[:100], b)
    assert not reads.once_pays(dy.float(), b)
    assert not reads.once_pays(dy, b[:, :8])
    assert not reads.once_pays(dy.t().contiguous().t(), b)
    torch.use_deterministic_algorithms(True)
    try:
        assert not reads.once_pays(dy, b)
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in (("has_triton", lambda: False), ("allowed", False)):
        with monkeypatch.context() as one:
            one.setattr(reads, name, value)
            assert not reads.once_pays(dy, b)
    assert reads.once_pays(dy, b)


def test_the_products_agree_wherever_the_first_goes() -> None:
    dy, b, p = torch.randn(5, 7), torch.randn(7, 3), torch.randn(5, 3)
    room = torch.full((5, 8), torch.nan)
    for scale in (1.0, 0.5):
        dp, db = reads.both(dy, b, p, scale, True, dy.dtype)
        again, none = reads.both(dy, b, p, scale, False, dy.dtype, room[:, 2:5])
        assert none is None and db is not None
        torch.testing.assert_close(dp, scale * (dy @ b))
        torch.testing.assert_close(db, scale * (dy.t() @ p))
        torch.testing.assert_close(room[:, 2:5], dp)
        assert again.data_ptr() == room[:, 2:5].data_ptr()
        assert room[:, :2].isnan().all() and room[:, 5:].isnan().all()
