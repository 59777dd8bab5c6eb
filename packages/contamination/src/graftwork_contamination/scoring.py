"""The scores of each item by each detector, under one model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from graftwork.errors import GraftError
from graftwork_contamination.cdd import peakedness
from graftwork_contamination.items import Item
from graftwork_contamination.likelihood import log_probs, min_k, perplexity
from graftwork_contamination.parameters import Parameters
from graftwork_contamination.sampling import continuations
from graftwork_contamination.wordgrams import Gram, ngram_overlap

CDD, PERPLEXITY, MIN_K, NGRAMS = "CDD", "perplexity", "Min-K %", "n-gram overlap"
#: what sees the prompt alone; the n-gram overlap sees the training text too
BLACK_BOX = (CDD, PERPLEXITY, MIN_K)


@dataclass(frozen=True)
class Score:
    """What the detectors say of an item.

    Args:
        peak: CDD; perplexity: inf, and min_k: -inf, for a prompt of fewer than two tokens.
        overlap: of n-grams with the training text; `None` without one, or for a prompt of fewer than n words.
        tokens: of the prompt. length: l of CDD, and bound its edits.
        greedy: the greedy answer's tokens.
        empty: all answers are empty. short: the prompt has fewer than two tokens.
    """

    peak: float
    perplexity: float
    min_k: float
    overlap: float | None
    tokens: int
    length: int
    bound: int
    greedy: tuple[int, ...]
    empty: bool
    short: bool

    def of(self, detector: str) -> float | None:
        """Higher speaks for memorisation; `None` where the item is no evidence for this detector."""
        if detector == CDD:
            return None if self.empty else self.peak
        if detector == NGRAMS:
            return self.overlap
        if self.short:
            return None
        return 1 / (1 + self.perplexity) if detector == PERPLEXITY else self.min_k

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no infinity: `None` in its place."""
        found = asdict(self) | {"greedy": list(self.greedy)}
        return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in found.items()}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Score:
        """What `as_dict` wrote."""
        ends = {"perplexity": math.inf, "min_k": -math.inf}
        missing = {k: v for k, v in ends.items() if raw[k] is None}
        return cls(**{**raw, **missing, "greedy": tuple(raw["greedy"])})


def encode(tokenizer: Any, items: Sequence[Item]) -> list[list[int]]:
    """The tokens of each prompt, as the tokenizer makes them by default.

    Raises GraftError for a prompt without a token.
    """
    found = [list(tokenizer(item.prompt)["input_ids"]) for item in items]
    for item, tokens in zip(items, found, strict=True):
        if not tokens:
            raise GraftError(f"item {item.id}: the tokenizer makes no token of the prompt")
    return found


def score(
    model: nn.Module,
    tokenizer: Any,
    items: Sequence[Item],
    parameters: Parameters | None = None,
    *,
    grams: AbstractSet[Gram] | None = None,
    streams: Sequence[int] | None = None,
) -> list[Score]:
    """Score items as `model` is now.

    Args:
        model: a causal language model as in transformers.
        tokenizer: called with a text it gives a mapping with `input_ids`; its `eos_token_id` ends answers.
        grams: n-grams of the training text.
        streams: a number for each item, which its samples depend on; its place where left out.

    Raises:
        GraftError: prompts that are empty or too long, or NaN in the model's outputs, by item.
    """
    told = parameters or Parameters()
    prompts = encode(tokenizer, items)
    try:
        lps = log_probs(model, prompts, rows=told.rows, max_tokens=told.max_tokens)
        answers = continuations(
            model, prompts, samples=told.samples, temperature=told.temperature,
            max_new_tokens=told.max_new_tokens, end=getattr(tokenizer, "eos_token_id", None),
            seed=told.seed, streams=streams, rows=told.rows,
        )  # fmt: skip
    except GraftError as error:
        place, _, text = str(error).removeprefix("prompt ").partition(": ")
        if place.isdigit():
            raise GraftError(f"item {items[int(place)].id}: {text}") from None
        raise
    found = []
    for item, tokens, lp, (greedy, *samples) in zip(items, prompts, lps, answers, strict=True):
        peak = peakedness(greedy, samples, told.alpha, told.l_max)
        found.append(
            Score(
                peak.value,
                perplexity(lp),
                min_k(lp, told.k),
                None if grams is None else ngram_overlap(item.prompt, grams, told.n),
                len(tokens),
                peak.length,
                peak.bound,
                tuple(greedy),
                peak.degenerate,
                not lp,
            )
        )
    return found
