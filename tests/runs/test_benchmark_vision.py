"""The speed table of vision networks adapts the layers that it says, and its rows start at the base."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.speed import conv_forms, vision
from benchmarks.speed.__main__ import main
from benchmarks.speed.measure import CHANGED
from graftwork.fast import conv_sites
from graftwork.fast.conv import BRANCH
from graftwork_runs import validate_record


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """A benchmark sets its process's switches."""
    owners = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [owner.allow_tf32 for owner in owners]
    yield
    for owner, value in zip(owners, before, strict=True):
        owner.allow_tf32 = value


@pytest.mark.parametrize(
    ("name", "count"), [("vit", 48), ("segresnet16", 28), ("unet", 14), ("swin-unetr", 36)]
)
def test_sites_at_full_size(name: str, count: int) -> None:
    setting = vision.SETTINGS[name]
    model, _ = setting.make(False)
    assert len(vision.sites(model, setting)) == count


@pytest.mark.parametrize("name", ["unet-autocast", "unet-bf16", "vit"])
def test_rows_in_small(name: str, tmp_path: Path) -> None:
    out = tmp_path / "vision.json"
    command = f"--table vision --tiny --device cpu --rounds 2 --burst 1 --cases {name} --out {out}"
    assert main(command.split()) == 0
    rows = validate_record(out).rows
    found = {r.variant for r in rows if r.metric == "ratio to floor"}
    expected = {"graftwork", "peft", "full fine-tuning"}
    if vision.SETTINGS[name].precision == "bf16":
        expected |= {
            "graftwork, bf16 factors",
            "peft, autocast_adapter_dtype=False",
        }
    if vision.SETTINGS[name].layers is nn.Linear:
        expected.add(f"graftwork{CHANGED}")
    assert found == expected
    assert all(r.value is not None and r.value > 0 for r in rows)


def test_a_variant_that_does_not_start_at_the_base_is_no_row() -> None:
    setting = vision.SETTINGS["unet"]
    options = argparse.Namespace(tiny=True, device="cpu")
    model, x = vision.network(setting, options)
    other, _ = vision.network(setting, options)
    vision._check(model, other, x, setting, None)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(AssertionError):
        vision._check(model, other, x, setting, None)
    with pytest.raises(RuntimeError, match="trains 0 numbers"):
        vision._check(model, model, x, setting, [])


def test_forms_are_measured_and_put_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, served = conv_sites.form_of, conv_sites.FastConv.call
    out = tmp_path / "forms.json"
    command = f"--networks unet --tiny --device cpu --rounds 2 --burst 1 --out {out}"
    assert conv_forms.main(command.split()) == 0
    assert conv_sites.form_of is chosen and conv_sites.FastConv.call is served
    record = json.loads(out.read_text())
    assert str(tmp_path) not in out.read_text()  # no path of this machine
    assert record["verdict"].split(" ")[0].rstrip(":") in ("seen", "partly", "not")
    totals = {r["variant"]: r["value"] for r in record["rows"] if r["metric"] == "all layers"}
    # a choice cannot beat the best form of each layer
    assert totals["best of each layer"] <= totals["as chosen"]
    assert set(conv_forms.FORMS) < set(totals)
    with conv_forms.taking(BRANCH):
        assert conv_sites.form_of() == BRANCH  # type: ignore[call-arg]


def test_layers_of_a_network_at_their_shapes() -> None:
    setting = vision.SETTINGS["segresnet16"]
    found = conv_forms.layers(setting, argparse.Namespace(tiny=False))
    assert sum(found.values()) == 28
    top = (16, 16, (3, 3, 3), (1, 1, 1), (1, 1, 1), False)
    assert found[top, (2, 16, 96, 96, 96)] == 4
    assert isinstance(conv_forms.build(top), nn.Conv3d)
