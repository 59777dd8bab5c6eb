"""The paper's scores of a dialogue: format and information by weight, uniqueness by ROUGE-L (arXiv 2603.04423, 3.8).

The printed table and the script that made the published figures differ. `Scores` has the table's figures;
`published` repeats the script's: the struck vessel's rows have no weight, the direction fails when the place is not
said, the distance to the port when the port is not said, and the distance to the place and the row of port and harbour
count even where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from .case import Case, Filter
from .paper import PAPER, phrase, sentence_with, value
from .unique import LIMIT

_BY_NAME = {f.name: f for f in PAPER}
_ALWAYS = ("distance_to_place", "port_and_harbour")
_UNSCORED = {"collided_vessel_name", "collided_vessel_type"}


@dataclass(frozen=True)
class Scores:
    """Of one dialogue, each 0 to 1.

    Attributes:
        format, information: weighted shares of the rows that judge; `None` where none does.
        uniqueness: 1 - R, 0 where R is above the limit. rouge_l: R, the closest ROUGE-L F to the pool.
        every: passes all 27 rows. accepted: passes those for which the script refuses a dialogue.
        published_format, published_information: as the script counts.
    """

    format: float | None
    information: float | None
    uniqueness: float
    rouge_l: float
    every: bool
    accepted: bool
    published_format: float | None
    published_information: float | None

    def to_json(self) -> dict[str, float | bool | None]:
        """Its fields."""
        return asdict(self)


def scores(case: Case) -> Scores:
    """The scores of a case with the paper's context; without one, of the rows that need none."""
    failed = {f.name for f in PAPER if f.findings(case)}
    near = case.pool.closest(case.text)
    judging = [f for f in PAPER if f.judges(case)]
    published = [f for f in judging if f.name not in _UNSCORED]
    if case.context is not None:
        published += [_BY_NAME[n] for n in _ALWAYS if _BY_NAME[n] not in judging]
    return Scores(
        _share(judging, failed, "format"),
        _share(judging, failed, "information"),
        0.0 if near > LIMIT else 1 - near,
        near,
        not failed,
        not any(_BY_NAME[name].rejects for name in failed),
        _share(published, failed, "format"),
        _share(published, failed | _unsaid(case, judging), "information"),
    )


def _share(rows: Iterable[Filter], failed: set[str], score: str) -> float | None:
    rows = [f for f in rows if f.score == score]
    total = sum(f.weight for f in rows)
    return sum(f.weight for f in rows if f.name not in failed) / total if total else None


def _unsaid(case: Case, judging: Iterable[Filter]) -> set[str]:
    names = {f.name for f in judging}
    port = value(case, "nearest_port")
    unsaid = {
        "compass": not phrase(case),
        "distance_to_port": bool(port) and not sentence_with(case, str(port)),
    }
    return {name for name, so in unsaid.items() if so and name in names}
