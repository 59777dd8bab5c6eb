"""The benchmark of quantised bases: its rows in small, what a failure leaves, its losses, its verdict and its table."""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.quantised import __main__ as command
from benchmarks.quantised import judging, merges
from benchmarks.quantised.forms import FORMS, linears, store, stored_bytes
from benchmarks.quantised.page import table
from benchmarks.speed.llama import decoder
from graftwork_runs import Record, Row, validate_record

SMALL = ["--tiny", "--device", "cpu", "--rounds", "2", "--burst", "1", "--sizes", "0.05"]


def small() -> nn.Module:
    sizes = {"layers": 1, "hidden": 64, "tokens": 16, "vocabulary": 32}
    return decoder(argparse.Namespace(**sizes, device="cpu"))


def rehearse(tmp_path: Path, *more: str) -> Path:
    out = tmp_path / "record.json"
    where = ["--work", str(tmp_path / "rows"), "--out", str(out)]
    assert command.main([*SMALL, *where, *more]) == 0
    return out


def test_a_form_that_cannot_be_made_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(model: nn.Module) -> None:
        raise ModuleNotFoundError("No module named 'bitsandbytes'")

    monkeypatch.setitem(FORMS, "nf4", replace(FORMS["nf4"], make=make))
    out = rehearse(tmp_path, "--forms", "bf16", "nf4")
    record = validate_record(out)
    assert record.verdict is not None and record.verdict.startswith("not testable here")
    assert str(tmp_path) not in out.read_text()
    steps = {r.variant for r in record.rows if r.metric == "step" and r.value}
    assert steps == {"floor", *judging.VARIANTS}
    [lost] = [r for r in record.rows if "nf4" in r.case]
    assert lost.value is None and "bitsandbytes" in (lost.note or "")
    said = table(record)
    assert f"| nf4, bitsandbytes | floor | {lost.note} |" in said
    assert "| bf16 | 0.05 | peft merge_adapter() |" in said
    [restored] = record.find(variant=merges.OURS, metric=merges.RESTORED)
    assert (restored.value, restored.unit) == (7, "of 7")
    capsys.readouterr()
    rehearse(tmp_path, "--forms", "bf16", "nf4")
    printed = capsys.readouterr().out
    assert "bf16: measured before" in printed and "nf4: started" in printed


def test_rows_of_a_quantised_form(tmp_path: Path) -> None:
    pytest.importorskip(
        "bitsandbytes", reason="bitsandbytes (the extra `quantised`) is not installed"
    )
    record = validate_record(rehearse(tmp_path, "--forms", "bf16", "nf4"))
    nf4 = [r for r in record.rows if r.case.startswith("merge, nf4")]
    of = {(r.variant, r.metric): r.value for r in nf4}
    assert of[merges.PLAIN, merges.REFUSED] == 1
    assert of[merges.OURS, merges.RESTORED] == 7
    ours, theirs = (of[v, merges.OF_CHANGE] for v in (merges.OURS, merges.PEFT))
    assert 0.5 < ours < 1.5 and theirs == pytest.approx(ours, rel=0.05)
    assert of[merges.OURS, merges.APART] < 1e-3
    assert (
        judging.misses(record.rows, FORMS["nf4"].title)[0].endswith("measured on both sides")
        is False
    )
    plain, packed = (r.value for r in record.find(metric=judging.BYTES))
    assert packed < plain / 2


@pytest.mark.parametrize("name", ["int8", "int4", "torchao-nf4"])
def test_torchao_forms_change_the_linear_layers_alone(name: str) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    plain, model = small(), small()
    store(model, FORMS[name])
    assert stored_bytes(model) < 0.6 * stored_bytes(plain)
    for (_, a), (_, b) in zip(linears(plain), linears(model), strict=True):
        apart = (merges.dense(a) - merges.dense(b)).norm() / merges.dense(a).norm()
        assert 0 < apart < 0.2
    assert type(model.lm_head.weight) is nn.Parameter


