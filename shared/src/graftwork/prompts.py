"""Where prompts lie in the sequences that a model is called with, for grafts that act on positions.

    with gw.prompt(model, end=lengths):                      # padding on the right, or an answer behind the prompt
        loss = model(tokens, labels=labels).loss
    with gw.prompt(model, start=padding, end=width):         # padding on the left
        model.generate(tokens, attention_mask=mask)

Without it, a call that does not go on from a key-value cache is one whole prompt in every row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.methods.base import Prompt
from graftwork.states import MethodState

Places = int | Sequence[int] | Tensor


@contextlib.contextmanager
def prompt(model: nn.Module, end: Places, start: Places = 0) -> Iterator[None]:
    """Say where the prompts lie in the calls of this block; generated tokens behind them are left as they are.

    A prompt must lie in one call: where a key-value cache holds a part of it, the rest counts as generated. A
    model that runs each row several times, one behind the other (beam search), is understood.

    Args:
        model: any module; what is grafted inside it and acts on positions is told.
        end: for each row, the position behind the prompt's last; one number holds for one row or all alike.
        start: for each row, the prompt's first position.

    Raises:
        GraftError: places that are no whole numbers or out of order, a prompt that is shorter than the positions that
            a graft edits, or another such block around this one.
    """
    begins, ends = _places("start", start), _places("end", end)
    if 1 not in (len(begins), len(ends)) and len(begins) != len(ends):
        raise GraftError(f"prompt: {len(begins)} starts and {len(ends)} ends")
    begins, ends = (t.clone() for t in torch.broadcast_tensors(begins, ends))
    if len(ends) == 0 or bool((begins < 0).any()) or bool((ends < begins).any()):
        raise GraftError(
            "prompt: start and end must be 0 or more for each row, end not below start"
        )
    states = _positional(model)
    if any(s.prompt.start is not None for s in states):
        raise GraftError("prompt: the model is inside another such block; leave that one first")
    for state in states:
        why = state.method.refuses_length(int((ends - begins).min()))
        if why is not None:
            raise GraftError(why)
    said = Prompt(begins, ends, int(ends.max()))
    try:
        for state in states:
            state.prompt = said
        yield
    finally:
        for state in states:
            state.prompt = Prompt()


def acts_on_prompts(model: nn.Module) -> bool:
    """Whether a graft inside the model acts on the positions of prompts, so that a prompt must lie in one call."""
    return bool(_positional(model))


def _positional(model: nn.Module) -> list[MethodState]:
    return [m for m in model.modules() if isinstance(m, MethodState) and m.method.positional]


def _places(name: str, value: Places) -> Tensor:
    try:
        found = torch.as_tensor(value).detach().cpu().reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise GraftError(f"prompt: {name} must be whole numbers, not {value!r}") from None
    if found.is_floating_point() or found.dtype == torch.bool or found.is_complex():
        raise GraftError(f"prompt: {name} must be whole numbers, not {found.dtype}")
    return found.long()
