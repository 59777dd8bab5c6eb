"""Answers without training: what a figure of an adapted model must be compared with.

The allowed-set lookup reads the published list of allowed actions, which is the set of actions of the tree asked for;
its row is a warning of how much that list alone gives away. The ceiling answers each prompt with the tree that is
its most frequent one in the test: nobody who sees the prompt alone can have more exact matches.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from benchmarks.trees.episodes import Episode

Answers = list[str]
T = TypeVar("T")
LEAKED = "allowed-set lookup (sees the leaked list)"
CEILING = "ceiling: each prompt's own most frequent tree"


def most_frequent(train: Sequence[Episode], test: Sequence[Episode]) -> Answers:
    """The tree that training has most often."""
    [(tree, _)] = Counter(str(e.tree) for e in train).most_common(1)
    return [tree] * len(test)


def nearest(train: Sequence[Episode], test: Sequence[Episode]) -> Answers:
    """The tree of the training example whose words overlap most (Jaccard index); the first of equals."""
    known = [(words(e), e) for e in train]

    def closeness(mine: frozenset[str], other: frozenset[str]) -> float:
        return len(mine & other) / max(1, len(mine | other))

    return [str(max(known, key=lambda k: closeness(words(e), k[0]))[1].tree) for e in test]


def words(episode: Episode) -> frozenset[str]:
    """The instruction's words and the synonyms that are shown."""
    found = re.findall(r"[a-z0-9]+", episode.instruction.lower())
    return frozenset([*found, *episode.shown])


def most_frequent_order(train: Sequence[Episode], test: Sequence[Episode]) -> Answers:
    """The order of actions that training has most often, as its most frequent tree."""
    [(order, _)] = Counter(e.tree.order() for e in train).most_common(1)
    return [_trees_of_orders(train)[order]] * len(test)


def lookup(train: Sequence[Episode], test: Sequence[Episode]) -> Answers:
    """The order of actions that training has most often under the same published list, as its most frequent tree."""
    [(other, _)] = Counter(e.tree.order() for e in train).most_common(1)
    found = _by_key(train, test, lambda e: e.allowed, lambda e: e.tree.order(), other)
    trees = _trees_of_orders(train)
    return [trees[order] for order in found]


def _trees_of_orders(train: Sequence[Episode]) -> dict[tuple[str, ...], str]:
    trees = _by_key(train, train, lambda e: e.tree.order(), lambda e: str(e.tree), "")
    return {e.tree.order(): tree for e, tree in zip(train, trees, strict=True)}


def ceiling(prompt: Callable[[Episode], str], test: Sequence[Episode]) -> Answers:
    """The test's own most frequent tree of each prompt."""
    return _by_key(test, test, prompt, lambda e: str(e.tree), "")


def _by_key(
    train: Sequence[Episode],
    test: Sequence[Episode],
    key: Callable[[Episode], Hashable],
    what: Callable[[Episode], T],
    other: T,
) -> list[T]:
    """For each of `test` the most frequent `what` among the examples of `train` with the same key."""
    found: dict[Hashable, Counter[T]] = defaultdict(Counter)
    for e in train:
        found[key(e)][what(e)] += 1
    return [found[key(e)].most_common(1)[0][0] if key(e) in found else other for e in test]
