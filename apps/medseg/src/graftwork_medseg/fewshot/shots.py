"""Which of a site's labelled cases a few-shot run uses: k to train on and one to audit by, drawn by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from graftwork.errors import GraftError


@dataclass(frozen=True)
class Shots:
    """Names of the cases to train on, and of the one that is held out for the audit (None: there is none)."""

    train: tuple[str, ...]
    audit: str | None
    lacking: tuple[str, ...] = ()  # cases that were passed over, an organ is missing in them


def by_hash(names: Iterable[str], salt: str) -> list[str]:
    """Names in the order of the SHA-256 of "salt name": random, and the same for ever."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt} {name}".encode()).digest())


def choose(
    cases: Iterable[str],
    organs: Sequence[str],
    has: Callable[[str], bool],
    shots: int | None,
    fold: int = 0,
    salt: str = "",
) -> Shots:
    """Draw the shots of a fold: the first case that qualifies is the audit's, the next ones train.

    The folds of one site are nested: more shots are added to the same ones. Cases are asked for in turn, so no
    more are read than needed.

    Args:
        cases: all labelled ones.
        organs: what a case must show.
        has: whether a case shows them; it reads the label.
        shots: how many train; None: all that qualify but one.
        fold: which draw.
        salt: of the hash, such as the name of a task.

    Raises:
        GraftError: fewer qualify than `shots` plus one, or none at all.
    """
    if fold < 0 or (shots is not None and shots < 1):
        raise GraftError(f"shots {shots} must be at least 1, and fold {fold} at least 0")
    order = by_hash(cases, f"{salt} {'+'.join(sorted(organs))} fold {fold}".lstrip())
    found: list[str] = []
    lacking: list[str] = []
    for name in order:
        (found if has(name) else lacking).append(name)
        if shots is not None and len(found) > shots:
            break
    needed = 1 if shots is None else shots + 1
    if len(found) < needed:
        raise GraftError(
            f"shots {shots if shots is not None else 'all'}: {' and '.join(organs)} must be labelled in "
            f"{needed} case(s), the last is for the audit; only {len(found)} of {len(order)} qualify"
        )
    if len(found) == 1:
        return Shots((found[0],), None, tuple(lacking))
    return Shots(tuple(found[1:]), found[0], tuple(lacking))
