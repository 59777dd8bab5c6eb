"""nnU-Net v2 results folders (TotalSegmentator's too), read without nnU-Net and without running anything.

    FOLDER/dataset.json plans.json dataset_fingerprint.json fold_0/checkpoint_final.pth

The network is built by the package `dynamic-network-architectures`, from the plans' literal arguments; its
class must be PlainConvUNet or ResidualEncoderUNet. The contract is what the plans say nnU-Net does to an
image (Isensee et al., Nature Methods 2021). nnU-Net's arrays have the file's axes reversed (k, j, i), then
permuted by `transpose_forward`; spacing and patch size are given in that order. Two departures: resampling
is linear, nnU-Net's is cubic; and the whole image is predicted, where nnU-Net leaves out what lies outside
the box around the nonzero voxels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from graftwork.errors import GraftError

from ..files import read_json
from ..images.contract import Contract, Intensity, Ranges
from .network import NetworkConfig, Pretrained, load_weights
from .safe_load import safe_load

NEEDED = "a results folder of nnU-Net v2 has it"
# What a plan may name, and what it stands for.
_PARTS: dict[str, type[nn.Module] | None] = {
    "torch.nn.modules.conv.Conv3d": nn.Conv3d,
    "torch.nn.modules.instancenorm.InstanceNorm3d": nn.InstanceNorm3d,
    "torch.nn.modules.batchnorm.BatchNorm3d": nn.BatchNorm3d,
    "torch.nn.modules.dropout.Dropout3d": nn.Dropout3d,
    "torch.nn.LeakyReLU": nn.LeakyReLU,
    "torch.nn.modules.activation.LeakyReLU": nn.LeakyReLU,
    "torch.nn.ReLU": nn.ReLU,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
}
_MODULES = ("conv_op", "norm_op", "dropout_op", "nonlin")
_COMMON = {
    *_MODULES,
    *("norm_op_kwargs", "dropout_op_kwargs", "nonlin_kwargs", "n_stages", "features_per_stage"),
    *("kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_bias"),
}
_ARGS = {
    "PlainConvUNet": _COMMON | {"n_conv_per_stage"},
    "ResidualEncoderUNet": _COMMON | {"n_blocks_per_stage"},
}


def is_results(folder: Path) -> bool:
    """Whether a folder is a results folder of nnU-Net v2, or one of its folds."""
    return any((f / "plans.json").is_file() for f in (folder, folder.parent))


def read(folder: Path) -> Pretrained:
    """The network of a results folder with the weights of one fold: `fold_0`, or the fold that is given.

    The outputs of lower resolutions serve training alone and are left out.

    Raises:
        GraftError: a missing, damaged or unsafe file; a network, labels or inputs that have no form here; or
            weights that do not fit.
    """
    folder, fold = (folder.parent, folder) if folder.name.startswith("fold_") else (folder, None)
    plans, dataset = (read_json(folder / f"{name}.json", NEEDED) for name in ("plans", "dataset"))
    file = _checkpoint(fold or _first_fold(folder))
    checkpoint = safe_load(file)
    try:
        tensors: dict[str, Tensor] = dict(checkpoint["network_weights"])
        name = str(checkpoint["init_args"]["configuration"])
    except (KeyError, TypeError) as error:
        raise GraftError(f"{file}: not a checkpoint of nnU-Net v2: {error} is missing") from None
    try:
        plan = _configuration(plans, name)
        classes, channels = _classes(dataset, folder), _channels(dataset)
        config = _network(plan, len(channels), len(classes), f"{folder / 'plans.json'}: {name}")
        if all(key.startswith("module.") for key in tensors):
            tensors = {key.removeprefix("module."): t for key, t in tensors.items()}
        model = build(config.name, config.args)
        load_weights(model, _used(tensors, model), file)
        contract, unread = _contract(plans, plan, dataset, folder, channels, classes)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise GraftError(f"{folder}: plans.json or dataset.json is damaged: {error!r}") from error
    meta = {"nnunet": str(plans.get("dataset_name", "")), **({"unread": unread} if unread else {})}
    return Pretrained(model.eval(), config, classes, meta, contract)


def build(name: str, args: dict[str, Any]) -> nn.Module:
    """One of nnU-Net's U-Nets, without its outputs of lower resolution.

    Args:
        name: PlainConvUNet or ResidualEncoderUNet.
        args: `arch_kwargs` of a plan, literal, with `in_channels` and `out_channels`.

    Raises:
        GraftError: the package is missing, or the arguments are not such.
    """
    try:
        from dynamic_network_architectures.architectures import unet
    except ImportError as error:
        raise GraftError(
            "nnU-Net's networks need the package dynamic-network-architectures: "
            "pip install 'graftwork-medseg[nnunet]'"
        ) from error
    given = dict(args)
    try:
        inputs, outputs = given.pop("in_channels"), given.pop("out_channels")
        unknown = sorted(given.keys() - _ARGS[name])
        if unknown:
            raise GraftError(f"network.args: {name} takes no {unknown[0]!r} here")
        for part in _MODULES:
            if given.get(part) is not None:
                given[part] = _PARTS[given[part]]
        model: nn.Module = getattr(unet, name)(
            input_channels=inputs, num_classes=outputs, deep_supervision=False, **given
        )
    except KeyError as error:
        raise GraftError(f"network.args: {error} is missing or not allowed in {name}") from None
    except (TypeError, ValueError, AssertionError, IndexError, AttributeError) as error:
        raise GraftError(f"network.args do not fit {name}: {error}") from error
    decoder: Any = model.decoder
    decoder.seg_layers = nn.ModuleList(
        [*(nn.Identity() for _ in decoder.seg_layers[:-1]), decoder.seg_layers[-1]]
    )
    decoder.encoder = None  # a second name for the encoder, which its forward does not use
    return model


def _used(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    decoder: Any = model.decoder
    unused = tuple(f"decoder.seg_layers.{i}." for i in range(len(decoder.seg_layers) - 1))
    return {k: t for k, t in tensors.items() if not k.startswith(("decoder.encoder.", *unused))}


def _first_fold(folder: Path) -> Path:
    folds = sorted(p for p in folder.glob("fold_*") if p.is_dir())
    if not folds:
        raise GraftError(f"{folder}: has no fold_0 with a checkpoint")
    return folds[0]


def _checkpoint(fold: Path) -> Path:
    for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
        if (fold / name).is_file():
            return fold / name
    raise GraftError(f"{fold}: has no checkpoint_final.pth and no checkpoint_best.pth")


def _configuration(plans: dict[str, Any], name: str) -> dict[str, Any]:
    """A configuration of the plans with what it inherits."""
    seen: list[str] = []
    plan: dict[str, Any] = {}
    following: Any = name
    while following is not None:
        if following in seen or following not in plans["configurations"]:
            raise GraftError(
                f"plans.json: configuration {following!r} is missing or inherits itself"
            )
        seen.append(following)
        own = dict(plans["configurations"][following])
        following = own.pop("inherits_from", None)
        plan = {**own, **plan}
    if plan.get("previous_stage") is not None or plan.get("previous_stage_name") is not None:
        raise GraftError(
            f"plans.json: configuration {name!r} is a cascade that takes another network's result as input; "
            "give its first stage, 3d_lowres, or a 3d_fullres"
        )
    if len(plan["patch_size"]) != 3:
        raise GraftError(
            f"plans.json: configuration {name!r} is not 3D; give a 3d_fullres or 3d_lowres"
        )
    return plan


def _classes(dataset: dict[str, Any], folder: Path) -> tuple[str, ...]:
    labels = {k: v for k, v in dataset["labels"].items() if k != "ignore"}
    if any(not isinstance(v, int) for v in labels.values()):
        raise GraftError(
            f"{folder / 'dataset.json'}: field 'labels' holds regions, which overlap; only networks whose "
            "classes exclude each other can be grafted here"
        )
    by_value = {v: k for k, v in labels.items()}
    if sorted(by_value) != list(range(len(labels))):
        raise GraftError(
            f"{folder / 'dataset.json'}: field 'labels' must number 0 to {len(labels) - 1}"
        )
    return tuple(by_value[i] for i in range(len(by_value)))


def _channels(dataset: dict[str, Any]) -> tuple[str, ...]:
    names = dataset.get("channel_names") or dataset["modality"]
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _network(plan: dict[str, Any], inputs: int, outputs: int, where: str) -> NetworkConfig:
    if "architecture" in plan:
        target, args = (
            plan["architecture"]["network_class_name"],
            plan["architecture"]["arch_kwargs"],
        )
    else:
        target, args = plan["UNet_class_name"], _old_plan(plan)
    package, _, name = str(target).rpartition(".")
    if name not in _ARGS or not (
        package == "" or package.startswith("dynamic_network_architectures.")
    ):
        raise GraftError(f"{where}: network {target!r} is not one of {', '.join(_ARGS)}")
    args = dict(args)
    for part in _MODULES:
        if args.get(part) is not None and args[part] not in _PARTS:
            raise GraftError(f"{where}: {part} {args[part]!r} is not one of {', '.join(_PARTS)}")
    return NetworkConfig(name, {"in_channels": inputs, "out_channels": outputs, **args})


def _old_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """Network arguments of plans from before nnU-Net 2.3, which named a few numbers instead."""
    convolutions = plan["n_conv_per_stage_encoder"]
    blocks = (
        "n_blocks_per_stage" if plan["UNet_class_name"] != "PlainConvUNet" else "n_conv_per_stage"
    )
    first, most = plan["UNet_base_num_features"], plan["unet_max_num_features"]
    return {
        "n_stages": len(convolutions),
        "features_per_stage": [min(first * 2**i, most) for i in range(len(convolutions))],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": plan["conv_kernel_sizes"],
        "strides": plan["pool_op_kernel_sizes"],
        blocks: convolutions,
        "n_conv_per_stage_decoder": plan["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def _contract(
    plans: dict[str, Any],
    plan: dict[str, Any],
    dataset: dict[str, Any],
    folder: Path,
    channels: tuple[str, ...],
    classes: tuple[str, ...],
) -> tuple[Contract | None, str]:
    """The contract, or None and why there is none."""
    turn = [int(axis) for axis in plans["transpose_forward"]]
    # TotalSegmentator turns every image to RAS before nnU-Net sees it, and so does one of the readers.
    reader = plans.get("image_reader_writer") or dataset.get("overwrite_image_reader_writer")
    anatomical = reader == "NibabelIOWithReorient" or "TotalSegmentator" in str(
        plans.get("dataset_name")
    )
    order = "SAR" if anatomical else "kji"
    rules = []
    for i, scheme in enumerate(plan["normalization_schemes"]):
        if scheme == "CTNormalization":
            seen = plans["foreground_intensity_properties_per_channel"][str(i)]
            numbers = [
                float(seen[k]) for k in ("percentile_00_5", "percentile_99_5", "mean", "std")
            ]
            rules.append(Intensity("ct", *numbers))
        elif scheme == "ZScoreNormalization":
            rules.append(Intensity("zscore", mask=bool(plan["use_mask_for_norm"][i])))
        elif scheme == "NoNormalization":
            rules.append(Intensity("none"))
        else:
            return None, f"its normalisation {scheme} has no form here"
    spacing = [float(s) for s in plan["spacing"]]
    return (
        Contract(
            classes=classes,
            channels=channels,
            spacing=(spacing[0], spacing[1], spacing[2]),
            intensity=tuple(rules),
            orientation="".join(order[axis] for axis in turn),
            patch=tuple(plan["patch_size"]),
            ranges=_ranges(folder / "dataset_fingerprint.json", turn),
        ),
        "",
    )


def _ranges(file: Path, turn: list[int]) -> Ranges | None:
    """Spacings and extents of the training images, on the working axes; None without a fingerprint.

    Extents are known only where cropping to nonzero took nothing away, for the fingerprint has no others.
    Its intensities are those of the foreground alone and do not describe whole images.
    """
    if not file.is_file():
        return None
    seen = read_json(file, NEEDED)
    rows = [[float(s[axis]) for axis in turn] for s in seen["spacings"]]
    sizes = [[int(n[axis]) for axis in turn] for n in seen["shapes_after_crop"]]
    extents = [
        [n * s for n, s in zip(*pair, strict=True)] for pair in zip(sizes, rows, strict=True)
    ]
    whole = float(seen.get("median_relative_size_after_cropping", 0)) > 0.99
    return Ranges(_spans(rows), _spans(extents) if whole else None)


def _spans(rows: list[list[float]]) -> Any:
    return tuple((min(column), max(column)) for column in zip(*rows, strict=True))
