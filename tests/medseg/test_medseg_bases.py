"""Bases from elsewhere: each published layout as a synthetic file, nnU-Net's own folder, and hostile ones."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_medseg import network, nnunet, prepare, tasks
from graftwork_medseg.app import main
from graftwork_medseg.bases import load_base, shipped
from graftwork_medseg.contract import Contract, Intensity
from graftwork_medseg.module import Segmenter
from graftwork_medseg.network import NetworkConfig, find_head
from graftwork_medseg.safe_load import safe_load

TINY = Path(__file__).parent / "data" / "nnunet_tiny"
UNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}
SWIN = {"in_channels": 1, "out_channels": 3, "feature_size": 12, "depths": [1, 1, 1, 1]}
needs_nnunet = pytest.mark.skipif(
    importlib.util.find_spec("dynamic_network_architectures") is None,
    reason="dynamic-network-architectures (the extra graftwork-medseg[nnunet]) is not installed",
)


def unet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return network.build(NetworkConfig("UNet", UNET))


@pytest.fixture(scope="module")
def swin() -> nn.Module:
    torch.manual_seed(0)
    return network.build(NetworkConfig("SwinUNETR", SWIN)).eval()


def same(model: nn.Module, other: nn.Module, but: str = "nothing") -> bool:
    """Whether two networks hold the same tensors, but for names that begin with `but`."""
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(
        torch.equal(t, b[k]) for k, t in a.items() if not k.startswith(but)
    )


# -- by name


def test_shipped_checkpoints_go_by_name_and_files_by_path() -> None:
    assert "mni152-sim-base" in shipped()
    by_name = load_base("mni152-sim-base")
    assert same(by_name.model, load_base(None).model)
    assert same(by_name.model, load_base(str(network.CHECKPOINT)).model)
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
    assert Segmenter(base=str(tmp_path / "spleen")).window.roi_size == (96, 96, 64)


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


class Bomb:
    """Pickles to a call that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


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


def test_numpy_numbers_are_read(tmp_path: Path) -> None:
    torch.save({"a": np.float64(0.25), "b": np.float32(3), "c": np.int64(7)}, tmp_path / "n.pt")
    assert safe_load(tmp_path / "n.pt") == {"a": 0.25, "b": 3.0, "c": 7}


# -- nnU-Net


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"))


@needs_nnunet
def test_nnunets_own_folder_gives_nnunets_own_logits() -> None:
    """The folder and `expected.npz` were written by nnunetv2 itself, see its make.py."""
    expected = np.load(TINY / "expected.npz")
    for folder in (TINY, TINY / "fold_0"):
        found = load_base(str(folder))
        x = torch.randn(1, 2, 16, 16, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert np.abs(found.model(x).numpy() - expected["logits"]).max() < 1e-5
        assert found.classes == ("background", "shell", "core")


@needs_nnunet
@pytest.mark.parametrize(("key", "mask"), [("prepared", False), ("masked", True)])
def test_images_become_what_nnunet_makes_of_them(key: str, mask: bool) -> None:
    """Axes, CT and z-score normalisation against nnU-Net's own preprocessor, at the plan's spacing."""
    expected = np.load(TINY / "expected.npz")
    contract = load_base(str(TINY)).contract
    assert contract is not None
    ct, mr = contract.rules
    contract = replace(contract, intensity=(ct, replace(mr, mask=mask)))
    channels = [expected[name].astype(np.float32) for name in ("ct", "mr")]
    image, placement, _ = prepare.prepare(channels, expected["affine"], contract)
    assert tuple(image.shape[1:]) == placement.turned_shape
    box = tuple(slice(low, high) for low, high in expected["box"])
    assert np.abs(image.numpy()[(slice(None), *box)] - expected[key]).max() < 1e-5


@needs_nnunet
def test_the_contract_of_nnunets_plans() -> None:
    contract = load_base(str(TINY)).contract
    assert contract is not None and contract.channels == ("CT", "T1")
    # transpose_forward is [2, 0, 1]: the coarse axis first, which is the file's first.
    assert contract.orientation == "ikj" and contract.patch == (16, 16, 8)
    assert contract.spacing == pytest.approx((3.0, 1.2, 1.0))
    assert [rule.rule for rule in contract.rules] == ["ct", "zscore"]
    assert contract.ranges is not None and contract.ranges.percentiles == ()
    assert contract.ranges.spacing[0] == pytest.approx((2.85, 3.15))
    assert contract.ranges.extent[1] == pytest.approx((32 * 1.14, 32 * 1.26))


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / f"{name}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def to_old_plans(plans: dict[str, Any]) -> None:
    """Plans as nnU-Net 2.0 to 2.2 wrote them."""
    plan = plans["configurations"]["3d_fullres"]
    arch = plan.pop("architecture")["arch_kwargs"]
    plan |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": arch["n_conv_per_stage"],
        "n_conv_per_stage_decoder": arch["n_conv_per_stage_decoder"],
        "conv_kernel_sizes": arch["kernel_sizes"],
        "pool_op_kernel_sizes": arch["strides"],
    }


