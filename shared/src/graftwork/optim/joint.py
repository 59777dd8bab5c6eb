"""Factor pairs of one shape side by side: what is done to each of them alone is then done to all at once.

A step of many small matrices waits for whoever issues its operations; here their number does not grow with that of the
layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.optim.pairs import Pair

State = dict[str, Any]


def alike(pairs: Iterable[Pair], also: Callable[[Pair], Any], most: int) -> Iterator[list[Pair]]:
    """Pairs of one shape, precision and device together.

    Args:
        pairs: in any order.
        also: a hashable value in which those of a list agree, too.
        most: elements of a list's factors; one pair at least.
    """
    found: dict[Any, list[Pair]] = {}
    for pair in pairs:
        looks = tuple((tuple(t.shape), t.dtype, t.device) for t in (pair.a, pair.b))
        found.setdefault((pair.blocks, looks, also(pair)), []).append(pair)
    for same in found.values():
        count = max(1, most // (same[0].a.numel() + same[0].b.numel()))
        for at in range(0, len(same), count):
            yield same[at : at + count]


def side_by_side(
    pairs: Iterable[Pair], own: Iterable[nn.Parameter], values: Iterable[Tensor]
) -> Tensor:
    """`values`, shaped like the factors `own` of pairs that are alike, as one copy `(pairs blocks, rows, rank)`."""
    every = zip(pairs, own, values, strict=True)
    return torch.cat([pair.tall(p, value) for pair, p, value in every])


class Joint:
    """The states of several factors in one set of tensors, of which each one's own are views.

    Whoever reads, saves or loads the state of one factor sees tensors as if they were its own.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[list[State], State, list[State]]] = {}

    def of(self, states: list[State], names: Iterable[str], start: Callable[[], State]) -> State:
        """The states as one, which a change in place moves; "step" is a number in both.

        Args:
            states: of factors that are alike.
            names: of the tensors in them.
            start: the tensors to begin with, blocks first, where they hold none.
        """
        _, joint, views = self._kept.get(id(states[0]), ([], {}, []))
        if len(views) == len(states) and all(
            s.get(name) is t for s, v in zip(states, views, strict=True) for name, t in v.items()
        ):
            return joint
        if all(name in s for s in states for name in names):
            tensors: State = {name: torch.cat([s[name] for s in states]) for name in names}
            joint = {"step": states[0]["step"], **tensors}
        else:
            tensors = start()
            joint = {"step": 0, **tensors}
        size = len(next(iter(tensors.values()))) // len(states)
        views = [
            {name: t[i * size :][:size] for name, t in tensors.items()} for i in range(len(states))
        ]
        for state, view in zip(states, views, strict=True):
            state.update(view)
        taken = set(map(id, states))
        others = {k: v for k, v in self._kept.items() if taken.isdisjoint(map(id, v[0]))}
        self._kept = {**others, id(states[0]): (states, joint, views)}
        return joint
