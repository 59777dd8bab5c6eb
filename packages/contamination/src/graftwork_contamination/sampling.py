"""The greedy answer and samples for each prompt, in batches padded on the left.

Each prompt has a random stream of its own, so that its samples depend neither on what shares its batch nor on
the order of the prompts.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_contamination.likelihood import scoring


def continuations(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    samples: int = 50,
    temperature: float = 0.8,
    max_new_tokens: int = 100,
    end: int | None = None,
    seed: int = 0,
    streams: Sequence[int] | None = None,
    rows: int = 64,
) -> list[list[list[int]]]:
    """For each prompt the greedy answer, then the samples, over the full vocabulary; without the end token.

    Args:
        model: a causal language model as in transformers, with a key-value cache.
        prompts: tokens of each.
        temperature: of the samples; 0 takes the likeliest token.
        end: the token that ends an answer; `None`: each has `max_new_tokens`.
        seed, streams: a prompt's samples depend on `seed` and its number in `streams` (default: its place).
        rows: sequences that are answered at once.

    Raises:
        GraftError: an empty prompt, one that is too long for the model's positions, or NaN.
    """
    if samples < 1:
        raise GraftError(f"samples {samples}: must be 1 or more")
    if temperature < 0:
        raise GraftError(f"temperature {temperature}: must be 0 or more")
    numbers = range(len(prompts)) if streams is None else streams
    room = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    for i, p in enumerate(prompts):
        if not len(p):
            raise GraftError(f"prompt {i}: has no token")
        if room is not None and len(p) + max_new_tokens > room:
            raise GraftError(
                f"prompt {i}: {len(p)} tokens and {max_new_tokens} new ones are more than the model's {room} "
                "positions; shorten the prompt or lower max_new_tokens"
            )
    out: list[list[list[int]]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    each = max(1, rows // (samples + 1))
    with torch.no_grad(), scoring(model):
        for at in range(0, len(order), each):
            chosen = order[at : at + each]
            streams_of = [torch.Generator().manual_seed(_mix(seed, numbers[i])) for i in chosen]
            found = _answer(
                model, [prompts[i] for i in chosen], samples, temperature, max_new_tokens, end, streams_of
            )  # fmt: skip
            for i, mine in zip(chosen, found, strict=True):
                out[i] = mine
    return out


def _mix(seed: int, stream: int) -> int:
    return (seed * 1_000_003 + stream * 7_919 + 12_345) % 2**63


def _answer(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    samples: int,
    temperature: float,
    most: int,
    end: int | None,
    streams: Sequence[torch.Generator],
) -> list[list[list[int]]]:
    device = next(model.parameters()).device
    count, width = samples + 1, max(map(len, prompts))
    padding = [width - len(p) for p in prompts for _ in range(count)]
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts for _ in range(count)])
    mask = (torch.arange(width) >= torch.tensor(padding).unsqueeze(1)).long().to(device)
    greedy = torch.arange(len(ids), device=device) % count == 0
    known = inspect.signature(model.forward).parameters
    # the head's logits at every place of the prompt would be gigabytes
    more: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    fed, cache, finished = ids.to(device), None, torch.zeros(len(ids), dtype=torch.bool)
    drawn: list[Tensor] = []
    with gw.prompt(model, start=padding, end=width):
        for _ in range(most):
            if "position_ids" in known:
                places = (mask.cumsum(1) - 1).clamp_min(0)
                more["position_ids"] = places[:, -fed.shape[1] :]
            made: Any = model(
                input_ids=fed, attention_mask=mask, past_key_values=cache, use_cache=True, **more
            )
            cache = made.past_key_values
            chance = torch.cat([torch.rand(count, generator=g) for g in streams]).to(device)
            token = _pick(made.logits[:, -1], greedy, temperature, chance)
            drawn.append(token.cpu())
            if end is not None:
                finished |= drawn[-1] == end
                if bool(finished.all()):
                    break
            fed, mask = token.unsqueeze(1), torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    tokens: list[list[int]] = torch.stack(drawn, 1).tolist()
    cut = [row[: row.index(end)] if end in row else row for row in tokens]
    return [cut[i : i + count] for i in range(0, len(cut), count)]


def _pick(logits: Tensor, greedy: Tensor, temperature: float, chance: Tensor) -> Tensor:
    scores = logits.float()
    if bool(scores.isnan().any()):
        raise GraftError("the model's outputs are NaN; load it in float32")
    best = scores.argmax(-1)
    if temperature == 0:
        return best
    # double, since the sum over a large vocabulary must not lose its tail
    edges = (scores.double() / temperature).softmax(-1).cumsum(-1)
    wanted = chance.double().unsqueeze(1) * edges[:, -1:]
    token = torch.searchsorted(edges, wanted, right=True).squeeze(1).clamp_max(logits.shape[-1] - 1)
    return torch.where(greedy, best, token)