@needs_nnunet
def test_plans_of_older_versions_and_inherited_ones(tiny: Path) -> None:
    def inherit(plans: dict[str, Any]) -> None:
        inner = plans["configurations"]["3d_fullres"]
        plans["configurations"]["parent"] = inner
        plans["configurations"]["3d_fullres"] = {"inherits_from": "parent", "batch_size": 3}

    new = load_base(str(TINY))
    edit(tiny, "plans", inherit)
    assert same(load_base(str(tiny)).model, new.model)
    shutil.copy(TINY / "plans.json", tiny)
    edit(tiny, "plans", to_old_plans)
    with pytest.raises(GraftError, match=r"shape: encoder\.stages\.2"):
        load_base(str(tiny))  # 4, 6, 6 features by these plans; 4, 6, 8 in the file
    plans = json.loads((tiny / "plans.json").read_text())
    args = nnunet._old_plan(plans["configurations"]["3d_fullres"])
    assert args["features_per_stage"] == [4, 6, 6]
    want = {k: v for k, v in new.config.args.items() if k not in ("in_channels", "out_channels")}
    assert {**args, "features_per_stage": [4, 6, 8]} == want


@needs_nnunet
def test_totalsegmentator_turns_images_to_ras_first(tiny: Path) -> None:
    edit(tiny, "plans", lambda p: p.update(dataset_name="Dataset297_TotalSegmentator_total_3mm"))
    contract = load_base(str(tiny)).contract
    assert contract is not None and contract.orientation == "RSA"


def configured(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda plans: plans["configurations"]["3d_fullres"].update({field: value})


def arch(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(plans: dict[str, Any]) -> None:
        plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"][field] = value

    return change


def network_class(name: str) -> Callable[[dict[str, Any]], None]:
    def change(plans: dict[str, Any]) -> None:
        plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = name

    return change


@needs_nnunet
@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("plans", network_class("os.system"), "network 'os.system' is not one of PlainConvUNet"),
        ("plans", network_class("evil.PlainConvUNet"), "'evil.PlainConvUNet' is not one of"),
        ("plans", arch("conv_op", "os.system"), "conv_op 'os.system' is not one of"),
        ("plans", arch("block", "x"), "PlainConvUNet takes no 'block'"),
        ("plans", arch("n_stages", 5), "network.args do not fit PlainConvUNet"),
        ("plans", arch("features_per_stage", [4, 6, 9]), "shape: encoder.stages.2"),
        ("plans", configured("previous_stage", "3d_lowres"), "is a cascade"),
        ("plans", configured("patch_size", [8, 8]), "is not 3D"),
        ("plans", lambda p: p["configurations"].pop("3d_fullres"), "'3d_fullres' is missing"),
        ("plans", lambda p: p.pop("transpose_forward"), "damaged.*transpose_forward"),
        ("dataset", lambda d: d["labels"].update(all=[1, 2]), "holds regions"),
        ("dataset", lambda d: d["labels"].update(core=7), "must number 0 to 2"),
        ("dataset", lambda d: d["labels"].update(more=3), "shape: decoder.seg_layers.1"),
    ],
)  # fmt: skip
def test_what_has_no_form_here_is_refused_by_name(
    tiny: Path, file: str, change: Any, message: str
) -> None:
    edit(tiny, file, change)
    with pytest.raises(GraftError, match=message):
        load_base(str(tiny))


