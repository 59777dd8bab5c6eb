"""The episodes: what is shown, what is asked, and which robots' episodes are kept out of training.

Shown are the instruction, the whole palette of actions and conditions, and the episode's synonyms: signatures of its
list that the palette does not have. The published list of allowed actions is the set of actions of the tree that is
asked for, so the rest of it is never shown; nor are the lists of conditions and the constraints, which name the tree's
parts.

Robots are kept apart by laboratory, since the sets of one laboratory look alike. Laboratories are ordered by the
SHA-256 of their names; the first ones with a fifth of all episodes are the test's, the next ones with a tenth choose
the rates.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.trees.tree import Tree, TreeError, from_xml
from graftwork.errors import GraftError

FILES = ("train.jsonl.gz", "primitives.json")
PARTS = ("train", "choice", "test")
SHARES = {"test": 0.2, "choice": 0.1}
LABS = {"bridge": "berkeley", "fractal20220817": "google"}  # sets whose names do not tell
CONDITIONS = ("VISIBLE", "REACHABLE", "HOLDING", "GRASPABLE", "EMPTY", "OPEN", "CLOSED", "UNFOLDED")
SIGNATURE = re.compile(r"(\w+)\(([\w, ]*)\)")


@dataclass(frozen=True)
class Episode:
    """One example.

    `episode` is the set and the episode whose variant this is. `group` is the set and the unvaried episode's
    instruction: examples of a group are not independent, for episodes with one instruction differ in the scene alone.
    `shown` are the synonyms' signatures; `allowed` the published list's names, which no arm sees but one that says so.
    """

    id: str
    episode: str
    group: str
    subset: str
    variant: str
    instruction: str
    shown: tuple[str, ...]
    allowed: tuple[str, ...]
    tree: Tree


@dataclass(frozen=True)
class Palette:
    """Signatures of the 22 actions and of the conditions, in the order in which they are shown."""

    actions: tuple[str, ...]

    @property
    def conditions(self) -> tuple[str, ...]:
        """Signatures of the conditions."""
        return tuple(f"IS_{name}(obj)" for name in CONDITIONS)

    def arities(self, shown: Sequence[str] = ()) -> dict[str, frozenset[int]]:
        """Numbers of arguments of every name that an episode may use."""
        found: dict[str, set[int]] = {}
        for signature in (*self.actions, *self.conditions, *shown):
            name, count = split(signature)
            found.setdefault(name, set()).add(count)
        return {name: frozenset(counts) for name, counts in found.items()}

    def beyond(self, signatures: Sequence[str]) -> tuple[str, ...]:
        """Those that are not in the palette: other names, or more arguments; sorted."""
        own = dict(map(split, self.actions))
        known = [(s, *split(s)) for s in signatures]
        return tuple(sorted({s for s, name, n in known if name not in own or n > own[name]}))


@dataclass(frozen=True)
class Episodes:
    """All parts, the palette, and the files' hashes; `damaged` names examples whose list of actions is none."""

    palette: Palette
    parts: Mapping[str, tuple[Episode, ...]]
    hashes: Mapping[str, str]
    labs: Mapping[str, tuple[str, ...]]
    damaged: tuple[str, ...] = ()

    def prompt(self, episode: Episode) -> str:
        """What is shown of an episode."""
        synonyms = ", ".join(episode.shown) or "none"
        return (
            f"Actions: {', '.join(self.palette.actions)}\n"
            f"Conditions: {', '.join(self.palette.conditions)}\n"
            "Controls: Sequence, Fallback, Retry, Timeout, SubTree\n"
            f"Synonyms: {synonyms}\n"
            f"Task: {episode.instruction}"
        )


def split(signature: str) -> tuple[str, int]:
    """Name and number of arguments of `NAME(a, b)`.

    Raises GraftError for anything else.
    """
    found = SIGNATURE.fullmatch(signature)
    if found is None:
        raise GraftError(f"{signature!r}: is no signature such as GRASP(obj)")
    return found[1], len([a for a in found[2].split(",") if a.strip()])


