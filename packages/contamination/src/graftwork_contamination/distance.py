"""Edit distance of token sequences (Levenshtein, unit cost), whole and up to a bound."""

from __future__ import annotations

from collections.abc import Sequence


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Inserts, deletes and replacements from `a` to `b`, at the fewest."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def edit_distance_within(a: Sequence[int], b: Sequence[int], bound: int) -> int | None:
    """The edit distance where it is `bound` or less, else `None`.

    A path of cost `bound` stays within `bound` of the diagonal, so O(len(a) * bound) cells are enough.
    """
    if abs(len(a) - len(b)) > bound:
        return None
    beyond = bound + 1
    row = [j if j <= bound else beyond for j in range(len(b) + 1)]
    for i, x in enumerate(a, 1):
        lo, hi = max(1, i - bound), min(len(b), i + bound)
        diagonal = row[lo - 1]
        row[lo - 1] = i if lo == 1 and i <= bound else beyond
        best = row[lo - 1]
        for j in range(lo, hi + 1):
            cost = min(row[j] + 1, row[j - 1] + 1, diagonal + (x != b[j - 1]), beyond)
            diagonal, row[j] = row[j], cost
            best = min(best, cost)
        if best > bound:
            return None
    return row[-1] if row[-1] <= bound else None
