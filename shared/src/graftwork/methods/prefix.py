"""Prefix tuning: trained keys and values before those of each attention (Li and Liang 2021, arXiv 2101.00190).

    head = softmax(q [P_K; K]^T / sqrt(d)) [P_V; V]                        (paper, section 4)

K and V are what the attention has: projected, rotated by position, from the cache. The prefix is added behind all
that, in every call alike, so it is never rotated, cached or masked, every query sees it, also the causal ones, and no
token moves.

Shapes: K `(m, keys)`, V `(m, values)`, m the length, keys and values the features of the module's key and value
projections, all heads together; where several query heads share a key head, they share its prefix. Initialisation: both
normal with the standard deviation `std`. The start is not the base, and cannot be: exp(q P_K) > 0 takes attention away
from the tokens; with small values each output is the base's times 1 - (the attention paid to the prefix).

Departures: the paper trains the prefix through a network shared by all layers, for stability, and drops that
afterwards; here the prefix itself trains, as in Hugging Face PEFT without `prefix_projection`. PEFT puts the prefix
into the cache and moves every token m positions on; here no position moves, so a model with learned positions
computes something else than in PEFT, and one with rotary positions the same for keys rotated by m (`to_peft` does
that).
Refuses: merging; a model or module without attention; torch's MultiheadAttention, and a fused projection whose part
for the keys is not told by its shape; at a call, attention that is computed by other means than one call of
scaled_dot_product_attention. In a weighted sum, other weights than 1 and a second prefix on one module.

Invariants:
1. forward = the softmax over prefix and tokens by hand; merging is refused.
2. Prefix keys far against all queries leave the base; equal values everywhere stay what they are.
3. With a cache and without the same, under padding, beams and grouped heads too.
4. m (keys + values) parameters per module; nothing else trains.
5. The attention paid to the prefix is lambda, and the output (1 - lambda) base + lambda (prefix alone).
6. The start is normal with the given deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.algebra.geometry import Geometry
from graftwork.cards import expand_kinds
from graftwork.errors import GraftError
from graftwork.methods.base import Method, Params, setting, work_dtype

CARD: dict[str, Any] = {
    "id": "prefix",
    "class": "PrefixTuning",
    "kind": "prefix",
    "changes": "attention",
    "mergeable": False,
    "layer_kinds": ["attention"],
    "parameters": "m (keys + values)",
    "paper": "arXiv 2101.00190",
    "choose": "the attention is adapted and every weight stays what it is",
}


@dataclass(frozen=True)
class PrefixTuning(Method):
    """Trained keys and values before those of each attention.

    Args:
        length: m, positions of the prefix.
        std: standard deviation of the start.
    """

    length: int = setting(20, low=1)
    std: float = setting(0.02, low=0.0)

    id: ClassVar[str] = "prefix"
    changes: ClassVar[str] = "attention"
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(CARD["layer_kinds"])
    default_kinds: ClassVar[tuple[str, ...]] = layer_kinds
    default_globs: ClassVar[tuple[str, ...]] = ("*",)

    @property
    def starts_at_base(self) -> bool:
        return False

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        k = torch.empty(self.length, geo.out, dtype=work_dtype(weight), device=weight.device)
        v = k.new_empty(self.length, geo.in_)
        return {name: torch.nn.init.normal_(t, std=self.std) for name, t in (("K", k), ("V", v))}

    def attend(
        self,
        p: Params,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **more: Any,
    ) -> Tensor:
        if is_causal and attn_mask is None:
            queries, keys = query.shape[-2], key.shape[-2]
            attn_mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril()
            is_causal = False
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*attn_mask.shape[:-1], key.shape[-2])
            seen = True if attn_mask.dtype == torch.bool else 0.0
            attn_mask = F.pad(attn_mask, (self.length, 0), value=seen)
        key = torch.cat([heads(p["K"], key), key], -2)
        value = torch.cat([heads(p["V"], value), value], -2)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, **more
        )


def heads(prefix: Tensor, like: Tensor) -> Tensor:
    """A prefix `(m, features)` as heads beside keys or values `(rows, heads, positions, features of one)`."""
    rows, count, _, width = like.shape if like.dim() == 4 else (0, 0, 0, 0)
    own = prefix.shape[1] // width if width and prefix.shape[1] % width == 0 else 0
    if not own or count % own:
        raise GraftError(
            f"prefix: keys or values of shape {tuple(like.shape)} are not heads of {prefix.shape[1]} features in all"
        )
    split = prefix.to(like.dtype).unflatten(1, (own, width)).transpose(0, 1)
    # where the module repeated its key heads for the query heads, so is the prefix
    repeated: Tensor = split.repeat_interleave(count // own, 0)
    return repeated.expand(rows, -1, -1, -1)
