"""Bases from elsewhere: each published layout as a synthetic file, bundles, and hostile files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_medseg.app import main
from graftwork_medseg.files import CHECKPOINT
from graftwork_medseg.images.contract import Contract, Intensity
from graftwork_medseg.module import Segmenter
from graftwork_medseg.networks import network
from graftwork_medseg.networks.bases import load_base, shipped
from graftwork_medseg.networks.network import NetworkConfig
from graftwork_medseg.networks.safe_load import safe_load
from tests.medseg.kit import FIT, Bomb, options, same

UNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}
SWIN = {"in_channels": 1, "out_channels": 3, "feature_size": 12, "depths": [1, 1, 1, 1]}


def unet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return network.build(NetworkConfig("UNet", UNET))


@pytest.fixture(scope="module")
def swin() -> nn.Module:
    torch.manual_seed(0)
    return network.build(NetworkConfig("SwinUNETR", SWIN)).eval()


# -- by name


def test_shipped_checkpoints_go_by_name_and_files_by_path() -> None:
    assert "mni152-sim-base" in shipped()
    by_name = load_base("mni152-sim-base")
    assert same(by_name.model, load_base(None).model)
    assert same(by_name.model, load_base(str(CHECKPOINT)).model)
    with pytest.raises(GraftError, match=r"no shipped checkpoint of that name: mni152-sim-base"):
        load_base("mni152-sim-bass")


def test_what_is_no_base_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="neither a MONAI bundle"):
        load_base(str(tmp_path))
    (tmp_path / "model.ts").write_bytes(b"x")
    with pytest.raises(GraftError, match=r"a \.ts file is a program"):
        load_base(str(tmp_path / "model.ts"))
    torch.save(unet().state_dict(), tmp_path / "w.pt")
    with pytest.raises(GraftError, match=r"set model\.network\.name and model\.network\.args"):
        load_base(str(tmp_path / "w.pt"))


# -- bundles


def bundle(
    folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None] | None = None
) -> Path:
    """A bundle as MONAI's model zoo lays it out (spleen_ct_segmentation), with a tiny network."""
    inference: dict[str, Any] = {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "UNet", **UNET},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
                {
                    "_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164,
                    "b_min": 0, "b_max": 1, "clip": True,
                },
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
        },
    }  # fmt: skip
    metadata: dict[str, Any] = {
        "version": "0.5.3",
        "network_data_format": {
            "inputs": {
                "image": {
                    "modality": "CT",
                    "num_channels": 1,
                    "spatial_shape": [96, 96, 64],
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen", "2": "cyst"}}},
        },
    }
    if change is not None:
        change(inference, metadata)
    for name, content in (("inference", inference), ("metadata", metadata)):
        file = folder / "configs" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    (folder / "models").mkdir()
    torch.save(unet().state_dict(), folder / "models" / "model.pt")
    return folder


def test_a_bundle_is_read_without_running_it(tmp_path: Path) -> None:
    found = load_base(str(bundle(tmp_path / "spleen")))
    assert same(found.model, unet()) and found.classes == ("background", "spleen", "cyst")
    assert found.contract == Contract(
        found.classes,
        ("CT",),
        (1.5, 1.5, 2.0),
        Intensity("window", -57, 164),
        "RAS",
        (96, 96, 64),
    )
    assert Segmenter(base=str(tmp_path / "spleen")).windows.roi == (96, 96, 64)


def put(*way: Any, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Set a field of inference.json; Ellipsis deletes it."""

    def change(inference: dict[str, Any], _: dict[str, Any]) -> None:
        item: Any = inference
        for key in way[:-1]:
            item = item[key]
        if value is ...:
            del item[way[-1]]
        else:
            item[way[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("network_def", "in_channels", value="$1"), r"in_channels is an expression, '\$1'"),
        (put("network_def", "channels", value=[4, "$8"]), r"channels\[1\] is an expression"),
        (put("network_def", "in_channels", value="@n"), "in_channels is a reference"),
        (put("network_def", "act", value={"_target_": "os.system"}), "builds 'os.system'"),
        (put("network_def", "_target_", value="os.system"), "'os.system' is not a class of monai"),
        (put("network_def", "_target_", value="scripts.net.UNet"), "'scripts.net.UNet' is not"),
        (put("network_def", "_target_", value="$UNet"), "is not a class of monai"),
        (put("network_def", "_requires_", value="$print(1)"), "_requires_ steers how code is run"),
        (put("network_def", value="$make()"), "None is not a class"),
        (put("network_def", value=...), "None is not a class"),
        (put("network_def", "spatial_dims", value=7), "network.args do not fit UNet"),
        (
            put("postprocessing", "transforms", 0, "sigmoid", value=True),
            "takes a sigmoid, so its outputs overlap",
        ),
    ],
)  # fmt: skip
def test_code_in_a_bundle_is_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(GraftError, match=message) as caught:
        load_base(str(bundle(tmp_path / "b", change)))
    assert str(tmp_path / "b") in str(caught.value) or "network.args" in message


STEPS = ("preprocessing", "transforms")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(*STEPS, 3, value={"_target_": "CropForegroundd"}), "has the step CropForeground"),
        (put(*STEPS, 3, "pixdim", value="$[1,1,1]"), "has Spacing with pixdim is an expression"),
        (put(*STEPS, 4, "b_max", value=255), "scales intensities to other bounds"),
        (put(*STEPS, 1, value={"_target_": "Spacingd", "pixdim": [1, 1, 1]}), "Orientation"),
        (put("preprocessing", value="$compose()"), "is not a list of transforms"),
    ],
)  # fmt: skip
def test_preprocessing_that_has_no_form_must_be_given(
    tmp_path: Path, change: Any, reason: str
) -> None:
    found = load_base(str(bundle(tmp_path / "b", change)))
    assert found.contract is None and reason in found.meta["unread"]
    source = Segmenter(base=str(tmp_path / "b")).source
    assert source.startswith(str(tmp_path / "b")) and reason in source


def test_normalisation_of_a_bundle(tmp_path: Path) -> None:
    step = {"_target_": "NormalizeIntensityd", "nonzero": True, "channel_wise": True}
    found = load_base(str(bundle(tmp_path / "b", put(*STEPS, 4, value=step))))
    assert found.contract is not None and found.contract.rules == (Intensity("nonzero"),)


def test_a_bundle_without_weights_or_with_a_program(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b")
    (folder / "models" / "model.pt").rename(folder / "models" / "model.ts")
    with pytest.raises(
        GraftError, match=r"model\.pt: no such .*model\.ts is a TorchScript program"
    ):
        load_base(str(folder))


# -- published state dicts


def layout(name: str, model: nn.Module) -> dict[str, Any]:
    """The weights of a Swin UNETR as `name` publishes them."""
    own = model.state_dict()
    body = {k: t for k, t in own.items() if not k.startswith("out.")}
    if name == "BTCV":
        return {"epoch": 4999, "best_acc": 0.8, "state_dict": own}
    if name == "FSEFT":
        head = {f"classifier.{k.rpartition('.')[2]}": own[k] for k in own if k.startswith("out.")}
        return {"epoch": 10, "net": {f"module.{k}": t for k, t in (body | head).items()}}
    head = {"organ_embedding": torch.zeros(3, 512), "text_to_vision.weight": torch.zeros(4, 5)}
    head |= {"controller.weight": torch.ones(2), "precls_conv.0.weight": torch.ones(2)}
    head |= {"GAP.0.weight": torch.ones(2), "backbone.out.conv.conv.bias": torch.ones(3)}
    net = {f"module.{k}": t for k, t in head.items()}
    net |= {f"module.backbone.{k}": t for k, t in body.items()}
    return {"net": net, "optimizer": {"lr": np.float64(1e-4)}, "scheduler": {}, "epoch": 800}


@pytest.mark.parametrize("name", ["BTCV", "SuPreM", "FSEFT"])
def test_published_layouts_of_swin_unetr(name: str, swin: nn.Module, tmp_path: Path) -> None:
    torch.save(layout(name, swin), tmp_path / "w.pth")
    # `img_size` was an argument when these were published.
    config = NetworkConfig("SwinUNETR", {"img_size": [96, 96, 96], **SWIN})
    found = load_base(str(tmp_path / "w.pth"), config)
    assert found.contract is None and found.classes == ()
    if name == "BTCV":
        assert found.head is None and same(found.model, swin)
        x = torch.randn(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(found.model(x), swin(x))
    else:
        assert found.head == "out.conv.conv" and same(found.model, swin, "out.")
        assert not any(p.any() for p in found.model.get_submodule(found.head).parameters())


def test_safetensors_and_bare_tensors_work_alike(tmp_path: Path) -> None:
    save_file(unet().state_dict(), tmp_path / "w.safetensors")
    torch.save({f"module.{k}": t for k, t in unet().state_dict().items()}, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        assert same(load_base(str(tmp_path / name), NetworkConfig("UNet", UNET)).model, unet())


def test_loading_is_strict_and_lists_all_differences(tmp_path: Path) -> None:
    tensors = unet().state_dict()
    gone = next(iter(tensors))
    del tensors[gone]
    torch.save({"state_dict": {**tensors, "extra": torch.zeros(1)}}, tmp_path / "w.pt")
    with pytest.raises(GraftError) as caught:
        load_base(str(tmp_path / "w.pt"), NetworkConfig("UNet", UNET))
    assert f"missing: {gone}" in str(caught.value) and "unexpected: extra" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"net": {"module.backbone.a": torch.ones(1), "module.b": torch.ones(1)}}, "it holds b; what"),
        ({"network_weights": {}}, "a checkpoint of nnU-Net; give its results folder"),
        ({"epoch": 3, "weights": 4}, "holds no tensors by name.*epoch, weights"),
        ([1, 2], "but: list"),
    ],
)  # fmt: skip
def test_unknown_layouts_are_named(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(GraftError, match=message):
        load_base(str(tmp_path / "w.pt"), NetworkConfig("UNet", UNET))


def test_a_plain_head_that_does_not_fit_is_refused_not_dropped(tmp_path: Path) -> None:
    torch.save(unet().state_dict(), tmp_path / "w.pt")
    with pytest.raises(GraftError, match=r"last convolution .* set network\.args\.out_channels"):
        load_base(str(tmp_path / "w.pt"), NetworkConfig("UNet", {**UNET, "out_channels": 5}))


# -- hostile files


@pytest.mark.parametrize("place", ["top", "beside", "optimizer"])
def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path, place: str) -> None:
    marker = tmp_path / "ran"
    bomb = Bomb(marker)
    pickle.loads(pickle.dumps(bomb))  # it works where nobody looks
    marker.rmdir()
    tensors = unet().state_dict()
    content = {
        "top": bomb,
        "beside": {"state_dict": tensors, "x": bomb},
        "optimizer": {"state_dict": tensors, "optimizer": {"state": [1, [bomb]]}},
    }[place]
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(GraftError, match=r"refused, nothing in it was run: .*\.mkdir") as caught:
        load_base(str(tmp_path / "w.pt"), NetworkConfig("UNet", UNET))
    assert not marker.exists() and str(tmp_path / "w.pt") in str(caught.value)


def test_other_pickles_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(unet(), tmp_path / "model.pt")  # a whole module
    with pytest.raises(GraftError, match=r"its pickle names .*UNet"):
        safe_load(tmp_path / "model.pt")
    torch.save({"a": np.zeros(3)}, tmp_path / "array.pt")
    with pytest.raises(GraftError, match=r"numpy\._core\.multiarray\._reconstruct"):
        safe_load(tmp_path / "array.pt")
    marker = tmp_path / "ran"
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(GraftError, match=r"not a checkpoint of torch\.save"):
        safe_load(tmp_path / "raw.pt")
    assert not marker.exists()
    whole = (tmp_path / "array.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GraftError, match=r"cut\.pt: not a checkpoint"):
        safe_load(tmp_path / "cut.pt")


def test_the_reader_itself_runs_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the list of names ever empty by mistake, reading still refuses."""
    monkeypatch.setattr(torch.serialization, "get_unsafe_globals_in_checkpoint", lambda _: [])
    torch.save({"x": Bomb(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(GraftError, match="a damaged checkpoint: Weights only load failed"):
        safe_load(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


def test_numpy_numbers_are_read(tmp_path: Path) -> None:
    torch.save({"a": np.float64(0.25), "b": np.float32(3), "c": np.int64(7)}, tmp_path / "n.pt")
    assert safe_load(tmp_path / "n.pt") == {"a": 0.25, "b": 3.0, "c": 7}


# -- through the command line


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_base_without_head_or_contract_trains_and_predicts(
    make_folder: Callable[..., Path], swin: nn.Module, elsewhere: None, capsys: Any
) -> None:
    torch.save(layout("FSEFT", swin), "fseft.pth")
    folder = make_folder(cases=2)
    given = ["--base=fseft.pth", "--model.network.name=SwinUNETR"]
    given += [f"--model.network.args={json.dumps(SWIN)}", "--model.roi=[64,32,32]"]
    assert main(["fit", *options(folder, "x", *given, *FIT)]) == 2
    assert "fseft.pth: states no preprocessing; give data.spacing and data.intensity" in (
        capsys.readouterr().err
    )
    stated = ["--data.spacing=3.0", '--data.intensity={"rule": "window", "low": -1.0, "high": 3.0}']
    few = ["--graft=graftwork.BitFit", "--data.roi=[64,32,32]", "--data.batch_size=1"]
    assert main(["fit", *options(folder, "a", *given, *FIT, *stated, *few)]) == 0
    kinds = {i["name"]: i["kind"] for i in gw.inspect("a/graft")["graft"]["also_train"]}
    assert kinds == {"out.conv.conv": "module"}
    assert main(["predict", *options(folder, "p", *given, "--adapter=a/graft")]) == 0
    assert Path("p/predictions").is_dir()
