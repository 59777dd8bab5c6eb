"""Tiny causal language models of transformers, with random weights."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

SIZES: dict[str, dict[str, Any]] = {
    "Llama": {"hidden_size": 16, "intermediate_size": 24, "num_key_value_heads": 1},
    "Mistral": {"hidden_size": 16, "intermediate_size": 24, "num_key_value_heads": 2, "sliding_window": None},
    "Qwen2": {"hidden_size": 16, "intermediate_size": 24, "num_key_value_heads": 1},
    "Gemma": {"hidden_size": 16, "intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8},
    "Phi": {"hidden_size": 16, "intermediate_size": 24},
    "GPTNeoX": {"hidden_size": 16, "intermediate_size": 24},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "OPT": {"hidden_size": 16, "ffn_dim": 24, "word_embed_proj_dim": 16, "dropout": 0.0, "layerdrop": 0.0},
}  # fmt: skip
COMMON = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128}
HEADS = {"GPT2": "GPT2LMHeadModel"}


@functools.cache
def build(name: str, attention: str = "sdpa") -> nn.Module:
    """A model in float64, the same at each call."""
    import transformers

    sizes = SIZES[name] if "n_embd" in SIZES[name] else {**COMMON, **SIZES[name]}
    config = getattr(transformers, f"{name}Config")(vocab_size=32, **sizes)
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = getattr(transformers, HEADS.get(name, f"{name}ForCausalLM"))(config).double()
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.3)  # so that attention and positions weigh
    return model.eval()
