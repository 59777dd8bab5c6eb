"""Merge an adapter into a plain state dict, without the model.

The passport's sites tell each layer's kind, the base's tensors tell its shapes; the methods' own weight
changes do the rest. Stride, padding and dilation do not matter to a weight.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.algebra.conv import Conv, ConvTranspose
from graftwork.algebra.geometry import Geometry
from graftwork.algebra.linear import Embedding, Linear, TransposedLinear
from graftwork.algebra.norm import Norm
from graftwork.errors import GraftError
from graftwork.handle import tensor_faults
from graftwork.methods import method_class
from graftwork.methods.base import from_config
from graftwork.sites import PACKED
from graftwork.states import MethodState

State = dict[str, Tensor]


def merged(
    base: Mapping[str, Tensor], spec: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> State:
    """The base's state dict with the graft's change in it; `base` itself stays as it is.

    Args:
        base: the model's state dict.
        spec: what `Graft.spec()` tells.
        tensors: what `Graft.tensors()` holds.

    Raises:
        GraftError: the graft changes activations, the base lacks a tensor or has another shape, a
            tensor of the graft is missing or left over, or a merged tensor is not finite.
    """
    out = dict(base)
    used: set[str] = set()
    for item in spec["sites"]:
        config = item.get("method", spec["method"])
        method = from_config(method_class(config["id"]), config["config"])
        name = item["name"]
        why = method.refuses_merge()
        if why is not None:
            raise GraftError(
                f"merge: {name or 'the model'}: {why}; load the adapter beside its base instead"
            )
        if method.changes == "module":
            used |= _replace(out, name, tensors)
            continue
        layer, module, weight, bias = _layer(out, item)
        geo = _geometry(item, layer, weight, bias)
        state = MethodState(method, geo, layer, weight, bias, blank=True)
        if state.digest != item.get("seeded", {}).get("sha256", ""):
            raise GraftError(
                f"merge: {name or 'the model'}: the random matrices that {method.id} draws from its seed "
                "are not the ones that the graft was trained with"
            )
        used |= _fill(state, name, tensors)
        _store(out, module, state.merged(layer))
    for item in spec["also_train"]:
        if item["kind"] == "module":
            used |= _replace(out, item["name"], tensors)
    for item in spec["also_train"]:
        if item["kind"] == "rows":  # after all else: new rows stand behind merged ones
            used |= _append(out, item, tensors)
    left = sorted(set(tensors) - used)
    if left:
        raise GraftError(f"the adapter holds tensors that belong to none of its sites: {left[:5]}")
    return out


def _layer(state: State, item: Mapping[str, Any]) -> tuple[nn.Module, str, str, str]:
    """A bare module with the site's tensors; its name, and the names of its weight and bias."""
    name = item["name"]
    module, weight, bias = name, "weight", "bias"
    parent, _, leaf = name.rpartition(".")
    if leaf in PACKED and _join(name, "weight") not in state:
        module, weight, bias = parent, leaf, PACKED[leaf]
    layer = nn.Module()
    for own in filter(None, (weight, bias)):
        value = state.get(_join(module, own))
        layer.register_parameter(
            own, None if value is None else nn.Parameter(value, requires_grad=False)
        )
    # a norm may have a bias only; every other kind has a weight
    if layer._parameters[weight] is None and item["kind"] != "norm":
        raise _lacks(state, _join(module, weight))
    if not any(p is not None for p in layer._parameters.values()):
        raise _lacks(state, _join(module, weight))
    return layer, module, weight, bias


def _geometry(item: Mapping[str, Any], layer: nn.Module, weight: str, bias: str) -> Geometry:
    kind, groups = item["kind"], int(item.get("groups", 1))
    if kind == "norm":
        offset = layer._parameters.get(bias)
        if offset is None:
            raise GraftError(f"merge: the base's norm {item['name']} has no bias")
        return Norm(out=offset.numel(), in_=offset.numel(), shape=tuple(offset.shape))
    held = layer._parameters[weight]
    assert held is not None
    shape = tuple(held.shape)
    kernel = shape[2:]
    flat: dict[str, type[Geometry]] = {
        "linear": Linear,
        "transposed_linear": TransposedLinear,
        "embedding": Embedding,
    }
    if kind in flat and not kernel:
        turned = kind != "linear"
        return flat[kind](out=shape[turned], in_=shape[not turned])
    if kind == f"conv{len(kernel)}d" and shape[0] % groups == 0:
        return Conv(out=shape[0], in_=shape[1] * groups, groups=groups, kernel=kernel)
    if kind == f"conv_transpose{len(kernel)}d" and shape[0] % groups == 0:
        return ConvTranspose(out=shape[1] * groups, in_=shape[0], groups=groups, kernel=kernel)
    raise GraftError(
        f"merge: {item['name'] or 'the model'} is a {kind} with {groups} group(s) in the adapter, "
        f"but its weight in the base has shape {shape}"
    )


