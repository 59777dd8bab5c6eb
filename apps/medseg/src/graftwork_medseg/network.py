"""Networks by configuration and their weights: any class of `monai.networks.nets`, loaded strictly.

A configuration is JSON: `{"name": "SegResNet", "args": {"spatial_dims": 3, ...}}`. A weights file is
safetensors; one written by medseg carries its configuration and class names in the file's metadata.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from graftwork.errors import GraftError

CHECKPOINT = Path(__file__).parent / "checkpoints" / "mni152-sim-base.safetensors"


@dataclass(frozen=True)
class NetworkConfig:
    """A MONAI network: its class name in `monai.networks.nets` and its keyword arguments."""

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


def build(config: NetworkConfig) -> nn.Module:
    """Build the network of `config`.

    Raises GraftError for a class outside `monai.networks.nets` and for arguments it does not take.
    """
    allowed = networks()
    if config.name not in allowed:
        import difflib

        near = difflib.get_close_matches(config.name, allowed, 3) or sorted(allowed)[:5]
        raise GraftError(
            f"network.name {config.name!r} is not a network of monai.networks.nets: "
            f"did you mean {', '.join(near)}?"
        )
    try:
        return allowed[config.name](**config.args)
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise GraftError(f"network.args do not fit {config.name}: {error}") from error


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
    dtype: torch.dtype | None = None,
    **extra: Any,
) -> Path:
    """Write weights with their configuration, atomically; `dtype` converts floating tensors."""
    from .files import publish

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
    meta = json.dumps({"network": asdict(config), "classes": list(classes), **extra})
    with publish(path) as temporary:
        save_file(tensors, temporary, metadata={"medseg": meta})
    return Path(path)


@dataclass
class Pretrained:
    """A network with weights: `model` in eval mode, its configuration, class names and metadata."""

    model: nn.Module
    config: NetworkConfig
    classes: tuple[str, ...]
    meta: dict[str, Any]


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
    return Pretrained(model.eval(), config, tuple(names), meta)
