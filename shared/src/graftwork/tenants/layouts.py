"""How are sequences of unequal length laid out, and what does it waste? Counts alone; `align` moves the tensors.

With n sequences of lengths l_i, the rows that a pass has are

    padded   n max(l)                          one row for each sequence, as long as the longest
    chunked  sum of C ceil(l_i / C)            equal chunks of C tokens, stacked
    packed   (rows that hold them) x width     whole sequences one behind the other

and waste = 1 - sum(l) / rows. The chunk size is not in MuxTune; ours wastes least among those that leave enough rows
in a pass. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.errors import GraftError

#: the layout that needs no operation of its own, and all
PLAIN = "padded"
LAYOUTS = (PLAIN, "chunked", "packed")
#: whichever of them costs least, pass by pass
PLANNED = "planned"
#: chunk sizes that are tried, and the rows that a pass should keep
CHUNKS, LEAST_ROWS = (64, 128, 256, 512), 4096


@dataclass(frozen=True)
class Waste:
    """Real tokens and the rows that a layout has for them."""

    real: int
    rows: int

    @property
    def share(self) -> float:
        """Of the rows, those without a token."""
        return 1 - self.real / self.rows


def padded_rows(lengths: Sequence[int]) -> int:
    """Rows of one pass padded to the longest."""
    return len(lengths) * max(lengths, default=0)


def chunked_rows(lengths: Sequence[int], chunk: int) -> int:
    """Rows of all chunks."""
    check_chunk(chunk)
    return sum(-(-n // chunk) * chunk for n in lengths)


def packed_rows(lengths: Sequence[int], width: int | None = None) -> int:
    """Rows of sequences packed into lines of `width` tokens, by default as long as the longest sequence."""
    width = width or max(lengths, default=0)
    return len(bins(lengths, width)) * width


def bins(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Numbers of the sequences of each line: longest first, into the first line with room.

    Raises:
        GraftError: a sequence is longer than a line.
    """
    long = max(lengths, default=0)
    if long > width:
        raise GraftError(f"width: {width} tokens do not hold a sequence of {long}; raise it")
    lines: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((k for k, free in enumerate(room) if free >= lengths[i]), len(lines))
        if place == len(lines):
            lines.append([])
            room.append(width)
        lines[place].append(i)
        room[place] -= lengths[i]
    return lines


def waste(lengths: Sequence[int], layout: str, chunk: int | None = None) -> Waste:
    """What a layout of these lengths wastes.

    Args:
        lengths: tokens of the sequences.
        layout: one of `LAYOUTS`.
        chunk: C, for "chunked"; the width of a line for "packed", by default the longest sequence.

    Raises:
        GraftError: an unknown layout, or a chunk size that does not go.
    """
    if layout not in LAYOUTS:
        raise GraftError(f"layout: {layout!r} is none of {', '.join(LAYOUTS)}")
    if layout == "chunked":
        if chunk is None:
            raise GraftError("chunk: the layout 'chunked' needs a size; choose_chunk finds one")
        rows = chunked_rows(lengths, chunk)
    else:
        rows = padded_rows(lengths) if layout == "padded" else packed_rows(lengths, chunk)
    return Waste(sum(lengths), rows)


def check_chunk(chunk: int, limit: int | None = None, name: str = "") -> int:
    """The chunk size, if it goes.

    Args:
        chunk: tokens.
        limit: positions that the model has; `None` for no limit.
        name: of the task that asks for it, for the message.

    Raises:
        GraftError: below 1 or above the limit.
    """
    who = f"task {name!r}: " if name else ""
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise GraftError(f"{who}chunk: a size of {chunk!r}; give a whole number of at least 1")
    if limit is not None and chunk > limit:
        raise GraftError(
            f"{who}chunk: {chunk} tokens are above the {limit} positions of the model; give at most {limit}"
        )
    return chunk


def choose_chunk(
    lengths: Sequence[int],
    limit: int | None = None,
    sizes: Sequence[int] = CHUNKS,
    least: int = LEAST_ROWS,
) -> int:
    """The size of least waste among those with at least `least` rows; where none has, the one of least waste.

    Of equal waste the larger is taken: fewer chunks.

    Args:
        lengths: tokens of the sequences of a pass.
        limit: positions that the model has.
        sizes: that may be taken; those above the limit are passed over.
        least: rows that a pass should have.

    Raises:
        GraftError: all sizes are above the limit, or none is given.
    """
    good = [check_chunk(c) for c in sizes if limit is None or c <= limit]
    if not good:
        raise GraftError(f"chunk: of the sizes {tuple(sizes)} none fits into {limit} positions")
    filled = [c for c in good if chunked_rows(lengths, c) >= least] or good
    return min(filled, key=lambda c: (chunked_rows(lengths, c), -c))


@dataclass(frozen=True)
class Shape:
    """What a pass is made of, as far as its cost goes.

    Attributes:
        rows: token rows, padding included.
        layout: one of `LAYOUTS`; "" where rows are not sequences of tokens, or nobody said.
        chunk: C, if chunked.
        pairs: of a query and a key in its attention, padding included: the squares of the widths of its lines; chunked,
            of a sequence's lines together.
        pieces: parts that have operations of their own: packed, each sequence; chunked, the sequences of one number of
            chunks, which attend together; else 0.
    """

    rows: int
    layout: str = ""
    chunk: int | None = None
    pairs: int = 0
    pieces: int = 0


def shape(lengths: Sequence[int], layout: str, chunk: int | None = None) -> Shape:
    """Of a pass of sequences of these lengths.

    Args:
        lengths: tokens of the sequences.
        layout: one of `LAYOUTS`.
        chunk: C, for "chunked" alone.

    Raises:
        GraftError: as `waste`.
    """
    rows = waste(lengths, layout, chunk if layout == "chunked" else None).rows
    if layout != "chunked":
        pieces = len(lengths) if layout == "packed" else 0
        return Shape(rows, layout, None, rows * max(lengths, default=0), pieces)
    assert chunk is not None
    counts = [-(-n // chunk) for n in lengths]
    # without a sequence of two chunks attention runs as it is
    pieces = len({*counts}) if max(counts, default=1) > 1 else 0
    return Shape(rows, layout, chunk, sum((k * chunk) ** 2 for k in counts), pieces)


def fewest_rows(shapes: Sequence[Shape]) -> Shape:
    """The shape with the fewest rows; of equals the first."""
    return min(shapes, key=lambda s: s.rows)
