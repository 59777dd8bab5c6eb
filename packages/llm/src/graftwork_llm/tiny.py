"""A base that needs no file: a small random Llama over bytes, the same for the same seed.

It knows nothing; it is there so that commands can be tried, and tests run, without a model.
"""

from __future__ import annotations

from typing import Any

import torch

_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def tokenizer() -> Any:
    """A transformers tokenizer whose tokens are the 256 bytes and the marks of its chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {mark: i for i, mark in enumerate([*_SPECIAL, *letters])}
    bytes_ = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=bytes_, eos_token="<|end|>", pad_token="<|end|>",
        additional_special_tokens=list(_SPECIAL[1:]), clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.chat_template = _TEMPLATE
    return made


def tiny(seed: int = 0, width: int = 64, layers: int = 2, positions: int = 4096) -> tuple[Any, Any]:
    """The frozen base in float32, and its tokenizer.

    Args:
        seed: of its weights. width: features, a multiple of 32. layers: how many.
        positions: tokens of the longest text.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=width // 16, num_key_value_heads=width // 32, max_position_embeddings=positions,
        bos_token_id=None, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.eval().requires_grad_(False), words
