"""ONNX export: the merged graft, checked by onnxruntime, or one message."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_medseg.app import main
from graftwork_medseg.images.contract import Contract
from graftwork_medseg.module import Segmenter
from graftwork_medseg.prediction import onnx_export
from graftwork_medseg.prediction.onnx_export import export_onnx

HOW: dict[str, Any] = {
    "roi": (8, 8, 8),
    "channels": 1,
    "classes": ["background", "lesion"],
    "contract": Contract(spacing=2.0),
}


def grafted(network: nn.Module, method: Any = None) -> Any:
    graft = gw.graft(network, method or gw.LoRA(2), sites=["0"])
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in graft.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=draw))
    return graft


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1)
    )


def test_the_file_computes_the_graft_for_any_number_of_windows(tmp_path: Path) -> None:
    network = small()
    graft = grafted(network)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    error = export_onnx(network, graft, tmp_path / "x.onnx", **HOW)
    assert error < 1e-5
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    x = torch.randn(3, 1, 8, 8, 8)
    with torch.inference_mode():
        wanted = network(x).numpy()
        with graft.off():
            base = network(x).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    [found] = session.run(None, {"image": x.numpy()})
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.abs(found - base).max() > 1e-2
    meta = session.get_modelmeta().custom_metadata_map
    assert (
        json.loads(meta["classes"]) == HOW["classes"]
        and json.loads(meta["contract"]) == HOW["contract"].to_json()
    )


def test_a_graft_that_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    network = small()
    with pytest.raises(GraftError, match="merge"):
        export_onnx(network, grafted(network, gw.AdaptFormer(2)), tmp_path / "x.onnx", **HOW)
    assert not list(tmp_path.iterdir())


class Reads(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.sum().item()) > 1e9 else super().forward(x) + 1


def test_a_network_outside_onnx_is_refused_by_name(tmp_path: Path) -> None:
    network = Reads(*small())
    with pytest.raises(GraftError, match="Reads cannot be expressed in ONNX"):
        export_onnx(network, grafted(network), tmp_path / "x.onnx", **HOW)
    assert not list(tmp_path.iterdir())
    assert not network[0].weight.requires_grad and not gw.grafts(network)["default"].merged


def test_a_file_that_computes_something_else_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small()
    graft = grafted(network)
    real = onnx_export._traced

    def wrong(net: nn.Module, x: Tensor) -> Any:
        model = real(net, x)
        for tensor in model.graph.initializer:
            if len(tensor.dims) == 5:
                values = onnx.numpy_helper.to_array(tensor) * 1.1
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return model

    monkeypatch.setattr(onnx_export, "_traced", wrong)
    with pytest.raises(GraftError, match="scores differ from the network's by"):
        export_onnx(network, graft, tmp_path / "x.onnx", **HOW)
    assert not list(tmp_path.iterdir())


def test_the_extra_is_named_when_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small()
    graft = grafted(network)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError(name, name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GraftError, match=r"needs onnxruntime: .*graftwork-medseg\[onnx\]"):
        export_onnx(network, graft, tmp_path / "x.onnx", **HOW)


def test_the_command_exports_the_shipped_base_with_new_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Segmenter()
    rows = gw.NewRows(model.head, 1)
    gw.save(gw.graft(model.network, gw.LoRA(2), sites=["*conv1.conv"], also_train=[rows]), "a")
    options = ["--adapter=a", "--format=onnx", "--output=x.onnx", "--model.roi=[16,16,16]"]
    assert main(["export", *options]) == 0
    assert "onnxruntime's scores differ from the graft's by" in capsys.readouterr().out
    model_file = onnx.load("x.onnx")
    dims = [d.dim_value for d in model_file.graph.output[0].type.tensor_type.shape.dim]
    assert dims[1:] == [4, 16, 16, 16]
    assert main(["export", "--format=onnx"]) == 2
    assert "nothing to export" in capsys.readouterr().err
