"""Multiplications and bytes of a linear layer's step, frozen and with a branch, and the least time that they take.

    python -m benchmarks.speed.arithmetic

Nothing is measured: a product does 2 m n k floating-point operations and reads and writes each of its matrices once,
and takes at least the longer of what its operations and its bytes take at a card's data-sheet rates. What a form
costs over the frozen products is a bound for a card without a cache.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.speed.products import RANK, SHAPES
from graftwork_runs.tables import markdown

#: bfloat16 operations and bytes a second of an H100 SXM, from its data sheet (dense; HBM3)
OPERATIONS, BYTES = 989e12, 3.35e12
#: bytes of an element of activations and weights, and of a factor and its gradient
HALF, FULL = 2, 4
LAYERS = {**SHAPES, "llama q": (8192, 2048, 2048), "llama down": (8192, 8192, 2048)}


class Cost(NamedTuple):
    """Floating-point operations and bytes of one kernel."""

    operations: float
    bytes: float

    @property
    def seconds(self) -> float:
        """The least time."""
        return max(self.operations / OPERATIONS, self.bytes / BYTES)


def product(m: int, k: int, n: int, *, added: bool = False, out: int = HALF) -> Cost:
    """(m, k) times (k, n); `added`: to what stands in the output, which is then read too."""
    moved = HALF * (m * k + k * n) + out * m * n * (2 if added else 1)
    return Cost(2.0 * m * k * n, float(moved))


def frozen(rows: int, in_: int, out: int) -> list[Cost]:
    """y = x W^T, dx = dy W."""
    return [product(rows, in_, out), product(rows, out, in_)]


def factors(rows: int, in_: int, out: int, rank: int) -> list[Cost]:
    """What every form needs for the factors' gradients: p = x A^T, dp = dy B, dB = dy^T p, dA = dp^T x."""
    return [
        product(rows, in_, rank),
        product(rows, out, rank),
        product(out, rows, rank, out=FULL),
        product(rank, rows, in_, out=FULL),
    ]


def branch(rows: int, in_: int, out: int, rank: int) -> list[Cost]:
    """y = p B^T, then += x W^T; dx = dp A, then += dy W."""
    return [
        *factors(rows, in_, out, rank),
        product(rows, rank, out),
        product(rows, in_, out, added=True),
        product(rows, rank, in_),
        product(rows, out, in_, added=True),
    ]


def changed(rows: int, in_: int, out: int, rank: int) -> list[Cost]:
    """W' = W + s B A, made twice and dropped; y = x W'^T, dx = dy W'."""
    made = Cost(2.0 * out * in_ * rank, float(2 * HALF * out * in_ + FULL * rank * (in_ + out)))
    return [*factors(rows, in_, out, rank), made, made, *frozen(rows, in_, out)]


FORMS = {"branch": branch, "changed weight": changed}


def over(found: list[Cost], floor: list[Cost]) -> tuple[float, float, float]:
    """Operations, bytes and least seconds on top of the floor's."""
    operations = sum(c.operations for c in found) - sum(c.operations for c in floor)
    moved = sum(c.bytes for c in found) - sum(c.bytes for c in floor)
    return operations, moved, sum(c.seconds for c in found) - sum(c.seconds for c in floor)


def table(rank: int = RANK) -> str:
    """Every layer and form: what it does over the frozen products."""
    rows = []
    for name, shape in LAYERS.items():
        floor = frozen(*shape)
        least = sum(c.seconds for c in floor)
        cells = [name, f"{shape[0]:,} x {shape[1]:,} to {shape[2]:,}", f"{1e6 * least:.0f}"]
        for form in FORMS.values():
            operations, moved, more = over(form(*shape, rank), floor)
            cells += [f"{operations / 1e9:.1f}", f"{moved / 1e6:.0f}"]
            cells.append(f"{1e6 * more:.0f} ({100 * more / least:.0f} %)")
        rows.append(cells)
    head = ["layer", "rows x in to out", "frozen: us"]
    for form in FORMS:
        head += [f"{form}: GFLOP more", "MB more", "us more"]
    return markdown(head, rows) + "\n"


def page() -> str:
    """The table and how it comes about."""
    said = f"Computed by `python -m benchmarks.speed.arithmetic`, for rank {RANK}; nothing is measured."
    return f"{table()}\n<sub>{said}</sub>\n"


if __name__ == "__main__":
    print(table())