def lab_of(subset: str) -> str:
    """The laboratory of a set, the first word of its name."""
    first = subset.split("_")[0]
    return LABS.get(first, first)


def read(folder: str | Path, limit: int | None = None) -> Episodes:
    """The episodes of a folder that holds `FILES`.

    A variant whose prompt and tree are equal to another's of the same episode is left out: half of the synonym variants
    are the unvaried episode once more. `limit` keeps the first examples of each part, for a rehearsal.

    Raises:
        GraftError: a missing or damaged file, with what was expected.
    """
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise GraftError(f"--episodes {folder}: holds no {name}; see data_cards/bt-episodes.md")
    try:
        actions = json.loads((folder / FILES[1]).read_text(encoding="utf-8"))["actions"]
        palette = Palette(
            tuple(f"{a['action']}({', '.join(x['name'] for x in a['arguments'])})" for a in actions)
        )
        with gzip.open(folder / FILES[0], "rt", encoding="utf-8") as file:
            raw = [json.loads(line) for line in file]
        damaged = [e["id"] for e in raw if not all(map(SIGNATURE.fullmatch, e["allowed_actions"]))]
        plain = {_of(e): e["instruction"] for e in raw if e["variant"] == "base"}
        examples = [_example(e, palette, plain) for e in raw if e["id"] not in damaged]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraftError(f"--episodes {folder}: is not in the card's form: {error!r}") from error
    labs = split_labs(Counter(lab_of(e.subset) for e in examples))
    parts: dict[str, list[Episode]] = {part: [] for part in PARTS}
    seen = set()
    for e in examples:
        key = (e.episode, e.instruction, e.shown, e.tree)
        if key not in seen:
            seen.add(key)
            parts[next(p for p in PARTS if lab_of(e.subset) in labs[p])].append(e)
    hashes = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in FILES}
    cut = {part: tuple(spread(found, limit)) for part, found in parts.items()}
    return Episodes(palette, cut, hashes, labs, tuple(damaged))


def spread(found: Sequence[Episode], limit: int | None) -> list[Episode]:
    """At most `limit` examples, at even steps through the list."""
    if limit is None or limit >= len(found):
        return list(found)
    return [found[i * len(found) // limit] for i in range(limit)]


def split_labs(counts: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Which laboratories are in which part; `counts` are their examples."""
    order = sorted(counts, key=lambda lab: hashlib.sha256(lab.encode()).hexdigest())
    total, out = sum(counts.values()), dict[str, tuple[str, ...]]()
    for part, share in SHARES.items():
        taken: list[str] = []
        while order and sum(counts[lab] for lab in taken) < share * total:
            taken.append(order.pop(0))
        out[part] = tuple(sorted(taken))
    return {"train": tuple(sorted(order)), **out}


def _of(raw: Mapping[str, Any]) -> str:
    return f"{raw['subset']}/{raw['episode']}"


def _example(raw: Mapping[str, Any], palette: Palette, plain: Mapping[str, str]) -> Episode:
    first, *_ = str(raw["prompt"]).splitlines()
    instruction = first.removeprefix("Instruction:").strip()
    allowed = tuple(str(s) for s in raw["allowed_actions"])
    try:
        tree = from_xml(raw["xml"])
    except TreeError as error:
        raise GraftError(f"{raw['id']}: {error}") from None
    unvaried = " ".join(plain[_of(raw)].lower().split())
    return Episode(
        id=str(raw["id"]),
        episode=_of(raw),
        group=f"{raw['subset']}/{unvaried}",
        subset=str(raw["subset"]),
        variant=str(raw["variant"]),
        instruction=instruction,
        shown=palette.beyond(allowed),
        allowed=tuple(sorted({split(s)[0] for s in allowed})),
        tree=tree,
    )
