"""A results folder that nnU-Net wrote, against what its own code computes, and what is refused of others."""

from __future__ import annotations

import importlib.util
import json
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

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_medseg import tasks
from graftwork_medseg.app import main
from graftwork_medseg.images import prepare
from graftwork_medseg.module import Segmenter
from graftwork_medseg.networks import nnunet
from graftwork_medseg.networks.bases import load_base
from graftwork_medseg.networks.network import find_head
from tests.medseg.kit import FIT, Bomb, options, same

TINY = Path(__file__).parent / "data" / "nnunet_tiny"
needs_nnunet = pytest.mark.skipif(
    importlib.util.find_spec("dynamic_network_architectures") is None,
    reason="dynamic-network-architectures (the extra graftwork-medseg[nnunet]) is not installed",
)


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
