"""Sequences of several tasks in one pass of a causal language model: padded, chunked or packed, always exact.

- padded: one line for each sequence, as long as the longest.
- chunked (MuxTune): lines of C tokens. The lines of a long sequence are neighbours, and the attention of each sees the
  keys and values of those before it, with their gradients: inside every `scaled_dot_product_attention` the lines of a
  sequence lie one behind another again. Everything else in the model sees equal lines.
- packed: whole sequences one behind another in lines of a common width, positions from 0, a block-diagonal mask.

What is left free at the end of a line belongs to nobody, or to its sequence's own task, and no real token sees it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.attending import Inside
from graftwork.errors import GraftError
from graftwork.tenants.layouts import Waste, bins, check_chunk

#: what a task hands over: token ids (b, l), or a dict with `input_ids` and perhaps `attention_mask`, or in its place
#: `lengths`, whole numbers that need not be fetched from a device
Inputs = Tensor | Mapping[str, Any]


@dataclass(frozen=True)
class Batch:
    """The sequences of one task.

    Attributes:
        name: of the task.
        tokens: (b, l), the real ones first in each row.
        lengths: how many of each row are real.
    """

    name: str
    tokens: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Aligned:
    """One pass: what the model is called with, and the way back.

    Attributes:
        layout: "padded", "chunked" or "packed".
        inputs: arguments of the model: `input_ids` (lines, width), `position_ids`, a mask where one is needed.
        names, sizes: whose the rows are, run by run; "" is nobody. Rows are lines, or tokens if packed.
        spans: by task, for each of its sequences where its tokens lie among lines x width: (first, length).
        widths: by task, the l of its own batch.
        chunks: for each sequence, the numbers of its lines; empty unless chunked.
    """

    layout: str
    inputs: dict[str, Tensor]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    spans: Mapping[str, tuple[tuple[int, int], ...]]
    widths: Mapping[str, int]
    chunks: tuple[tuple[int, ...], ...] = ()
    _order: dict[torch.device, tuple[list[Tensor], Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )

    _places_of: dict[tuple[str, torch.device], tuple[Tensor, Tensor | None]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def waste(self) -> Waste:
        """Rows without a token."""
        real = sum(n for spans in self.spans.values() for _, n in spans)
        return Waste(real, self.inputs["input_ids"].numel())

    def own(self, output: Any, name: str) -> Tensor:
        """A task's part of what the model returned, as if it had been called with its own batch alone.

        Args:
            output: (lines, width, ...), or an object whose `logits` or `last_hidden_state` is that.
            name: of the task.

        Returns:
            (b, l, ...), zero behind the end of a sequence.
        """
        flat = tensor_of(output).flatten(0, 1)
        index, free = self._gather(name, flat.device)
        width = self.widths[name]
        rows = flat.index_select(0, index).view(-1, width, *flat.shape[1:])
        return (
            rows
            if free is None
            else rows.masked_fill(free.view(*free.shape, *[1] * (rows.dim() - 2)), 0)
        )

    def _gather(self, name: str, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Where a task's tokens lie, row by row, and which places of its rows are free."""
        key = (name, device)
        if key not in self._places_of:
            at = torch.arange(self.widths[name])
            first, lengths = (torch.tensor(v)[:, None] for v in zip(*self.spans[name], strict=True))
            free = at >= lengths
            index = first + at.where(
                ~free, 0
            )  # a free place shows its own sequence's first token, masked
            none = not bool(free.any())
            self._places_of[key] = (
                index.flatten().to(device, non_blocking=True),
                None if none else free.to(device, non_blocking=True),
            )
        return self._places_of[key]

    @contextlib.contextmanager
    def attending(self) -> Iterator[None]:
        """Inside, attention sees what the layout means it to see; nothing to do unless chunked.

        Raises:
            GraftError: no attention of the model could be reached, or one has a mask of its own.
        """
        if max(map(len, self.chunks), default=1) == 1:
            yield
            return
        inside = Inside(self._attend)
        with inside:
            yield
        if inside.calls == 0:
            raise GraftError(
                "chunked: the model does not call scaled_dot_product_attention, so later chunks cannot see the earlier "
                'ones; load it with attn_implementation="sdpa", or take the layout "padded" or "packed"'
            )

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **more: Any,
    ) -> Tensor:
        ours = self.inputs.get("attention_mask")
        same = attn_mask is None or (ours is not None and attn_mask.data_ptr() == ours.data_ptr())
        # a call with one query has no need to say that it is causal
        if not same or not (is_causal or attn_mask is not None or query.shape[2] == 1):
            raise GraftError(
                "chunked: an attention of the model has a mask of its own (a sliding window, or positions in it), "
                'which holds for whole sequences only; take the layout "padded" or "packed"'
            )
        lines, back = self._places(query.device)
        out = []
        for index in lines:  # (sequences of k chunks, k)
            q, k, v = (_joined(t, index) for t in (query, key, value))
            done = F.scaled_dot_product_attention(q, k, v, None, dropout_p, True, **more)
            out.append(_cut(done, index.shape[1]))
        return torch.cat(out).index_select(0, back)

    def _places(self, device: torch.device) -> tuple[list[Tensor], Tensor]:
        if device not in self._order:
            counts = sorted({len(c) for c in self.chunks})
            lines = [torch.tensor([c for c in self.chunks if len(c) == n]) for n in counts]
            back = torch.cat([i.flatten() for i in lines]).argsort()
            self._order[device] = [i.to(device) for i in lines], back.to(device)
        return self._order[device]


