"""What a bootstrap tried: lines of a file, and how many each filter refused, by round."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork_runs.files import write_atomic

from .. import NOTICE
from ..dialogues import Dialogue, from_json


@dataclass(frozen=True)
class Attempt:
    """A dialogue that was written and judged.

    Args:
        round: in which; counted from 0.
        index: of its scenario.
        failed: the filters that refused it, in their order; none accepts it.
        reason: what the first of them found.
        idle: the filters that had nothing to judge.
        dialogue: what was written.
    """

    round: int
    index: int
    failed: tuple[str, ...]
    reason: str
    idle: tuple[str, ...]
    dialogue: Dialogue

    @property
    def accepted(self) -> bool:
        """Whether no filter refused it."""
        return not self.failed

    def line(self) -> str:
        """JSON, with its end."""
        raw = {**asdict(self), "accepted": self.accepted, "dialogue": self.dialogue.to_json()}
        return json.dumps(raw, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, line: str) -> Attempt:
        """The inverse of `line`. Raises ValueError, KeyError, TypeError or GraftError for other text."""
        raw = json.loads(line)
        failed, idle = (tuple(map(str, raw[key])) for key in ("failed", "idle"))
        known = from_json(raw["dialogue"])
        return cls(int(raw["round"]), int(raw["index"]), failed, str(raw["reason"]), idle, known)


def attempts_in(file: Path) -> list[Attempt]:
    """The whole lines of a file; half a last line is cut off.

    Raises GraftError with the line for one that a bootstrap did not write.
    """
    if not file.exists():
        return []
    found, whole = [], 0
    with file.open("rb") as old:
        for n, line in enumerate(old, 1):
            if not line.endswith(b"\n"):
                break
            try:
                found.append(Attempt.read(line.decode()))
            except (ValueError, KeyError, TypeError) as error:
                raise GraftError(
                    f"{file}: line {n}: no attempt of a bootstrap ({error}); take the line out, or name another output"
                ) from None
            whole += len(line)
    if file.stat().st_size > whole:
        with file.open("r+b") as old:
            old.truncate(whole)
    return found


class Account:
    """Counts of attempts by round and filter.

    Args:
        filters: names, in their order.
    """

    def __init__(self, filters: Sequence[str]) -> None:
        self.filters = list(filters)
        self._rounds: dict[int, list[Attempt]] = {}

    def add(self, attempt: Attempt) -> None:
        """Count one more."""
        self._rounds.setdefault(attempt.round, []).append(attempt)

    def rounds(self) -> Iterator[dict[str, Any]]:
        """For each round, as `total`, with its number."""
        for number in sorted(self._rounds):
            yield {"round": number, **self._summary(self._rounds[number])}

    def total(self) -> dict[str, Any]:
        """How many were seen and refused; for each filter how many it judged, refused, and refused as the first."""
        return self._summary([a for attempts in self._rounds.values() for a in attempts])

    def _summary(self, attempts: Sequence[Attempt]) -> dict[str, Any]:
        failed = Counter(name for a in attempts for name in a.failed)
        first = Counter(a.failed[0] for a in attempts if a.failed)
        idle = Counter(name for a in attempts for name in a.idle)
        rows = [
            {"filter": f, "judged": len(attempts) - idle[f], "failed": failed[f], "first": first[f]}
            for f in self.filters
        ]
        refused = sum(not a.accepted for a in attempts)
        return {"seen": len(attempts), "refused": refused, "rows": rows, "notice": NOTICE}

    def write(self, file: Path) -> None:
        """All rounds and the total, as JSON."""
        table = {"total": self.total(), "rounds": list(self.rounds())}
        write_atomic(file, json.dumps(table, indent=1) + "\n")


def round_line(summary: dict[str, Any]) -> str:
    """A round for a reader: how many were accepted, and what refused the others first."""
    first = sorted(((r["first"], r["filter"]) for r in summary["rows"] if r["first"]), reverse=True)
    why = ", ".join(f"{name} {count}" for count, name in first)
    accepted = summary["seen"] - summary["refused"]
    told = f"round {summary['round']}: {accepted} of {summary['seen']} accepted"
    return f"{told}; refused first by {why}" if why else told