def _fill(state: MethodState, site: str, tensors: Mapping[str, Tensor]) -> set[str]:
    """Put the adapter's tensors into a state, strictly; returns the keys it took."""
    mine = {_join(site, name): t for name, t in state.own_tensors()}
    given = {k: tensors[k] for k in mine if k in tensors}
    _check({k: tuple(t.shape) for k, t in mine.items()}, given)
    with torch.no_grad():
        for key, t in mine.items():
            t.copy_(given[key])
    return set(mine)


def _replace(out: State, name: str, tensors: Mapping[str, Tensor]) -> set[str]:
    """A module that the graft owns a copy of: its tensors take the base's places."""
    prefix = _join(name, "module") + "."
    own = {k: t for k, t in tensors.items() if k.startswith(prefix)}
    # a state dict leaves out the buffers that a module does not save; the copy holds them all
    kept = {_join(name, k.removeprefix(prefix)): t for k, t in own.items()}
    shapes = {k: tuple(t.shape) for k, t in out.items() if k.startswith(_join(name, ""))}
    if not shapes:
        raise _lacks(out, _join(name, "weight"))
    _check(shapes, {k: t for k, t in kept.items() if k in shapes})
    for key in shapes:
        out[key] = kept[key].to(out[key].dtype)
    return set(own)


def _append(out: State, item: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> set[str]:
    """New output rows or tokens behind a layer's own."""
    name, new = item["name"], int(item["new"])
    used: set[str] = set()
    axis = 0
    for leaf in ("weight", "bias"):
        key, own = _join(name, leaf), _join(name, "new_rows", leaf)
        if leaf == "weight" and key not in out:
            raise _lacks(out, key)
        if leaf == "weight":
            axis = _axis(out[key], new, tensors, own)
        elif key not in out:
            continue
        shape = list(out[key].shape)
        shape[axis if leaf == "weight" else 0] = new
        _check({own: tuple(shape)}, {k: tensors[k] for k in (own,) if k in tensors})
        rows = tensors[own].to(out[key].dtype)
        out[key] = torch.cat([out[key], rows], dim=axis if leaf == "weight" else 0)
        used.add(own)
    return used


def _axis(weight: Tensor, new: int, tensors: Mapping[str, Tensor], key: str) -> int:
    """Where a layer keeps its outputs: first (linear, conv, tokens) or second (transposed kinds)."""
    given = tuple(tensors[key].shape) if key in tensors else ()
    first, second = ((new, *weight.shape[1:]), (*weight.shape[:1], new, *weight.shape[2:]))
    if first == second:
        raise GraftError(
            f"{key}: {new} new rows on a {tuple(weight.shape)} weight could be its rows or its columns; "
            "load the adapter beside the model and merge there"
        )
    return 1 if given == second else 0


def _check(shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor]) -> None:
    faults = tensor_faults(shapes, given)
    if faults:
        raise GraftError("the adapter does not fit the base:\n  " + "\n  ".join(faults))


def _store(out: State, module: str, new: Mapping[str, Tensor]) -> None:
    for leaf, value in new.items():
        key = _join(module, leaf)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise GraftError(f"merge: {key} would hold NaN or infinite values")
        out[key] = value.detach().contiguous()


def _lacks(state: State, key: str) -> GraftError:
    near = difflib.get_close_matches(key, state, n=2, cutoff=0.6)
    hint = f"; near: {', '.join(near)}" if near else ""
    return GraftError(
        f"the base file has no tensor {key}{hint}. Is it this adapter's base, saved from the model's "
        "own state_dict() (tied weights under each of their names)?"
    )


def _join(*parts: str) -> str:
    return ".".join(parts) if parts[0] else ".".join(parts[1:])
