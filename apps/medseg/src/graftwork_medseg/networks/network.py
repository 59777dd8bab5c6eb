"""Networks by configuration and their weights: loaded strictly, written with their contract.

A configuration is JSON: `{"name": "SegResNet", "args": {"spatial_dims": 3, ...}}`: a class of
`monai.networks.nets`, or one of nnU-Net's U-Nets (see `nnunet`). A weights file is safetensors; one
written by medseg carries its configuration, class names and preprocessing contract in its metadata.
Weights made elsewhere come in through `bases`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from graftwork.errors import GraftError

from ..files import CHECKPOINT, read_json
from ..images.agree import unstated
from ..images.contract import Contract

NNUNET = ("PlainConvUNet", "ResidualEncoderUNet")  # what `nnunet` builds


@dataclass(frozen=True)
class NetworkConfig:
    """A network: its class name in `monai.networks.nets`, or nnU-Net's, and its keyword arguments."""

    name: str = "SegResNet"
    args: dict[str, Any] = field(default_factory=dict)


BASE_NETWORK = NetworkConfig(
    "SegResNet",
    # "deconv" and not trilinear upsampling: its gradient is deterministic on a GPU.
    {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "init_filters": 8,
        "upsample_mode": "deconv",
    },
)
BASE_HEAD = "conv_final.2.conv"  # the last 1x1x1 convolution of BASE_NETWORK


def networks() -> dict[str, type[nn.Module]]:
    """The allow-list: every network class that `monai.networks.nets` exports."""
    from monai.networks import nets

    found = {name: getattr(nets, name) for name in dir(nets) if name[0].isupper()}
    return {n: c for n, c in found.items() if isinstance(c, type) and issubclass(c, nn.Module)}


# What networks raise at arguments that they do not take; none of them checks all of its own.
_UNFIT = (TypeError, ValueError, AssertionError, LookupError, AttributeError, RuntimeError)


def build(config: NetworkConfig) -> nn.Module:
    """Build the network of `config`.

    Raises GraftError for a class outside the allow-list and for arguments it does not take.
    """
    if config.name in NNUNET:
        from . import nnunet

        return nnunet.build(config.name, config.args)
    allowed = networks()
    if config.name not in allowed:
        import difflib

        near = difflib.get_close_matches(config.name, allowed, 3) or sorted(allowed)[:5]
        raise GraftError(
            f"network.name {config.name!r} is not a network of monai.networks.nets: "
            f"did you mean {', '.join(near)}?"
        )
    try:
        return allowed[config.name](**without_removed(config))
    except _UNFIT as error:
        raise GraftError(f"network.args do not fit {config.name}: {error}") from error


def find_head(network: nn.Module) -> str:
    """Dotted name of the last convolution: where the class scores come from.

    Raises GraftError when the network has none.
    """
    found = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    ]
    if not found:
        raise GraftError(
            f"{type(network).__name__} has no convolution that could give class scores"
        )
    return found[-1]


