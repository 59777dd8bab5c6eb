"""A base to put an adapter on: a Hugging Face folder, or a stand-in built from a state dict.

A stand-in has the base's names and values, and real layers where the adapter sits; it is never called. Weight
changes, their shapes and the base's fingerprint need no more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.store.folders import open_inside, read
from graftwork.store.header import read_header
from graftwork.store.hf_config import CONFIG, LIMIT, PREFIX, TENSORS
from graftwork.store.strict_json import parse

#: site name -> (layer kind, groups)
Layers = dict[str, tuple[str, int]]
_CONVS = {
    **{f"conv{n}d": getattr(nn, f"Conv{n}d") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": getattr(nn, f"ConvTranspose{n}d") for n in (1, 2, 3)},
}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def from_folder(folder: Path) -> nn.Module:
    """A transformers model from a local folder, in its own precision; no code from the folder runs.

    Raises:
        GraftError: transformers is missing, or the folder holds no such model.
    """
    config = folder / "config.json"
    try:
        names = json.loads(config.read_text(encoding="utf8")).get("architectures") or []
    except (OSError, ValueError, AttributeError) as e:
        raise GraftError(f"{config}: no model config of Hugging Face transformers ({e})") from None
    transformers = _transformers(folder)
    cls: Any = getattr(transformers, str(names[0]), None) if names else None
    known = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
    if not known:
        raise GraftError(f"{config}: architectures {names!r} names no model class of transformers")
    transformers.utils.logging.disable_progress_bar()
    try:
        model = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype="auto"
        )
    except (OSError, ValueError, RuntimeError) as e:
        raise GraftError(f"{folder}: {str(e)[:500]}") from None
    assert isinstance(model, nn.Module)
    return model


def _transformers(needed_by: object) -> Any:
    try:
        return import_module("transformers")
    except ImportError:
        raise GraftError(f"{needed_by}: needs transformers: pip install transformers") from None


def graft_layers(passport: Mapping[str, Any]) -> Layers:
    """The layers under an adapter folder's sites."""
    return {s["name"]: (s["kind"], int(s.get("groups", 1))) for s in passport["graft"]["sites"]}


def peft_layers(folder: Path, state: Mapping[str, Tensor]) -> Layers:
    """The layers that a PEFT folder adapts, read off its tensors' names and shapes.

    Raises:
        GraftError: the folder's files are unsound, or the base has no weight of that name.
    """
    config = parse(read(folder, CONFIG, LIMIT, hub=True), str(folder / CONFIG))
    with open_inside(folder, TENSORS, hub=True) as f:
        table, _ = read_header(f, os.fstat(f.fileno()).st_size, str(folder / TENSORS))
    layers: Layers = {}
    for key, item in table.items():
        name, _, leaf = key.removeprefix(PREFIX).rpartition(".")
        if leaf == "weight" and name.endswith(".lora_A"):
            name, leaf = name.removesuffix(".lora_A"), "lora_A"
        if leaf not in ("lora_A", "lora_embedding_A", "ia3_l") or len(item["shape"]) < 2:
            continue
        weight = state.get(f"{name}.weight")
        if weight is None:
            raise GraftError(f"{folder}: adapts {name}, and the base file has no {name}.weight")
        if leaf == "lora_embedding_A":
            layers[name] = ("embedding", 1)
        elif weight.dim() == 2:
            turned = bool(config.get("fan_in_fan_out"))
            layers[name] = ("transposed_linear" if turned else "linear", 1)
        else:
            # PEFT's A reads all input channels, the weight those of one group
            wide = item["shape"][1] if leaf == "lora_A" else weight.shape[1]
            layers[name] = (f"conv{weight.dim() - 2}d", max(1, wide // max(1, weight.shape[1])))
    return layers


def stand_in(state: Mapping[str, Tensor], layers: Layers, named: str = "StandIn") -> nn.Module:
    """A module tree with the state dict's tensors, and real layers at the given names.

    Args:
        named: dotted name of the class that it stands in for; passports written from it show this name.

    Raises:
        GraftError: a layer's weight is missing, or its shape is impossible for its kind.
    """
    module, _, name = named.rpartition(".")
    cls = type(name, (nn.Module,), {"__module__": module or __name__})
    if "" in layers:
        return _layer("", *layers[""], state)
    root: nn.Module = cls()
    for name, (kind, groups) in layers.items():
        parent, _, leaf = name.rpartition(".")
        _descend(root, parent).add_module(leaf, _layer(name, kind, groups, state))
    for key, value in state.items():
        path, _, leaf = key.rpartition(".")
        home = _descend(root, path)
        if leaf in home._parameters or leaf in home._buffers:
            continue
        if leaf in _STATISTICS or not value.is_floating_point():
            home.register_buffer(leaf, value)
        else:
            home.register_parameter(leaf, nn.Parameter(value))
    return root


def _descend(root: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else ():
        if part not in root._modules:
            root.add_module(part, nn.Module())
        child = root._modules[part]
        assert child is not None
        root = child
    return root


def _layer(name: str, kind: str, groups: int, state: Mapping[str, Tensor]) -> nn.Module:
    dot = f"{name}." if name else ""
    weight, bias = state.get(f"{dot}weight"), state.get(f"{dot}bias")
    if weight is None:
        raise GraftError(f"the base file has no {dot}weight, which the adapter changes")
    layer = _empty(name, kind, groups, weight, bias is not None)
    layer._parameters["weight"] = nn.Parameter(weight)
    if bias is not None:
        layer._parameters["bias"] = nn.Parameter(bias)
    return layer


def _empty(name: str, kind: str, groups: int, weight: Tensor, bias: bool) -> nn.Module:
    n, m = weight.shape[:2] if weight.dim() > 1 else (0, 0)
    kernel = tuple(weight.shape[2:])
    if kind == "linear" and not kernel and n:
        return nn.Linear(m, n, bias=bias, device="meta")
    if kind == "embedding" and not kernel and n:
        return nn.Embedding(n, m, device="meta")
    if kind == "transposed_linear" and not kernel and n:
        layer: nn.Module = _transformers(f"{name}, a {kind}").pytorch_utils.Conv1D(m, n)
        return layer
    if kind in _CONVS and kernel and kind.endswith(f"{len(kernel)}d"):
        turned = kind.startswith("conv_transpose")
        in_, out = (n, m * groups) if turned else (m * groups, n)
        if in_ % groups == 0 and out % groups == 0:
            made: nn.Module = _CONVS[kind](
                in_, out, kernel, groups=groups, bias=bias, device="meta"
            )
            return made
    raise GraftError(
        f"{name or 'the model'}: a {kind} with {groups} group(s) in the adapter, but the base's weight has "
        f"shape {tuple(weight.shape)}; norms, blocks and packed weights need the model: convert in Python"
    )
