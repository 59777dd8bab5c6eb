"""The counter of operations and the check of the fast forms: what they count, and that they notice what is wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType

import graftwork as gw
from benchmarks.speed import __main__ as command
from benchmarks.speed import check, families
from benchmarks.speed.anatomy import ALL, WAITING, anatomy, operations, shares
from benchmarks.speed.families import BACKWARD as BACK
from benchmarks.speed.measure import Case
from graftwork.fast import linear as fast_linear
from graftwork_runs import Row, validate_record


def test_operations_are_counted_by_phase() -> None:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False)
    x = torch.randn(4, 3, requires_grad=True)

    def step() -> None:
        optimizer.zero_grad()
        layer(x).exp().sum().backward()
        optimizer.step()

    found = operations(step)
    assert found["forward"]["addmm"] == 1 and found["forward"]["exp"] == 1
    assert found["backward"]["mm"] == 2 and found["backward"]["mul"] == 1
    assert found["optimizer"]["add_"] == 2 and found["forward"]["add_"] == 0
    step()
    assert operations(lambda: None)["forward"].total() == 0


def test_a_case_is_told_a_site_and_what_fails_leaves_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Options:
        device, rows = "cpu", ("*",)

    def work(n: int) -> Any:
        x = torch.ones(2, 2)

        def run() -> Tensor:
            y = x
            for _ in range(n):
                y = y.exp()
            return y

        return run

    def fails() -> Any:
        raise ImportError("no such library")

    variants = {"floor": lambda: work(2), "more": lambda: work(8), "absent": fails}
    case = Case("toy: 1", variants, sites=lambda: 3)
    options: Any = Options()
    rows = {(r.variant, r.metric): r for r in anatomy(case, options)}
    assert rows["floor", "operations, forward"].value == 2
    found = rows["more", "operations a site, forward"]
    assert found.value == 2 and found.note == "exp 2"
    assert rows["more", "host a site"].unit == "us"
    assert rows["absent", "operations"].note == "ImportError: no such library"


@pytest.mark.filterwarnings("ignore")
def test_the_llama_table_is_taken_apart_in_small(tmp_path: Path) -> None:
    threads, out = torch.get_num_threads(), tmp_path / "a.json"
    arguments = ["--anatomy", "--tiny", "--device", "cpu", "--cases", "hidden", "--rows"]
    try:
        assert command.main([*arguments, "graftwork LoRA 16", "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    record = validate_record(out)
    assert record.record == "speed/llama-cpu-anatomy"
    [forward] = record.find(variant="graftwork LoRA 16", metric="operations a site, forward")
    # a cast a layer and direction would be four more
    assert forward.value is not None and forward.value < 5
    assert "_to_copy" not in (forward.note or "")


@pytest.mark.parametrize(
    ("name", "shapes", "above", "told"),
    [
        ("aten::mm", [[512, 2048], [2048, 48]], [], families.INTO),
        ("aten::addmm_", [[512, 2048], [512, 48], [48, 2048]], [], families.OUT),
        ("aten::addmm", [[2048], [512, 2048], [2048, 8192]], [], families.LARGE),
        ("aten::mm", [[512, 2048], [2048, 16]], [BACK], families.BACK_INTO),
        ("aten::mm", [[16, 512], [512, 2048]], ["own", BACK], families.BACK_INTO),
        ("aten::addmm_", [[512, 2048], [512, 16], [16, 2048]], [BACK], families.BACK_OUT),
        ("aten::bmm", [[64, 512, 32], [64, 32, 32]], [], families.BLOCKS),
        ("aten::mul", [[4, 4], []], [BACK], families.BACKWARD_SMALL),
        ("aten::copy_", [[4, 4], [4, 4]], [], families.FORWARD_SMALL),
        ("aten::_foreach_mul_", [[]], ["Optimizer.step#AdamW.step"], families.STEP),
        ("aten::_scaled_dot_product_flash_attention", [[1]], [], families.ATTENTION),
    ],
)
def test_what_an_operation_computes_is_read_off_its_shapes(
    name: str, shapes: list[list[int]], above: list[str], told: str
) -> None:
    assert families.family(name, shapes, [name, *above]) == told


def test_kernels_are_summed_by_what_launched_them() -> None:
    def event(name: str, shapes: Any, kernels: list[float], parent: Any = None) -> Any:
        return SimpleNamespace(
            name=name, input_shapes=shapes, cpu_parent=parent, device_type=DeviceType.CPU,
            kernels=[SimpleNamespace(duration=k) for k in kernels],
        )  # fmt: skip

    back = event(BACK + ": LinearBackward", [], [])
    spent = families.milliseconds(
        [
            back,
            event("aten::mm", [[512, 2048], [2048, 16]], [1000.0, 500.0]),
            event("aten::mm", [[512, 2048], [2048, 16]], [250.0], back),
            event("aten::mul", [[1], [1]], [250.0], event("own", [], [], back)),
        ]
    )
    assert spent == {families.INTO: 1.5, families.BACK_INTO: 0.25, families.BACKWARD_SMALL: 0.25}


def test_shares_are_told_of_the_floors_kernels() -> None:
    floor = Counter({families.LARGE: 80.0, families.ATTENTION: 20.0, WAITING: 10.0})
    own = Counter({families.LARGE: 82.0, families.ATTENTION: 20.0, families.OUT: 5.0, WAITING: 4.0})
    rows = {r.metric: r.value for r in shares("toy", "more", own, floor)}
    assert rows == {
        f"over: {families.LARGE}": 2.0, f"over: {families.OUT}": 5.0,
        f"over: {families.ATTENTION}": 0.0, f"over: {WAITING}": -6.0, f"over: {ALL}": 7.0,
    }  # fmt: skip


def small(method: Any, dtype: torch.dtype) -> check.Problem:
    return check.Problem(1, method, dtype, "cpu", True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_check_notices_a_wrong_gradient(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> list[Row]:
        options: Any = type("Options", (), {"device": "cpu", "tiny": True})
        case = "LoRA, fp32" if dtype is torch.float32 else "LoRA, bf16"
        return check._row(case, "fast", 1, gw.LoRA(4), dtype, options)

    assert check.verdict(rows()).startswith("seen: all")
    real = fast_linear.mm
    monkeypatch.setattr(fast_linear, "mm", lambda a, b, dtype: 1.2 * real(a, b, dtype))
    assert check.verdict(rows()).startswith("partly: 1 of ")


def test_the_check_notices_a_start_that_is_not_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    assert small(gw.DoRA(4), torch.bfloat16).starts_at_base
    real = fast_linear._output

    def off(*args: Any) -> Any:
        y, kept = real(*args)
        return y * 1.01, kept

    monkeypatch.setattr(fast_linear, "_output", off)
    assert not small(gw.DoRA(4), torch.bfloat16).starts_at_base


def test_a_check_that_raises_is_a_row_and_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no kernel image\nmore")

    monkeypatch.setattr(fast_linear, "_output", broken)
    options: Any = type("Options", (), {"device": "cpu", "tiny": True})
    rows = check._row("LoRA, fp32", "fast", 1, gw.LoRA(4), torch.float32, options)
    assert [r.note for r in rows] == ["seed 1: RuntimeError: no kernel image"]
    assert check.verdict(rows).startswith("not seen at this scale: 1 of 1")
    assert check.error([torch.tensor([torch.nan])], [torch.ones(1).double()]) == float("inf")