def without_removed(config: NetworkConfig) -> dict[str, Any]:
    """The arguments of a configuration without those that MONAI took away since it was written.

    `img_size` of SwinUNETR only checked the input's size. MONAI took it away; files and bundles from before
    still name it.
    """
    removed = {"SwinUNETR": {"img_size"}}.get(config.name, set())
    return {name: value for name, value in config.args.items() if name not in removed}


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file and its medseg metadata ({} for a file made elsewhere).

    Raises GraftError when the file is missing, is no safetensors file or holds broken metadata.
    """
    path = Path(path)
    if not path.is_file():
        raise GraftError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("medseg", "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
        meta = json.loads(text)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise GraftError(f"{path}: not a readable safetensors file: {error}") from error
    if not isinstance(meta, dict):
        raise GraftError(f"{path}: metadata 'medseg' must be a JSON object")
    return tensors, meta


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: str | Path) -> None:
    """Copy `tensors` into `model`, converting to its floating type; all or nothing.

    Raises one GraftError that lists every missing, unexpected, wrongly shaped or non-finite tensor.
    """
    own = model.state_dict()
    wrong = [f"missing: {name}" for name in own if name not in tensors]
    wrong += [f"unexpected: {name}" for name in tensors if name not in own]
    for name, value in tensors.items():
        if name not in own:
            continue
        if value.shape != own[name].shape:
            wrong.append(
                f"shape: {name} is {list(value.shape)}, the network has {list(own[name].shape)}"
            )
        elif value.is_floating_point() and not torch.isfinite(value).all():
            wrong.append(f"not finite: {name}")
    if wrong:
        shown = "\n  ".join(
            wrong[:20] + ([f"and {len(wrong) - 20} more"] if len(wrong) > 20 else [])
        )
        raise GraftError(f"{source}: weights do not fit the network:\n  {shown}")
    model.load_state_dict({name: tensors[name].to(own[name].dtype) for name in own})


def save_weights(
    model_or_tensors: nn.Module | dict[str, Tensor],
    path: str | Path,
    *,
    config: NetworkConfig,
    classes: tuple[str, ...] | list[str],
    contract: Contract | None = None,
    dtype: torch.dtype | None = None,
    **extra: Any,
) -> Path:
    """Write weights with their configuration and preprocessing contract, atomically.

    `dtype` converts floating tensors; `extra` joins the metadata as it is.
    """
    from ..files import publish

    tensors = (
        model_or_tensors.state_dict()
        if isinstance(model_or_tensors, nn.Module)
        else model_or_tensors
    )
    tensors = {
        name: (value.to(dtype) if dtype and value.is_floating_point() else value)
        .detach()
        .cpu()
        .contiguous()
        .clone()
        for name, value in tensors.items()
    }
    if contract is not None:
        extra["contract"] = contract.to_json()
    meta = json.dumps({"network": asdict(config), "classes": list(classes), **extra})
    with publish(path) as temporary:
        save_file(tensors, temporary, metadata={"medseg": meta})
    return Path(path)


@dataclass
class Pretrained:
    """A network with weights.

    `model` is in eval mode; `contract` is None when nothing states what the images must become;
    `head` names a last convolution whose weights were left out: it is all zeros and must be trained.
    """

    model: nn.Module
    config: NetworkConfig
    classes: tuple[str, ...]
    meta: dict[str, Any]
    contract: Contract | None = None
    head: str | None = None


def contract_of(path: Path, meta: dict[str, Any]) -> Contract | None:
    """The contract of a weights file: in its metadata, or beside it in NAME.contract.json.

    A file that medseg wrote before there were contracts has neither. It was trained the only way there
    was then: 2 mm, each volume normalised. None for a file that medseg did not write.
    """
    beside = path.with_name(path.name.removesuffix(".safetensors") + ".contract.json")
    if "contract" in meta:
        return Contract.from_json(meta["contract"], str(path))
    if beside.is_file():
        return Contract.from_json(read_json(beside, "a contract"), str(beside))
    if "network" not in meta:
        return None
    inputs = meta["network"].get("args", {}).get("in_channels", 1)
    return replace(unstated(*["image"] * int(inputs)), classes=tuple(meta.get("classes", ())))


def load_pretrained(
    path: str | Path | None = None,
    config: NetworkConfig | None = None,
    classes: tuple[str, ...] | None = None,
) -> Pretrained:
    """The network of `path` (default: the shipped base checkpoint), loaded strictly.

    `config` and `classes` are needed for a file that does not carry them, and override it otherwise.
    Raises GraftError for an unreadable file, a file without configuration, or weights that do not fit.
    """
    path = Path(path or CHECKPOINT)
    tensors, meta = read_weights(path)
    if config is None:
        network = meta.get("network")
        if not isinstance(network, dict) or not isinstance(network.get("name"), str):
            raise GraftError(f"{path}: carries no network configuration: set network.name and args")
        config = NetworkConfig(network["name"], dict(network.get("args", {})))
    model = build(config)
    load_weights(model, tensors, path)
    names = classes or tuple(meta.get("classes", ()))
    return Pretrained(model.eval(), config, tuple(names), meta, contract_of(path, meta))
