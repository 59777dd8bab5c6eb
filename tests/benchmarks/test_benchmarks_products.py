"""The forms of a branch's products that are timed beside each other compute the same."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.speed.products import equal_bits, forms, main
from graftwork_runs import validate_record


def made(name: str) -> Tensor:
    """A form's result, from tensors of its own."""
    result = forms(64, 32, 48, "cpu")[name]()
    assert isinstance(result, Tensor)
    return result.float().clone()


def near(one: Tensor, two: Tensor) -> None:
    assert (one - two).norm() <= 2e-2 * two.norm()


def test_forms_of_one_product_agree() -> None:
    whole = forms(64, 32, 48, "cpu")
    whole["frozen y = x W + b"]()
    added = whole["y += p B"]()
    assert isinstance(added, Tensor)
    near(made("y = p B + b, then += x W"), added.float())
    near(made("y = [x p] [W B] + b, copies included"), added.float())
    near(made("dx = dp A, then += dy W"), made("dx = [dy dp] [W; A], copies included"))
    for name in ("dB in bf16", "dB^T in 8 parts", "dB^T in 32 parts", "dB^T = p^T dy"):
        found = made(name)
        near(found if found.shape[0] == 48 else found.t(), made("dB = dy^T p"))
    for name in ("dA in bf16", "dA in 8 parts", "dA in 32 parts", "dA^T = x^T dp"):
        found = made(name)
        near(found if found.shape[1] == 32 else found.t(), made("dA = dp^T x"))
    assert made("W' = W + B A").shape == (48, 32)


def test_a_record_is_written(tmp_path: Path) -> None:
    out = tmp_path / "products.json"
    words = ["--tiny", "--device", "cpu", "--repeats", "1", "--shapes", "vit qkv"]
    assert main([*words, "--out", str(out)]) == 0
    record = validate_record(out)
    assert {r.metric for r in record.rows} == {"time", "equal bits"}
    assert all(r.value is not None for r in record.rows)
    assert str(tmp_path) not in record.to_json()
    assert isinstance(equal_bits(8, 8, 8, "cpu"), bool) and torch.get_num_threads() > 0
