"""Answers to prompts in batches: padding on the left, a key-value cache, and random numbers of each row's own.

A row's numbers are a function of its seed alone, so an answer does not depend, up to rounding, on which rows are
answered with it, or on how often a run was stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.prompts import acts_on_prompts
from graftwork_llm.lookup import MOST, Lookup

_LIKELY = 128  # tokens that a guide is shown


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen; the defaults are arXiv 2603.04423's generation loop.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: of the likeliest tokens, so many as together have this probability, 0 to 1.
        top_k: of the likeliest tokens at most so many; 0 takes all.
        most: tokens of an answer.
    """

    temperature: float = 0.9
    top_p: float = 0.9
    top_k: int = 400
    most: int = 400

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise GraftError(f"temperature {self.temperature}: must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise GraftError(f"top_p {self.top_p}: must be above 0 and at most 1")
        if self.top_k < 0 or self.most < 1:
            raise GraftError("top_k must be 0 or more, most at least 1")


@dataclass
class Kept:
    """Of one row what was read already, with its keys and values; `complete` reads only what comes behind it."""

    tokens: tuple[int, ...] = ()
    cache: Any = None

    def common(self, prompt: Sequence[int]) -> int:
        """Tokens of the prompt that need not be read again; drops the rest of what was kept. One is always read."""
        if self.cache is None or _slides(self.cache):
            return 0
        pairs = enumerate(zip(self.tokens, prompt[:-1], strict=False))
        count = next(
            (n for n, (old, new) in pairs if old != new), min(len(self.tokens), len(prompt) - 1)
        )
        _crop(self.cache, count)
        return count


class Guide(Protocol):
    """Which tokens may come next in one row. What it accepts stays as it was drawn."""

    def accepts(self, token: int) -> bool:
        """Whether the token may come next."""
        ...

    def instead(self, likely: Sequence[int]) -> Sequence[int]:
        """Tokens that may come in place of a refused one, `likely` those to look at; none ends the row."""
        ...

    def take(self, token: int) -> None:
        """Be told what came; not of the end."""
        ...


@torch.no_grad()
def complete(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    end: int,
    sampling: Sampling,
    device: torch.device | str = "cpu",
    stops: Collection[int] = (),
    told: int = 0,
    kept: Kept | None = None,
    guides: Sequence[Guide] | None = None,
) -> list[list[int]]:
    """The tokens behind each prompt, without the end token.

    Args:
        model: a causal language model of transformers, grafted or not.
        prompts: token numbers, at least one each.
        seeds: of each row.
        end: the token that ends an answer; it pads, too.
        sampling: how tokens are chosen.
        device: the model's.
        stops: further tokens that end an answer, and stay in it.
        told: tokens at each prompt's end that are the beginning of the answer: in training they were no prompt.
        kept: of an earlier call with one row; holds this call's tokens afterwards. Not used under a graft that acts on
            prompts, which must lie in one call.
        guides: of each row; a token that one refuses is drawn again among those that it names, with random numbers of
            their own, so that all before the first refusal is what comes without guides.
    """
    width = max(map(len, prompts))
    padding = [width - len(p) for p in prompts]
    ids = torch.tensor([[end] * n + list(p) for n, p in zip(padding, prompts, strict=True)])
    mask = (torch.arange(width) >= torch.tensor(padding).unsqueeze(1)).long().to(device)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    again: dict[int, torch.Generator] = {}  # of the rows in which a token was refused
    out: list[list[int]] = [[] for _ in prompts]
    going = torch.ones(len(prompts), dtype=torch.bool)
    last = torch.tensor(sorted(stops), dtype=torch.long)
    if kept is not None and len(prompts) > 1:
        raise GraftError(f"kept: is for one prompt, not for {len(prompts)}")
    if acts_on_prompts(model):
        kept = None
    known = kept.common(prompts[0]) if kept is not None else 0
    cache = kept.cache if kept is not None and known else None
    if len(prompts) == 1 and guides is None and not acts_on_prompts(model):
        with gw.prompt(model, start=padding, end=width - told):
            out[0], cache = _one(
                model, list(prompts[0]), draws[0], end, sampling, device, stops, cache, known
            )
        if kept is not None:
            read = cache.get_seq_length()
            kept.tokens, kept.cache = (*prompts[0], *out[0])[:read], cache
        return out
    with gw.prompt(model, start=padding, end=width - told):
        steps = _steps(model, ids.to(device), mask, cache, known)
        logits, cache = next(steps)
        for step in range(sampling.most):
            noise = torch.tensor([torch.rand((), generator=g) for g in draws])
            chosen = choose(logits.float(), noise.to(device), sampling)
            tokens = chosen.cpu()
            if guides is not None:
                for row in going.nonzero().flatten().tolist():
                    token = int(tokens[row])
                    if not guides[row].accepts(token):
                        token = _again(
                            logits[row].float(), guides[row], again, seeds, row, sampling, end
                        )
                        tokens[row] = chosen[row] = token
                    if token != end:
                        guides[row].take(token)
            going &= tokens != end
            for row in going.nonzero().flatten().tolist():
                out[row].append(int(tokens[row]))
            going &= ~torch.isin(tokens, last)
            if not going.any() or step == sampling.most - 1:
                break
            logits, cache = steps.send(chosen)
    if kept is not None:  # the last token was chosen, not read
        read = cache.get_seq_length()
        kept.tokens, kept.cache = (*prompts[0], *out[0])[:read], cache
    return out


def _one(
    model: Any, prompt: list[int], draw: torch.Generator, end: int, sampling: Sampling,
    device: torch.device | str, stops: Collection[int], cache: Any, known: int,
) -> tuple[list[int], Any]:  # fmt: skip
    """An answer to one prompt, and the cache: drafts are read with the token before them and kept as far as they hold.

    The tokens are those of `complete` without drafts, but for the rounding of logits that are computed side by side.
    """
    said: list[int] = []
    text, given, most = Lookup(prompt), prompt[known:], sampling.most
    draft: list[int] = []
    while True:
        ids = torch.tensor([[*given, *draft]], device=device)
        places = torch.arange(known, known + ids.shape[1], device=device).unsqueeze(0)
        found = model(
            input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True,
            attention_mask=torch.ones(1, known + ids.shape[1], dtype=torch.long, device=device),
            logits_to_keep=len(draft) + 1,
        )  # fmt: skip
        cache = found.past_key_values
        for logits, expected in zip(found.logits[0], [*draft, None], strict=True):
            noise = torch.rand((1,), generator=draw).to(device)
            token = int(choose(logits.float().unsqueeze(0), noise, sampling))
            if token != end:
                said.append(token)
                text.add(token)
            if token == end or token in stops or len(said) == most:
                _crop(cache, min(len(prompt) + len(said) - (token != end), cache.get_seq_length()))
                return said, cache
            if token != expected:
                break
        known, given = len(prompt) + len(said) - 1, said[-1:]
        if draft:
            _crop(cache, known)
        # what a window has let go does not come back
        draft = [] if _slides(cache) else text.draft(min(MOST, most - len(said) - 1))


def _slides(cache: Any) -> bool:
    return any(getattr(layer, "is_sliding", False) for layer in cache.layers)


def _crop(cache: Any, count: int) -> None:
    """Forget all but the first `count` tokens."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[..., :count, :], layer.values[..., :count, :]


def _again(
    logits: Tensor, guide: Guide, again: dict[int, torch.Generator], seeds: Sequence[int], row: int,
    sampling: Sampling, end: int,
) -> int:  # fmt: skip
    """A token among those that the guide names, by their `logits` `(vocabulary,)`."""
    allowed = list(guide.instead(logits.topk(min(_LIKELY, len(logits))).indices.tolist()))
    if not allowed:
        return end
    if row not in again:
        again[row] = torch.Generator().manual_seed((seeds[row] + 1) % 2**63)
    noise = torch.rand((1,), generator=again[row]).to(logits.device)
    return allowed[int(choose(logits[allowed].unsqueeze(0), noise, sampling))]


def _steps(
    model: Any, ids: Tensor, mask: Tensor, cache: Any = None, known: int = 0
) -> Iterator[Any]:
    """Yields the next token's logits `(rows, vocabulary)` and the cache; is sent the tokens chosen `(rows,)`."""
    places = (mask.cumsum(1) - 1).clamp(min=0)[:, known:]
    ids = ids[:, known:]
    while True:
        found = model(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        cache = found.past_key_values
        ids = (yield found.logits[:, -1], cache).unsqueeze(1)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        places = places[:, -1:] + 1


def choose(logits: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
    """Tokens `(rows,)` by inverting the distribution function of `logits` `(rows, vocabulary)` at `noise` `(rows,)`.

    Numbers of `noise` lie in [0, 1). Of tokens ranked by probability, those are left out that come behind `top_k`, or
    behind the first ones that reach `top_p`; the first always stays.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    shares = (logits / sampling.temperature).softmax(-1)
    share, token = torch.sort(shares, dim=-1, descending=True, stable=True)
    total = share.cumsum(-1)
    keep = total - share < sampling.top_p
    if sampling.top_k:
        keep[:, sampling.top_k :] = False
    reach = (share * keep).cumsum(-1)
    at = (reach <= noise.unsqueeze(1) * reach[:, -1:]).sum(-1, keepdim=True)
    at = at.minimum(keep.sum(-1, keepdim=True) - 1)
    return token.gather(1, at).squeeze(1)
