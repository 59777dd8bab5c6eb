"""The counted operations and bytes of a layer's step are those of its products."""

from __future__ import annotations

import pytest

from benchmarks.speed.arithmetic import (
    BYTES,
    OPERATIONS,
    Cost,
    branch,
    changed,
    frozen,
    over,
    table,
)


def test_a_layer_counted_by_hand() -> None:
    m, i, o, r = 1000, 200, 300, 4
    floor = frozen(m, i, o)
    assert sum(c.operations for c in floor) == 2 * 2 * m * i * o
    assert sum(c.bytes for c in floor) == 2 * 2 * (m * i + i * o + m * o)
    operations, moved, more = over(branch(m, i, o, r), floor)
    # p, dp, dB, dA, p B and dp A: each of the six passes over x, y, dx or dy once
    assert operations == 2 * m * r * (3 * i + 3 * o)
    passes = (
        2 * m * (3 * i + 3 * o)
    )  # three over images of the input's width, three over the output's
    again = 2 * m * (i + o)  # y and dx are read when the frozen product is added
    hidden = 2 * r * (6 * m + 2 * i + 2 * o) + 4 * r * (i + o)
    assert moved == passes + again + hidden
    assert more == sum(c.seconds for c in branch(m, i, o, r)) - sum(c.seconds for c in floor) > 0
    operations, moved, _ = over(changed(m, i, o, r), floor)
    assert operations == 2 * m * r * (2 * i + 2 * o) + 2 * 2 * i * o * r
    made = 2 * (2 * 2 * i * o + 4 * r * (i + o))
    assert moved == 2 * m * (2 * i + 2 * o) + 2 * r * (4 * m + i + o) + 4 * r * (i + o) + made


@pytest.mark.parametrize(
    ("cost", "seconds"), [(Cost(OPERATIONS, 1.0), 1.0), (Cost(1.0, 2 * BYTES), 2.0)]
)
def test_the_longer_of_operations_and_bytes_counts(cost: Cost, seconds: float) -> None:
    assert cost.seconds == seconds


def test_the_table_has_a_line_for_each_layer() -> None:
    lines = table().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]][:2] == ["vit qkv", "vit proj"]
    assert all(line.count("%") == 2 for line in lines[2:])
