"""Generated attention modules: one more strategy of `method_layers.LAYERS`."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from method_layers import LAYERS, SEEDS, LayerCase
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Attention as transformers, timm and diffusers write it.

    Args:
        mask: "none", "causal", or an explicit one: "bool", "float", or "row", which all keys share.
        fused: one projection for queries, keys and values.
    """

    def __init__(
        self, width: int, heads: int, kv_heads: int, size: int, mask: str, fused: bool
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size, self.mask = heads, kv_heads, size, mask
        if fused:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q_proj = nn.Linear(width, heads * size)
            self.k_proj = nn.Linear(width, kv_heads * size)
            self.v_proj = nn.Linear(width, kv_heads * size)
        self.out_proj = nn.Linear(heads * size, width)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values as heads."""
        if hasattr(self, "qkv"):
            parts = self.qkv(x).chunk(3, -1)
            return tuple(t.unflatten(-1, (-1, self.size)).transpose(1, 2) for t in parts)
        parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        return tuple(t.unflatten(-1, (-1, self.size)).transpose(1, 2) for t in parts)

    def seen(self, n: int, dtype: torch.dtype) -> Tensor | None:
        """The explicit mask `(n, n)`; every query sees itself."""
        if self.mask in ("none", "causal"):
            return None
        rng = torch.Generator().manual_seed(n)
        if self.mask == "bool":
            return (torch.rand(n, n, generator=rng) < 0.5) | torch.eye(n, dtype=torch.bool)
        return torch.randn(n, n if self.mask == "float" else 1, generator=rng).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        if self.kv_heads not in (1, self.heads):  # repeated by the module; or by the function
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        y = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=self.seen(x.shape[1], x.dtype),
            is_causal=self.mask == "causal",
            enable_gqa=self.kv_heads == 1,
        )
        return self.out_proj(y.transpose(1, 2).flatten(2))


@st.composite
def attention(draw: st.DrawFn) -> LayerCase:
    heads, size = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 4))
    fused = draw(st.booleans())
    args: dict[str, Any] = {
        "width": heads * size if fused else draw(st.integers(1, 6)),
        "heads": heads,
        "kv_heads": heads if fused else draw(st.sampled_from([h for h in (1, 2, 4) if h <= heads])),
        "size": size,
        "mask": draw(st.sampled_from(["none", "causal", "bool", "float", "row"])),
        "fused": fused,
    }
    sample = (draw(st.integers(1, 5)), args["width"])
    batch = draw(st.sampled_from([(1,), (2,)]))
    return LayerCase("attention", SelfAttention, args, batch + sample, sample, seed=draw(SEEDS))


LAYERS["attention"] = attention()
