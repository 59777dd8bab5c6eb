"""Weights of a MONAI network in a file without configuration: the layouts in which they were published.

    plain      the tensors, or {"state_dict": tensors}: MONAI's BTCV Swin UNETR, most others
    SuPreM     {"net": tensors}, keys "module.backbone.*" beside a head that is steered by organ embeddings
               (Li et al., ICLR 2024; github.com/MrGiovanni/SuPreM, `Universal_model`)
    FSEFT      {"state_dict" or "net": tensors}, the network's `out` replaced by `classifier`
               (Silva-Rodriguez et al., MedIA 2025; github.com/jusiro/fewshot-finetuning)

"module." (data parallel training) is taken off in each. The network itself must be named by the user.

Which heads are left out: those of SuPreM and FSEFT, whose outputs answer yes or no organ by organ and are
not classes that exclude each other. The network's last convolution then starts at zero and must be trained.
A plain head is never left out: if it does not fit, the file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftwork.errors import GraftError

from .network import (
    NetworkConfig,
    Pretrained,
    build,
    contract_of,
    find_head,
    load_weights,
    read_weights,
)
from .safe_load import safe_load

_CONTAINERS = ("state_dict", "net", "model")
# Parts of SuPreM's Universal_model beside its backbone: the head, and the features that steer it.
_STEERED_HEAD = ("organ_embedding", "text_to_vision", "controller", "precls_conv", "GAP")


def read(path: str | Path, config: NetworkConfig) -> Pretrained:
    """The network of `config` with the weights of `path` (.safetensors, .pt, .pth, .ckpt).

    Raises:
        GraftError: an unreadable or unsafe file, no tensors in it, or tensors that do not fit: all that are
            missing, unexpected or wrongly shaped are listed.
    """
    path = Path(path)
    tensors, headless = published(tensors_of(path), path)
    model = build(config)
    head = find_head(model)
    own = model.state_dict()
    if headless:
        # SuPreM's backbone may bring an output layer that never trained; it is overwritten too.
        for name in (f"{head}.weight", f"{head}.bias"):
            if name in own:
                tensors[name] = torch.zeros_like(own[name])
    else:
        _refuse_other_head(tensors, own, head, path)
    load_weights(model, tensors, path)
    contract = contract_of(path, {})
    classes = contract.classes if contract is not None else ()
    return Pretrained(model.eval(), config, classes, {}, contract, head if headless else None)


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, out of the container that they may lie in.

    Raises:
        GraftError: see `read`.
    """
    if path.suffix == ".safetensors":
        return read_weights(path)[0]
    value = safe_load(path)
    if isinstance(value, Mapping) and "network_weights" in value:
        raise GraftError(
            f"{path}: a checkpoint of nnU-Net; give its results folder, with plans.json, instead"
        )
    for name in _CONTAINERS:
        if isinstance(value, Mapping) and isinstance(value.get(name), Mapping):
            value = value[name]
            break
    if not _all_tensors(value):
        held = (
            ", ".join(map(str, value))[:200] if isinstance(value, Mapping) else type(value).__name__
        )
        raise GraftError(
            f"{path}: holds no tensors by name, at the top or under {', '.join(_CONTAINERS)}, but: {held}"
        )
    return dict(value)


def published(tensors: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], bool]:
    """The tensors under the network's own names, and whether their head was left out."""
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): t for name, t in tensors.items()}
    if any(name.startswith("backbone.") for name in tensors):
        beside = [n for n in tensors if not n.startswith(("backbone.", *_STEERED_HEAD))]
        if beside:
            raise GraftError(
                f"{path}: beside a backbone and the organ-embedding head (SuPreM's layout) it holds "
                f"{', '.join(beside[:10])}; what that is for is not known here"
            )
        inner = "backbone."
        return {n.removeprefix(inner): t for n, t in tensors.items() if n.startswith(inner)}, True
    if any(name.startswith("classifier.") for name in tensors):
        return {n: t for n, t in tensors.items() if not n.startswith("classifier.")}, True
    return tensors, False


def _refuse_other_head(
    tensors: dict[str, Tensor], own: dict[str, Tensor], head: str, path: Path
) -> None:
    name = f"{head}.weight"
    if name in tensors and name in own and tensors[name].shape != own[name].shape:
        raise GraftError(
            f"{path}: its last convolution {head} has shape {list(tensors[name].shape)}, the network's "
            f"{list(own[name].shape)}: set network.args.out_channels to the file's number of classes; classes "
            "of your data that it lacks get rows of their own"
        )


def _all_tensors(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in value.items())
    )
