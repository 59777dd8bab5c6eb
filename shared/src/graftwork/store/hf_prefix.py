"""Prefix tuning in Hugging Face PEFT's form, for causal models with rotary positions.

PEFT keeps all layers' prefixes in one tensor `prompt_embeddings` `(m, layers * 2 * token_dim)` and puts them into the
key-value cache, which moves every token m positions on. With rotary positions, queries that are turned m further
meet the prefix as before if its keys are turned as far; so keys are turned on the way out and back on the way in. Where
positions are learned or are no rotation, tokens m positions on are other tokens, and the exchange is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.algebra.geometry import Geometry
from graftwork.algebra.recognise import plain_class, recognise_attention
from graftwork.errors import GraftError
from graftwork.handle import Graft
from graftwork.methods.prefix import PrefixTuning
from graftwork.sites import own_modules

TENSOR = "prompt_embeddings"
_MOVED = "PEFT moves every token by the prefix's length"
_STEADY = ("default", "linear", "llama3")  # tables that do not depend on the length of the sequence


def attention_layers(model: nn.Module) -> dict[int, tuple[str, nn.Module, Geometry]]:
    """The attention modules that know their place in the cache, by that place.

    Raises:
        GraftError: two that have the same place (encoder and decoder, or cross-attention).
    """
    found: dict[int, tuple[str, nn.Module, Geometry]] = {}
    for name, module in own_modules(model):
        geo, index = recognise_attention(module), getattr(module, "layer_idx", None)
        if isinstance(geo, Geometry) and isinstance(index, int):
            if index in found:
                raise GraftError(
                    f"{name} and {found[index][0]} share a place in the cache; PEFT's form is of causal models"
                )
            found[index] = name, module, geo
    return found


def to_tensor(
    graft: Graft, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config fields and the one tensor of PEFT's form.

    Raises:
        GraftError: what PEFT cannot express, or another base than a causal model with rotary positions.
    """
    methods = {s.module: m for s, m in graft.entry.sites}
    first = next(iter(methods.values()))
    layers = attention_layers(graft.model)
    names = [layers[i][0] for i in sorted(layers)]
    if any(m != first or not isinstance(m, PrefixTuning) for m in methods.values()):
        raise GraftError("PEFT has one prefix length for all layers, and no other method beside it")
    if set(names) != set(methods) or sorted(layers) != list(range(len(names))):
        raise GraftError("PEFT gives every attention layer a prefix; this graft has others")
    if graft.entry.beside:
        raise GraftError("modules beside a prefix are not served; merge or leave them out")
    assert isinstance(first, PrefixTuning)
    rows, heads = [], set()
    for i in sorted(layers):
        name, module, geo = layers[i]
        if geo.out != geo.in_:
            raise GraftError(f"{name}: PEFT has one width for keys and values")
        heads.add((geo.out, geo.out // head_size(module, geo)))
        k = turned(graft.model, module, geo, tensors[f"{name}.K"], first.length)
        rows += [k, tensors[f"{name}.V"]]
    if len(heads) != 1:
        raise GraftError("PEFT has one width for all layers")
    ((width, count),) = heads
    config = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "num_virtual_tokens": first.length,
        "token_dim": width,
        "num_attention_heads": count,
        "num_layers": len(layers),
        "num_transformer_submodules": 1,
        "encoder_hidden_size": width,
        "prefix_projection": False,
    }
    return config, {TENSOR: torch.cat(rows, 1)}


def from_tensor(
    model: nn.Module, config: Mapping[str, Any], values: Tensor
) -> Iterator[tuple[str, PrefixTuning, Tensor, Tensor]]:
    """(site, method, K, V) of each layer.

    Raises:
        GraftError: the tensor does not fit the config, or the config the model.
    """
    numbers = ("num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads")
    for field in numbers:
        if type(config.get(field)) is not int or config[field] < 1:
            raise GraftError(
                f"{field} must be a whole number of at least 1, not {config.get(field)!r}"
            )
    m, width, count, heads = (config[n] for n in numbers)
    if tuple(values.shape) != (m, count * 2 * width):
        raise GraftError(
            f"{TENSOR}: shape {tuple(values.shape)}, expected {(m, count * 2 * width)}"
        )
    layers = attention_layers(model)
    if sorted(layers) != list(range(count)):
        raise GraftError(f"num_layers = {count}; the model has attention layers {sorted(layers)}")
    parts = values.float().chunk(2 * count, 1)
    for i, (name, module, geo) in sorted(layers.items()):
        if (geo.out, geo.in_, geo.out // head_size(module, geo)) != (width, width, heads):
            raise GraftError(
                f"{name}: {geo.out} features of keys, {geo.in_} of values; the file has {width} in {heads} heads"
            )
        k = turned(model, module, geo, parts[2 * i], -m)
        yield name, PrefixTuning(m), k, parts[2 * i + 1]


def head_size(module: nn.Module, geo: Geometry) -> int:
    """Features of one head, as transformers' modules tell it."""
    size = getattr(module, "head_dim", None)
    if not isinstance(size, int) or size < 1 or geo.out % size:
        raise GraftError(f"{plain_class(module).__name__} does not tell its head_dim")
    return size


def turned(model: nn.Module, module: nn.Module, geo: Geometry, keys: Tensor, by: int) -> Tensor:
    """Keys `(m, features)` as they are `by` positions on.

    Raises:
        GraftError: the model's positions are not one table of rotations.
    """
    tables = [m for _, m in own_modules(model) if isinstance(m._buffers.get("inv_freq"), Tensor)]
    turn = getattr(sys.modules.get(plain_class(module).__module__), "apply_rotary_pos_emb", None)
    if (
        len(tables) != 1
        or turn is None
        or getattr(tables[0], "rope_type", "default") not in _STEADY
    ):
        raise GraftError(f"the model's positions are not one table of rotations, and {_MOVED}")
    (table,) = tables
    device = table._buffers["inv_freq"].device  # type: ignore[union-attr]

    def at(x: Tensor, position: int) -> Tensor:
        x = x.to(device, torch.float32)
        cos, sin = table(x, torch.full((1, x.shape[2]), position, device=device))
        out: Tensor = turn(x, x, cos, sin)[1]
        return out

    heads = keys.unflatten(1, (-1, head_size(module, geo))).transpose(0, 1).unsqueeze(0)
    rng = torch.Generator().manual_seed(0)
    query = torch.randn(1, 1, 1, heads.shape[-1], generator=rng)
    try:
        moved = at(heads, by)
        before = at(query, 5) @ heads.to(device, torch.float32).mT
        after = at(query, 5 + by) @ moved.mT
    except (TypeError, ValueError, RuntimeError) as e:
        raise GraftError(
            f"the model's rotations are of another form ({str(e)[:80]}); {_MOVED}"
        ) from None
    if not torch.allclose(before, after, rtol=1e-4, atol=1e-4 * float(before.abs().max())):
        raise GraftError(f"the model's positions are no rotation, and {_MOVED}")
    return moved.squeeze(0).transpose(0, 1).flatten(1).to(keys.device, keys.dtype)
