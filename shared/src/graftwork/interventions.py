"""What LoReFT, DiReFT and CoRe share: an edit of the hidden states behind a block, at chosen positions.

    h_p <- h_p + edit(h_p) for p in P, all others as they are            (Wu et al. 2024, arXiv 2404.03592, section 3)

P = {the first p} and {the last s} positions of the prompt. Where the prompt lies: without more, a call that does not go
on from a key-value cache is one whole prompt in every row, and a call that does has nothing of it: generated tokens are
not edited. Padding, answers behind the prompt in training, and generation without a cache need `graftwork.prompt`.
Several grafts on one block add up their edits of the block's own output.

Departures: the edit is dropped out, not the edited vector with its residual. A prompt shorter than p + s is refused,
or, with short="shrink", served as in the paper: p <- min(p, floor(n/2)), s <- min(s, ceil(n/2)) (the public code
takes floor in both). Rows that have fewer positions then edit fewer; no pad token stands in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.algebra.geometry import Geometry
from graftwork.algebra.linear import Block
from graftwork.cards import expand_kinds
from graftwork.errors import GraftError
from graftwork.methods.base import Call, Method, Params, Prompt, setting
from graftwork.starts.orthonormal import orthonormal

#: lists of whole blocks as they are called in transformers, timm and torch
LISTS = ("*layers", "*.h", "h", "*encoder.layer", "*transformer.layer", "*block", "*blocks")
DIGITS = ("[0-9]", "[0-9][0-9]", "[0-9][0-9][0-9]")


@dataclass(frozen=True)
class Intervention(Method):
    """An edit of hidden states, without the edit.

    Args:
        rank: r, dimensions of the edited subspace.
        first: p, edited positions from the prompt's begin. last: s, from its end.
        tied: one edit for both; otherwise each has its own.
        where: "ends" edits these, "prompt" the whole prompt, "all" everything, generated tokens too.
        short: what becomes of prompts shorter than p + s: "refuse", or "shrink" p and s.
        dropout: probability of zeroing an element of the edit in training.
    """

    rank: int = setting(4, low=1)
    first: int = setting(4, low=0)
    last: int = setting(4, low=0)
    tied: bool = True
    where: str = setting("ends", choices=("ends", "prompt", "all"))
    short: str = setting("refuse", choices=("refuse", "shrink"))
    dropout: float = setting(0.0, low=0.0, high=0.999)

    changes: ClassVar[str] = "activation"
    positional: ClassVar[bool] = True
    layer_kinds: ClassVar[tuple[str, ...]] = expand_kinds(["linear", "transposed_linear", "block"])
    default_kinds: ClassVar[tuple[str, ...]] = ("linear", "transposed_linear")
    default_globs: ClassVar[tuple[str, ...]] = tuple(f"{n}.{d}" for n in LISTS for d in DIGITS)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.where == "ends" and self.first + self.last == 0:
            raise GraftError(
                f"{name}.first and last are both 0: no position is edited; give one, or where='all'"
            )
        if not self.tied and (self.where != "ends" or 0 in (self.first, self.last)):
            raise GraftError(f"{name}.tied: False needs where='ends', and first and last above 0")

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        name = type(self).__name__
        if self.rank > geo.out:
            return f"{name}.rank = {self.rank} is above the width of the hidden states, {geo.out}"
        if self.where == "all":
            return None
        if not isinstance(geo, Block):
            return (
                f"{name}.where = {self.where!r}: a single layer is not told where the prompt ends; graft a whole "
                "block, or take where='all'"
            )
        if not geo.batch_first:
            return f"{name}.where = {self.where!r} needs batch_first=True: rows before positions"
        return None

    def refuses_merge(self) -> str | None:
        return (
            f"{self.id} edits hidden states, which the residual stream and the next norm read too: no weight "
            "can hold that"
        )

    def refuses_length(self, length: int) -> str | None:
        if self.where != "ends" or self.short == "shrink" or length >= self.first + self.last:
            return None
        return (
            f"{type(self).__name__}.first + last = {self.first} + {self.last} positions lie beyond a prompt of "
            f"{length}; set fewer, or short='shrink'"
        )

    # -- the edit -----------------------------------------------------------------------------------

    def edit(self, p: Params, h: Tensor) -> Tensor:
        """What is added to hidden states `(..., d)`; `p` and `h` are in float32 or wider."""
        raise NotImplementedError

    def rows(self, p: Params) -> Tensor:
        """Orthonormal rows `(..., r, d)` that the edit lies in."""
        return orthonormal(p["R"])

    def edited(self, p: Params, h: Tensor, training: bool) -> Tensor:
        """`edit` at full precision whatever the model's, with dropout."""
        wide = torch.promote_types(h.dtype, torch.float32)
        with torch.autocast(h.device.type, enabled=False):
            change = self.edit({k: t.to(wide) for k, t in p.items()}, h.to(wide))
            return F.dropout(change, self.dropout, training)

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        name, shape = type(self).__name__, tuple(c.y.shape)
        if shape[-1:] != (geo.out,):
            raise GraftError(
                f"{name}: the block returns {shape}, not vectors of {geo.out} features"
            )
        if self.where == "all":
            return self.edited(p, c.y, c.training)
        if c.y.dim() not in (2, 3):
            raise GraftError(
                f"{name}.where = {self.where!r}: {shape} is not (rows, positions, features)"
            )
        if c.prompt.over:
            return torch.zeros_like(c.y)
        h = c.y if c.y.dim() == 3 else c.y.unsqueeze(0)
        start, end = bounds(c.prompt, h)
        if self.where == "prompt":
            place = torch.arange(h.shape[1], device=h.device)
            inside = ((place >= start) & (place < end)).unsqueeze(-1)
            return (inside * self.edited(p, h, c.training)).reshape(shape)
        if c.prompt.start is None:
            why = self.refuses_length(h.shape[1])
            if why is not None:
                raise GraftError(why)
        first, last = self.places(start, end, h.shape[1])
        own = {k: t.unbind(0) for k, t in p.items()} if not self.tied else {}
        parts = (
            [(p, torch.cat([first, last], 1))]
            if self.tied
            else [({k: t[i] for k, t in own.items()}, at) for i, at in enumerate((first, last))]
        )
        total = None
        for params, at in parts:
            index = at.unsqueeze(-1).expand(-1, -1, geo.out)
            # a place behind the sequence stands for none: what is written there is cut off
            taken = self.edited(params, h.gather(1, index.clamp(max=h.shape[1] - 1)), c.training)
            if total is None:
                total = taken.new_zeros(h.shape[0], h.shape[1] + 1, geo.out)
            total = total.scatter(1, index, taken)
        assert total is not None
        return total[:, :-1].reshape(shape)

    def places(self, start: Tensor, end: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Edited positions `(rows, p)` and `(rows, s)`; n where a row has none."""
        length = end - start
        first, last = torch.full_like(length, self.first), torch.full_like(length, self.last)
        if self.short == "shrink":
            fits = length >= first + last
            half = length // 2
            first = torch.where(fits, first, torch.minimum(first, half))
            last = torch.where(fits, last, torch.minimum(last, length - half))
        i, j = (torch.arange(k, device=start.device) for k in (self.first, self.last))
        return torch.where(i < first, start + i, n), torch.where(j < last, end - last + j, n)


def bounds(prompt: Prompt, h: Tensor) -> tuple[Tensor, Tensor]:
    """Begin and end of the prompt in each row of `h` `(rows, positions, d)`, each `(rows, 1)`.

    Raises:
        GraftError: the prompts that were announced do not fit the call.
    """
    rows, n = h.shape[:2]
    if prompt.start is None or prompt.end is None:
        whole = torch.full((rows, 1), n, device=h.device)
        return torch.zeros_like(whole), whole
    said = len(prompt.start)
    if rows % said or prompt.reach > n:
        raise GraftError(
            f"prompt: {said} prompts that end at {prompt.reach} were announced; the model runs {rows} rows of {n} "
            "positions"
        )
    # beam search runs each row several times, one behind the other
    start, end = (
        t.to(h.device).repeat_interleave(rows // said).unsqueeze(-1)
        for t in (prompt.start, prompt.end)
    )
    return start, end
