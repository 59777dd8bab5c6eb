"""Which layout does a model take, and how are the tasks of a pass joined in it?"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.tenants.align import (
    Aligned,
    Batch,
    Inputs,
    batches,
    chunked,
    packed,
    padded,
    tensor_of,
)
from graftwork.tenants.cost import TaskLoad
from graftwork.tenants.layouts import (
    CHUNKS,
    LAYOUTS,
    LEAST_ROWS,
    PLANNED,
    Shape,
    check_chunk,
    choose_chunk,
    fewest_rows,
    shape,
)

#: which of the shapes that a pass may have
Pick = Callable[[Sequence[Shape]], Shape]


class Aligner:
    """Joins the sequences of several tasks for one causal language model of transformers, or one that is called alike.

    Args:
        model: called with `input_ids`, `position_ids` and an additive `attention_mask` (lines, 1, width, width).
        layout: "padded", "chunked", "packed", or "planned": the one that `pick` takes, pass by pass.
        chunk: C; `None` chooses it, pass by pass, among those of `sizes`.
        limit: positions of the model; `None` reads `config.max_position_embeddings`.
        sizes, least: chunk sizes that are tried, and the rows that a pass should keep.
        check: compare a small pass in each layout with the sequences one by one, before anything is trained.

    Attributes:
        pick: takes one of the shapes that a pass may have, such as `CostModel.least`; `None`, as long as nothing was
            timed, takes the one with the fewest rows.

    Raises:
        GraftError: an unknown layout, a chunk size that is below 1 or above the positions, or a layout that the model
            does not compute exactly.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: str = PLANNED,
        chunk: int | None = None,
        *,
        limit: int | None = None,
        sizes: Sequence[int] = CHUNKS,
        least: int = LEAST_ROWS,
        check: bool = True,
    ) -> None:
        if layout not in (*LAYOUTS, PLANNED):
            raise GraftError(f"layout: {layout!r} is none of {', '.join((*LAYOUTS, PLANNED))}")
        config = getattr(model, "config", None)
        self.limit = limit or getattr(config, "max_position_embeddings", None)
        if chunk is not None:
            check_chunk(chunk, self.limit)
        self.model, self.layout, self.chunk = model, layout, chunk
        self.sizes, self.least = sizes, least
        self.pick: Pick | None = None
        self.window = _window(config)
        self.refused: dict[str, str] = {}
        takes = inspect.signature(model.forward).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        if "position_ids" not in takes:
            why = f"{type(model).__name__} takes no position_ids"
            self.refused = {"chunked": why, "packed": why}
        self._options = {"use_cache": False} if "use_cache" in takes or anything else {}
        if check:
            self._check()
        if layout in self.refused:
            raise GraftError(f'layout: {layout!r}: {self.refused[layout]}; take "padded"')

    def layouts(self, longest: int = 0) -> tuple[str, ...]:
        """Those that this model takes for sequences of up to `longest` tokens."""
        return tuple(k for k in LAYOUTS if not self.obstacle(k, longest))

    def obstacle(self, layout: str, longest: int = 0) -> str:
        """Why a layout does not go for sequences of up to `longest` tokens; empty if it does."""
        if layout in self.refused or layout == "padded":
            return self.refused.get(layout, "")
        if self.window is not None and longest > self.window:
            # it counts from each token back, which neither a block's mask nor a chunk's place says
            return f"it has no sliding window of {self.window} tokens, and a sequence has {longest}"
        if layout == "chunked" and getattr(self.model, "is_gradient_checkpointing", False):
            return "a checkpointed module computes its attention again when the chunks are not joined any more"
        return ""

    def candidates(self, lengths: Sequence[int]) -> list[Shape]:
        """The shapes that a pass of sequences of these lengths may have, the simplest layout first.

        Of chunks, all sizes where `pick` weighs them, else the one of `choose_chunk`.

        Raises:
            GraftError: a sequence above the model's positions, or a layout that does not go, with the reason.
        """
        longest = max(lengths)
        if self.limit is not None and longest > self.limit:
            raise GraftError(
                f"a sequence of {longest} tokens is above the {self.limit} positions of the model; cut it"
            )
        good = self.layouts(longest)
        if self.layout != PLANNED:
            why = self.obstacle(self.layout, longest)
            if why:
                raise GraftError(f'layout: {self.layout!r}: {why}; take "padded"')
            good = (self.layout,)
        sizes = self.sizes if self.chunk is None else (self.chunk,)
        small = [c for c in sizes if self.limit is None or c <= self.limit]
        if not small and len(good) > 1:
            good = tuple(k for k in good if k != "chunked")
        found = []
        for layout in good:
            chunks: Sequence[int | None] = (None,)
            if layout == "chunked" and self.pick is not None and small:
                chunks = small
            elif layout == "chunked":
                least = self.least if self.chunk is None else 0
                chunks = (choose_chunk(lengths, self.limit, sizes, least),)
            found += [shape(lengths, layout, chunk) for chunk in chunks]
        return found

    def choice(self, lengths: Sequence[int]) -> Shape:
        """The shape of a pass of sequences of these lengths.

        Raises:
            GraftError: as `candidates`.
        """
        return (self.pick or fewest_rows)(self.candidates(lengths))

    def shapes(self, group: Sequence[TaskLoad]) -> list[Shape]:
        """Those that a pass of some loads may have: what the planner asks for."""
        found = self.candidates([n for load in group for n in load.lengths])
        return found if self.pick is not None else [fewest_rows(found)]

    @contextlib.contextmanager
    def only(self, shape: Shape) -> Iterator[None]:
        """Inside, passes take this layout and chunk size, so that they can be timed."""
        kept, self.pick = self.pick, lambda _: shape
        try:
            yield
        finally:
            self.pick = kept

    def align(self, inputs: Mapping[str, Inputs]) -> Aligned:
        """The tasks' sequences as one pass."""
        tasks = batches(inputs)
        found = self.choice([n for t in tasks for n in t.lengths])
        return self._laid(tasks, found.layout, found.chunk)

    def run(self, aligned: Aligned) -> Tensor:
        """Call the model: (lines, width, ...)."""
        with aligned.attending():
            return tensor_of(self.model(**aligned.inputs, **self._options))

    def _laid(self, tasks: Sequence[Batch], layout: str, chunk: int | None) -> Aligned:
        if layout == "padded":
            return padded(tasks)
        dtype = next(self.model.parameters()).dtype
        if layout == "chunked":
            lengths = [n for t in tasks for n in t.lengths]
            size = chunk or choose_chunk(lengths, self.limit, self.sizes, self.least)
            return chunked(tasks, size, self.limit, dtype)
        return packed(tasks, None, dtype)

    @torch.no_grad()
    def _check(self) -> None:
        """Sequences of 3, 9 and 5 tokens in each layout, compared with each alone."""
        longest = min(9, self.limit or 9, self.window or 9)
        lengths = (min(3, longest), longest, min(5, longest))
        device = next(self.model.parameters()).device
        vocabulary = int(getattr(getattr(self.model, "config", None), "vocab_size", 8))
        drawn = torch.Generator().manual_seed(0)
        ids = torch.randint(min(1, vocabulary - 1), vocabulary, (3, longest), generator=drawn)
        ids = ids.to(device)
        was = {m: m.training for m in self.model.modules()}
        self.model.eval()
        try:
            alone = [
                tensor_of(self.model(ids[i : i + 1, :n], **self._options))[0]
                for i, n in enumerate(lengths)
            ]
            for layout in [k for k in LAYOUTS if k not in self.refused]:
                why = self._differs(layout, ids, lengths, alone)
                if why:
                    self.refused[layout] = why
        finally:
            for m, training in was.items():
                m.training = training
        if "padded" in self.refused:
            raise GraftError(
                f"{type(self.model).__name__} is not causal, with padding behind a sequence {self.refused['padded']}; "
                "its tasks cannot share a pass"
            )

    def _differs(
        self, layout: str, ids: Tensor, lengths: tuple[int, ...], alone: Sequence[Tensor]
    ) -> str:
        tasks = [Batch("x", ids, lengths)]
        try:
            aligned = self._laid(tasks, layout, max(1, (max(lengths) + 1) // 2))
            found = aligned.own(self.run(aligned), "x")
        except GraftError as error:
            return str(error)
        low = found.dtype in (torch.float16, torch.bfloat16)
        for i, n in enumerate(lengths):
            size = float(alone[i].abs().max())
            gap = float((found[i, :n] - alone[i]).abs().max())
            if not gap <= (0.05 if low else 1e-4) * max(size, 1e-6):
                return f"{type(self.model).__name__} gives other answers (off by {gap:.2g} of {size:.2g})"
        return ""


def _window(config: Any) -> int | None:
    """The shortest sliding window of a transformers config; `None` without."""
    if config is None or getattr(config, "use_sliding_window", True) is False:
        return None
    sizes = [getattr(config, name, None) for name in ("sliding_window", "window_size")]
    local = "local" in (getattr(config, "attention_layers", None) or ())
    found = [
        s for s, holds in zip(sizes, (True, local), strict=True) if isinstance(s, int) and holds
    ]
    return min(found, default=None)