def _joined(t: Tensor, index: Tensor) -> Tensor:
    """(lines, heads, C, d) -> (sequences, heads, k C, d)."""
    count, chunks = index.shape
    t = t.index_select(0, index.flatten()).unflatten(0, (count, chunks))
    return t.transpose(1, 2).flatten(2, 3)


def _cut(t: Tensor, chunks: int) -> Tensor:
    """The inverse, lines in the order of the sequences."""
    cut: Tensor = t.unflatten(2, (chunks, -1))
    return cut.transpose(1, 2).flatten(0, 1)


def tensor_of(output: Any) -> Tensor:
    """The tensor that a model returned: itself, or its `logits` or `last_hidden_state`.

    Raises:
        GraftError: there is none.
    """
    for name in ("logits", "last_hidden_state"):
        output = getattr(output, name, output)
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if isinstance(output, Tensor):
        return output
    raise GraftError(f"body: it returned a {type(output).__name__} without logits; return a tensor")


def batches(inputs: Mapping[str, Inputs]) -> list[Batch]:
    """What the tasks handed over, checked.

    Raises:
        GraftError: no token ids of shape (b, l), a mask of another shape, or a sequence whose padding is not at its
            end.
    """
    out = []
    for name, given in inputs.items():
        mask: Tensor | None = None
        told: Sequence[int] | None = None
        if isinstance(given, Mapping):
            mask, told = given.get("attention_mask"), given.get("lengths")
            tokens = given.get("input_ids")
            odd = sorted({*given} - {"input_ids", "attention_mask", "lengths", "labels"})
            if odd:
                raise GraftError(
                    f"task {name!r}: {odd[0]!r} cannot be aligned with other tasks' sequences; hand over input_ids and "
                    "attention_mask alone"
                )
        else:
            tokens = given
        if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.numel() == 0:
            shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise GraftError(f"task {name!r}: input_ids must be (sequences, tokens), not {shape}")
        if told is not None:
            lengths = tuple(told)
            if len(lengths) != len(tokens) or not all(0 < n <= tokens.shape[1] for n in lengths):
                raise GraftError(
                    f"task {name!r}: lengths must be one for each of {len(tokens)} sequences, 1 to {tokens.shape[1]}"
                )
        elif mask is None:
            lengths = (tokens.shape[1],) * tokens.shape[0]
        else:
            if mask.shape != tokens.shape:
                raise GraftError(
                    f"task {name!r}: attention_mask is {tuple(mask.shape)}, input_ids are {tuple(tokens.shape)}"
                )
            real = mask.bool()
            lengths = tuple(real.sum(1).tolist())
            at = torch.arange(tokens.shape[1], device=mask.device)
            if min(lengths) < 1 or not torch.equal(real, at < real.sum(1, keepdim=True)):
                raise GraftError(
                    f"task {name!r}: attention_mask must be ones and then zeros; pad at the end of each sequence"
                )
        out.append(Batch(name, tokens, lengths))
    if not out:
        raise GraftError("tasks: there is no sequence to align")
    return out


def padded(tasks: Sequence[Batch]) -> Aligned:
    """One line for each sequence. A causal model needs no mask: padding lies behind all that is real."""
    width = max(n for t in tasks for n in t.lengths)
    lines = torch.cat([_fit(t.tokens, width) for t in tasks])
    spans, first = {}, 0
    for t in tasks:
        spans[t.name] = tuple(((first + i) * width, n) for i, n in enumerate(t.lengths))
        first += len(t.lengths)
    return Aligned(
        "padded",
        {"input_ids": lines},
        tuple(t.name for t in tasks),
        tuple(len(t.lengths) for t in tasks),
        spans,
        _widths(tasks),
    )


