"""`maritime stats`: how many dialogues of which kinds, how long, how varied, and how close to others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.errors import GraftError

from . import NOTICE
from .arguments import Parser
from .dialogues import Dialogue, read

if TYPE_CHECKING:
    from graftwork.lightning.app import App

SUMMARY = "Count dialogues: kinds, lengths, distinct words, copies, closeness to another file."


def main(app: App, args: Sequence[str]) -> int:
    """Run the verb. Raises GraftError for bad input."""
    parser = Parser("stats", SUMMARY)
    parser.add_argument("file", help="JSONL, or plain text with a turn a line")
    parser.add_argument("--against", help="dialogues to compare each with (ROUGE-L)")
    parser.add_argument("--encoding", help="of the files, where it is not UTF-8 or marked UTF-16")
    parser.add_argument("--json", action="store_true", help="one JSON object to standard output")
    given = parser.parse_args(list(args))
    against = list(read(given.against, given.encoding)) if given.against else None
    found = statistics(read(given.file, given.encoding), against)
    print(json.dumps({**found, "notice": NOTICE}) if given.json else shown(found))
    return 0


def statistics(
    dialogues: Iterable[Dialogue], against: Sequence[Dialogue] | None = None
) -> dict[str, Any]:
    """Figures of some dialogues.

    `turns` and `words`: mean, least and most of a dialogue. `distinct`: of all runs of 1, 2 and 3 words the share that
    is different (Li et al., 2016). `copies`: dialogues whose text came before. `over`: share of turns that say it.
    `closest`: mean and largest ROUGE-L to `against`, and the share above the paper's limit.

    Raises GraftError when there is no dialogue.
    """
    from .filters.rouge import words
    from .filters.unique import LIMIT, Texts

    turns: list[int] = []
    lengths: list[int] = []
    near: list[float] = []
    kinds: Counter[str] = Counter()
    speakers: Counter[str] = Counter()
    texts: set[str] = set()
    grams: list[set[tuple[str, ...]]] = [set(), set(), set()]
    totals = [0, 0, 0]
    copies = over = 0
    pool = Texts(d.text for d in against) if against is not None else None
    for one in dialogues:
        said = words(one.text)
        turns.append(len(one.turns))
        lengths.append(len(said))
        kinds[one.category or "unknown"] += 1
        speakers.update(t.speaker for t in one.turns)
        over += sum("over" in words(t.text) for t in one.turns)
        copies += one.text in texts
        texts.add(one.text)
        for n in range(3):
            runs = list(zip(*(said[i:] for i in range(n + 1)), strict=False))
            grams[n].update(runs)
            totals[n] += len(runs)
        if pool is not None:
            near.append(pool.closest(one.text))
    if not turns:
        raise GraftError("no dialogue to count")
    return {
        "dialogues": len(turns),
        "categories": dict(sorted(kinds.items())),
        "speakers": dict(sorted(speakers.items())),
        "turns": _spread(turns),
        "words": _spread(lengths),
        "over": over / sum(turns),
        "distinct": [len(g) / t if t else 0.0 for g, t in zip(grams, totals, strict=True)],
        "copies": copies,
        "closest": {**_spread(near), "above": sum(r > LIMIT for r in near) / len(near)}
        if near
        else None,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": sum(values) / len(values), "least": min(values), "most": max(values)}


def shown(found: dict[str, Any]) -> str:
    """The figures for a reader."""
    kinds = ", ".join(f"{k} {n}" for k, n in found["categories"].items())
    speakers = ", ".join(f"{k} {n}" for k, n in found["speakers"].items())
    out = [
        f"dialogues   {found['dialogues']}: {kinds}",
        f"turns       {_range(found['turns'])}; {speakers}; over in {found['over']:.0%}",
        f"words       {_range(found['words'])}",
        f"distinct    {', '.join(f'{n} words {d:.3f}' for n, d in enumerate(found['distinct'], 1))}",
        f"copies      {found['copies']}",
    ]
    if found["closest"]:
        close = found["closest"]
        out.append(
            f"closest     ROUGE-L mean {close['mean']:.3f}, most {close['most']:.3f}; "
            f"above the limit {close['above']:.1%}"
        )
    return "\n".join([*out, NOTICE])


def _range(spread: dict[str, float]) -> str:
    return f"mean {spread['mean']:.1f}, {spread['least']:g} to {spread['most']:g}"
