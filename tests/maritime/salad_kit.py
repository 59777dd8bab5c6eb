"""A small random model over whole words of radio traffic: it says facts of all kinds, nearly all of them wrong."""

from __future__ import annotations

import re
from typing import Any

import torch

from graftwork_maritime.model.prompts import PAPER, prompt
from graftwork_maritime.scenario import Scenario
from graftwork_maritime.spoken import cardinal
from graftwork_maritime.spoken.alphabet import LETTERS

MARKS = ("<end>", "<unk>")
WORDS = """
zero one two three four five six seven eight nine niner ten twenty hundred 3 284 MMSI call sign position is my
our number of degrees minutes North South East West decimal point persons people crew on board aboard UTC at
since time miles this the This Mayday we are not Coast Guard to Position Persons Orsanna Star Grim
"""


def tokenizer(scenario: Scenario) -> Any:
    """A transformers tokenizer of whole words, those of the scenario's facts among them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    told = re.findall(r"[\w'-]+", f"{prompt(scenario, PAPER)} {cardinal(scenario.vessel.persons)}")
    words = dict.fromkeys([*WORDS.split(), *LETTERS.values(), *told])
    pieces = [*MARKS, "SHIP", "COAST", ":", ".", ",", "?", "\n", "▁", *(f"▁{w}" for w in words)]
    made = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token=MARKS[1]))
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[:.,?\n]"), "isolated"),
        pre_tokenizers.Metaspace(prepend_scheme="never"),
    ])  # fmt: skip
    made.decoder = decoders.Metaspace(prepend_scheme="never")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=MARKS[0], pad_token=MARKS[0], unk_token=MARKS[1],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def model(words: Any, seed: int = 0) -> Any:
    """A random Llama over these words, which never ends by itself."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=None, eos_token_id=0, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval().requires_grad_(False)