@needs_nnunet
def test_a_hostile_fold_runs_nothing(tiny: Path, tmp_path: Path) -> None:
    file = tiny / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    torch.save({**content, "logging": Bomb(tmp_path / "ran")}, file)
    with pytest.raises(GraftError, match=r"checkpoint_final\.pth: refused, nothing in it was run"):
        load_base(str(tiny))
    assert not (tmp_path / "ran").exists()
    file.unlink()
    with pytest.raises(GraftError, match=r"has no checkpoint_final\.pth"):
        load_base(str(tiny))


@needs_nnunet
def test_other_normalisations_must_be_given(tiny: Path) -> None:
    edit(tiny, "plans", configured("normalization_schemes", ["CTNormalization", "Rescale"]))
    found = load_base(str(tiny))
    assert found.contract is None and "Rescale has no form here" in found.meta["unread"]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dynamic_network_architectures", "dynamic_network_architectures.architectures"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(GraftError, match=r"pip install 'graftwork-medseg\[nnunet\]'"):
        load_base(str(TINY))


@needs_nnunet
def test_every_layer_of_nnunets_network_is_reached_and_merges(tmp_path: Path) -> None:
    model = Segmenter(base=str(TINY))
    assert model.head == find_head(model.network) == "decoder.seg_layers.1"
    graft = gw.graft(model.network, gw.LoRA(2), also_train=[gw.NewRows(model.head, 1)])
    gw.check_reach(model.network, torch.randn(1, 2, 16, 16, 8))
    with torch.no_grad():
        for i, p in enumerate(graft.parameters()):
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    model.classes = (*model.classes, "lesion")
    assert tasks.export_merged(model, graft, tmp_path / "m.safetensors") < 1e-5
    again = load_base(str(tmp_path / "m.safetensors"))
    assert again.classes == model.classes and again.contract == model.contract


# -- through the command line


def write_two_channels(folder: Path, cases: int = 2) -> Path:
    """A folder in nnU-Net's layout whose images are unlike its network's grid: flipped, permuted axes."""
    matrix = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.2], [3.0, 0.0, 0.0]])
    affine = nib.affines.from_matvec(matrix, [3, 4, 5])
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for i in range(cases):
        label = np.zeros((12, 20, 18), np.uint8)
        label[3:9, 5:15, 4:13] = 1
        label[5:7, 8:12, 7:10] = 2
        for c in range(2):
            image = (100.0 * label + rng.normal(0, 20, label.shape)).astype(np.float32)
            nib.save(nib.Nifti1Image(image, affine), folder / f"imagesTr/case{i}_{c:04d}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / f"labelsTr/case{i}.nii.gz")
    labels = {"background": 0, "shell": 1, "core": 2}
    meta = {"channel_names": {"0": "CT", "1": "T1"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def options(folder: Path, run: str, *more: str) -> list[str]:
    data = ["--data=graftwork_medseg.data.FolderData", f"--data.path={folder}", "--quiet"]
    return [*data, f"--run_dir={run}", "--trainer.accelerator=cpu", *more]


FIT = ["--trainer.max_epochs=1", "--data.patches_per_epoch=2", "--sites=null", "--also_train=[]"]


@needs_nnunet
def test_a_graft_on_nnunet_predicts_on_the_images_own_grid(tmp_path: Path, elsewhere: None) -> None:
    folder = write_two_channels(tmp_path / "data")
    base = [f"--base={TINY}"]
    assert main(["fit", *options(folder, "a", *base, *FIT, "--data.roi=[8,16,16]")]) == 0
    stated = gw.inspect("a/graft")["app"]["medseg"]["contract"]
    assert stated["orientation"] == "ikj" and stated["spacing"] == pytest.approx([3, 1.2, 1])
    assert main(["predict", *options(folder, "p", *base, "--adapter=a/graft")]) == 0
    mask = nib.load("p/predictions/case0.nii.gz")
    source = nib.load(folder / "imagesTr/case0_0000.nii.gz")
    assert mask.shape == source.shape and mask.affine.tobytes() == source.affine.tobytes()


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