def chunked(
    tasks: Sequence[Batch],
    chunk: int,
    limit: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Aligned:
    """Lines of `chunk` tokens.

    Args:
        tasks: the sequences.
        chunk: C.
        limit: positions of the model: where the last line of a sequence would reach beyond, its free places repeat
            the last position, and a mask tells transformers that no new sequence begins there.
        dtype: of that mask: the model's.

    Raises:
        GraftError: a chunk below 1.
    """
    check_chunk(chunk)
    beyond = limit is not None and any(
        -(-n // chunk) * chunk > limit for t in tasks for n in t.lengths
    )
    lines, positions, sizes, chunks = [], [], [], []
    spans: dict[str, tuple[tuple[int, int], ...]] = {}
    first = 0
    for t in tasks:
        mine, begin = [], first
        for row, n in zip(t.tokens, t.lengths, strict=True):
            count = -(-n // chunk)
            lines.append(F.pad(row[:n], (0, count * chunk - n)).view(count, chunk))
            at = torch.arange(count * chunk, device=row.device)
            positions.append((at.clamp(max=n - 1) if beyond else at).view(count, chunk))
            mine.append((first * chunk, n))
            chunks.append(tuple(range(first, first + count)))
            first += count
        spans[t.name] = tuple(mine)
        sizes.append(first - begin)
    inputs = {"input_ids": torch.cat(lines), "position_ids": torch.cat(positions)}
    if beyond:
        inputs["attention_mask"] = _mask(
            torch.ones(1, chunk, chunk, device=lines[0].device).bool(), dtype
        )
    return Aligned(
        "chunked",
        inputs,
        tuple(t.name for t in tasks),
        tuple(sizes),
        spans,
        _widths(tasks),
        tuple(chunks),
    )


def packed(
    tasks: Sequence[Batch], width: int | None = None, dtype: torch.dtype = torch.float32
) -> Aligned:
    """Whole sequences in lines of `width` tokens, by default the longest sequence.

    Args:
        tasks: the sequences.
        width: of a line.
        dtype: of the mask, which is added to the attention's scores: the model's.

    Raises:
        GraftError: a sequence is longer than a line.
    """
    every = [(t, i) for t in tasks for i in range(len(t.lengths))]
    lengths = [t.lengths[i] for t, i in every]
    width = width or max(lengths)
    device = tasks[0].tokens.device
    plan = bins(lengths, width)
    ids = torch.zeros(len(plan), width, dtype=tasks[0].tokens.dtype, device=device)
    positions, blocks = torch.zeros_like(ids), torch.zeros_like(ids)
    names: list[str] = []
    sizes: list[int] = []
    found: dict[str, dict[int, tuple[int, int]]] = {t.name: {} for t in tasks}
    for line, members in enumerate(plan):
        at = 0
        # one task's sequences as neighbours: fewer runs
        for block, k in enumerate(sorted(members)):
            (t, i), n = every[k], lengths[k]
            ids[line, at : at + n] = t.tokens[i, :n]
            positions[line, at : at + n] = torch.arange(n, device=device)
            blocks[line, at : at + n] = block + 1
            found[t.name][i] = (line * width + at, n)
            names.append(t.name)
            sizes.append(n)
            at += n
        if at < width:
            names.append("")
            sizes.append(width - at)
    mask = _mask(blocks[:, :, None] == blocks[:, None, :], dtype)
    return Aligned(
        "packed",
        {"input_ids": ids, "position_ids": positions, "attention_mask": mask},
        tuple(names),
        tuple(sizes),
        {name: tuple(where[i] for i in sorted(where)) for name, where in found.items()},
        _widths(tasks),
    )


def _mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores, (lines, 1, width, width), where a token sees `seen` of those before it."""
    added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return added.masked_fill_(~seen.tril(), torch.finfo(dtype).min)[:, None]


def _widths(tasks: Sequence[Batch]) -> dict[str, int]:
    return {t.name: t.tokens.shape[1] for t in tasks}


def _fit(tokens: Tensor, width: int) -> Tensor:
    return F.pad(tokens[:, :width], (0, max(0, width - tokens.shape[1])))