def test_bytes_count_the_scales_of_scales() -> None:
    model = nn.ModuleDict({"q_proj": nn.Linear(8, 8, bias=False), "other": nn.Linear(4, 4)})
    inner = SimpleNamespace(absmax=torch.ones(1), code=torch.ones(256), offset=None, state2=None)
    offset = torch.ones(())
    state = SimpleNamespace(
        absmax=torch.ones(4, dtype=torch.uint8), code=torch.ones(16), offset=offset, state2=inner
    )
    weight: Any = model.requires_grad_(False)["q_proj"].weight
    weight.data = torch.zeros(32, 1, dtype=torch.uint8)
    weight.quant_state = state
    assert stored_bytes(model) == 32 + 4 + 64 + 4 + 4 + 1024


def test_a_change_has_the_size_asked_for_and_losses_are_those_made() -> None:
    base = small()
    factors = merges.change_of(base, 0.05)
    inputs = {n: torch.randn(9, m.in_features) for n, m in linears(base)}  # type: ignore[arg-type]
    before = merges.Before(*torch.zeros(3), inputs)
    merged = copy.deepcopy(base).float()
    for name, layer in linears(merged):
        a, b = factors[name]
        weight: Any = layer.weight
        assert float((b @ a).norm() / weight.norm()) == pytest.approx(0.05, rel=1e-4)
        weight.data += 0.75 * (b @ a)  # a quarter of the change is lost
    lost = merges.losses(base, merged, factors, before)
    assert len(lost) == 7
    for of_change, of_weight, output in lost.values():
        assert of_change == pytest.approx(0.25, rel=1e-3)
        assert output == pytest.approx(0.25, rel=1e-3)
        assert of_weight == pytest.approx(0.25 * 0.05, rel=0.01)


def made_up(**changed: float) -> list[Row]:
    title = FORMS["nf4"].title
    value = {
        "ours": 1.2,
        "default": 2.0,
        "half": 1.3,
        "refused": 1.0,
        "restored": 7.0,
        "apart": 1e-6,
    }
    value |= changed
    names = {"ours": judging.LORA, "default": judging.PEFT, "half": judging.HALF}
    rows = []
    for key, variant in names.items():
        for metric in ("ratio to floor", "peak"):
            rows.append(
                Row(case=f"step, {title}: x", variant=variant, metric=metric, value=value[key])
            )
    case = f"merge, {title}: a change of 0.1 of the weight"
    ours = {merges.RESTORED: "restored", merges.APART: "apart"}
    rows.append(Row(case=case, variant=merges.PLAIN, metric=merges.REFUSED, value=value["refused"]))
    for metric, key in ours.items():
        unit = "of 7" if metric == merges.RESTORED else None
        rows.append(Row(case=case, variant=merges.OURS, metric=metric, value=value[key], unit=unit))
    return rows


def test_what_is_so_at_every_size_is_one_line_of_the_table() -> None:
    case = "merge, int8, torchao: a change of {} of the weight"
    rows = [
        Row(case=case.format(size), variant=merges.OURS, metric=merges.REFUSED, value=1.0)
        for size in (0.01, 0.1)
    ]
    record = Record(
        record="scale/quantised", claim="c", command="c", date="2026-01-01T00:00:00Z", device="d",
        versions={}, rows=rows,
    )  # fmt: skip
    assert f"| int8, torchao | 0.01, 0.1 | {merges.OURS} | refused | – | – | – |" in table(record)


def test_the_verdict_says_what_does_not_hold() -> None:
    assert judging.verdict(made_up()).startswith("seen: nf4, bitsandbytes: ")
    assert judging.verdict(made_up(ours=1.4)).startswith(
        "partly: nf4, bitsandbytes: ratio to floor 1.4"
    )
    assert "peft's best 1.3" in judging.verdict(made_up(ours=1.4))
    for key, value, said in (
        ("refused", 0.0, "refused 0"), ("restored", 6.0, "unmerge 6 of 7"), ("apart", 0.2, "measured 0.2"),
    ):  # fmt: skip
        assert said in judging.verdict(made_up(**{key: value}))
    missing = [r for r in made_up() if r.metric != merges.APART]
    assert "was not measured" in judging.verdict(missing)
    assert judging.verdict([]).startswith("not testable here")


def test_bad_settings_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--tiny", "--device", "cpu", "--rounds", "1"]) == 2
    assert "--rounds is at least 2" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert command.main(["--tiny"]) == 2
        assert "use --device cpu" in capsys.readouterr().err
