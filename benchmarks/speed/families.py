"""Where a step's time on a GPU goes: its kernels by what their operation computes, read off shapes and phase.

A product of matrices is narrow where one of its three sizes is at most `NARROW`: a graft's own products are, the
frozen layers' are not. Which of the three it is tells the products apart, but for two of the backward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

BACKWARD, OPTIMIZER = "autograd::engine::evaluate_function", "Optimizer.step"
#: sizes up to this one are a graft's: ranks, those of siblings side by side, blocks
NARROW = 256
#: operands behind an operation's leading ones
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1, "baddbmm_": 1}
LARGE, ATTENTION, STEP, REST = "large products", "attention", "optimizer", "no operation"
BLOCKS = "products of blocks"
INTO, OUT = "x A", "(x A) B, added"
BACK_INTO, BACK_OUT = "dy B, dA, dB", "(dy B) A, added"
FORWARD_SMALL, BACKWARD_SMALL = "element by element, forward", "element by element, backward"
FAMILIES = (
    *(LARGE, INTO, OUT, BACK_INTO, BACK_OUT, BLOCKS),
    *(ATTENTION, FORWARD_SMALL, BACKWARD_SMALL, STEP, REST),
)  # fmt: skip


def family(name: str, shapes: list[list[int]], above: Iterable[str]) -> str:
    """What an operation computes.

    Args:
        name: as the profiler has it, `aten::mm`.
        shapes: of its inputs.
        above: the names of what called it, the nearest first.
    """
    above = list(above)
    if any(n.startswith(OPTIMIZER) for n in above):
        return STEP
    backward = any(n.startswith(BACKWARD) for n in above)
    kind = name.removeprefix("aten::")
    if kind in PRODUCTS:
        left, right = shapes[PRODUCTS[kind] :][:2]
        return _product(left[-2], left[-1], right[-1], backward)
    if "attention" in kind:
        return ATTENTION
    return BACKWARD_SMALL if backward else FORWARD_SMALL


def _product(rows: int, inner: int, columns: int, backward: bool) -> str:
    narrow = [size <= NARROW for size in (rows, inner, columns)]
    if not any(narrow):
        return LARGE
    if sum(narrow) > 1:
        return BLOCKS
    if narrow[1]:
        return BACK_OUT if backward else OUT
    return BACK_INTO if backward else INTO


def milliseconds(events: Iterable[Any]) -> Counter[str]:
    """Time on the GPU by family, from the profiler's events with shapes.

    What no operation of torch launched is under `REST`.
    """
    from torch.autograd import DeviceType

    spent: Counter[str] = Counter()
    for event in events:
        if event.device_type != DeviceType.CPU or not event.kernels:
            continue
        own = sum(k.duration for k in event.kernels) / 1000
        spent[family(event.name, event.input_shapes or [], _above(event))] += own
    return spent


def _above(event: Any) -> Iterable[str]:
    while event is not None:
        yield event.name
        event = event.cpu_parent
