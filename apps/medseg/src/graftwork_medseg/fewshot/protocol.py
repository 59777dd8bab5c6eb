"""The few-shot protocol: who trains, who audits and who tests, fixed by a hash before anything is trained.

As FSEFT and SEA-PEFT do (Silva-Rodríguez et al., Medical Image Analysis 103, 2025; arXiv 2603.05822), a k-shot
episode draws k + 1 labelled cases with the fold as seed: k to train on and one held out for the audit or
for early stopping. A "1-shot" run therefore sees two labelled volumes. Here

- base, shots and test are disjoint by patient: the base never saw the task's site, and the test cases are
  taken out first, the same ones for every fold and every k;
- a case qualifies as a shot, or as a test case, only where every organ of the episode is annotated;
- the episodes of one fold are nested: more shots are added to the same ones, the audit case stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graftwork.errors import GraftError

from ..domain import openkbp
from ..images.folder import read_dataset
from .shots import by_hash, choose

SHOTS = (1, 5, 10)
FOLDS = (0, 1, 2)


@dataclass(frozen=True)
class Episode:
    """One few-shot run: `train` (k names), `audit` (one name) and `test` names, in a fixed order."""

    task: str
    organs: tuple[str, ...]
    k: int
    fold: int
    train: tuple[str, ...]
    audit: str
    test: tuple[str, ...]

    @property
    def title(self) -> str:
        """One line that says how many cases there are of each kind."""
        return (
            f"{self.task} {'+'.join(self.organs)}: {self.k} shots + 1 audit case, fold {self.fold}, "
            f"n = {len(self.test)} test cases"
        )


@dataclass(frozen=True)
class Task:
    """A target site with its organs.

    `base`: the plan whose checkpoint is adapted; `organs`: what can be asked for; `novel`: those that the
    base does not know; `tests`: how many cases are taken out for the test; `cases`: folder -> the site's
    cases and the organs annotated in each.
    """

    name: str
    base: str
    organs: tuple[str, ...]
    novel: tuple[str, ...]
    tests: int
    cases: Callable[[str | Path], dict[str, frozenset[str]]]

    def split(self, folder: str | Path) -> dict[str, list[str]]:
        """The site's cases in `pool` (to draw shots from) and `test`, by a hash of their names."""
        return split(self.cases(folder), self.name, self.tests)

    def episode(
        self, folder: str | Path, k: int, fold: int, organs: Sequence[str] | None = None
    ) -> Episode:
        """The k-shot episode of a fold; `organs` defaults to the novel ones.

        Raises GraftError as `draw` does, and for an organ that the task does not have.
        """
        wanted = tuple(organs or self.novel)
        unknown = [o for o in wanted if o not in self.organs]
        if unknown:
            raise GraftError(
                f"organs: task {self.name} has no {unknown[0]!r}; it has {', '.join(self.organs)}"
            )
        return draw(self.cases(folder), self.name, self.tests, wanted, k, fold)


def split(cases: dict[str, frozenset[str]], name: str, tests: int) -> dict[str, list[str]]:
    """Cut a site's cases into `pool` and `test` by a hash of task and case.

    Raises GraftError when no case would be left to draw shots from.
    """
    if not 0 < tests < len(cases):
        raise GraftError(
            f"task {name}: {tests} test cases cannot be taken out of {len(cases)} cases"
        )
    order = by_hash(cases, f"{name} test")
    return {"test": sorted(order[:tests]), "pool": sorted(order[tests:])}


def draw(
    cases: dict[str, frozenset[str]],
    name: str,
    tests: int,
    organs: Sequence[str],
    k: int,
    fold: int,
) -> Episode:
    """Draw an episode: a pure function of its arguments, whatever the order of `cases`.

    Raises GraftError for k below 1, a fold below 0, no organ, or fewer than k + 1 qualifying cases.
    """
    if k < 1 or fold < 0 or not organs:
        raise GraftError(
            f"an episode needs k of at least 1, a fold of at least 0 and an organ; not k {k}, "
            f"fold {fold}, organs {list(organs)}"
        )
    wanted = tuple(organs)
    groups = split(cases, name, tests)
    test = [n for n in groups["test"] if set(wanted) <= cases[n]]
    if not test:
        raise GraftError(f"task {name}: no test case has {' and '.join(wanted)} annotated")
    chosen = choose(groups["pool"], wanted, lambda n: set(wanted) <= cases[n], k, fold, name)
    assert chosen.audit is not None  # k + 1 is at least two
    return Episode(name, wanted, k, fold, chosen.train, chosen.audit, tuple(sorted(test)))


def _shifted(folder: str | Path) -> dict[str, frozenset[str]]:
    found = openkbp.annotations(folder)
    return {name: a.organs for name, a in found.items() if a.site == "shifted"}


def _all_classes(folder: str | Path) -> dict[str, frozenset[str]]:
    dataset = read_dataset(folder)
    return {case.name: frozenset(dataset.classes[1:]) for case in dataset.training}


_HIPPOCAMPUS = ("anterior", "posterior")
TASKS = {
    task.name: task
    for task in (
        # The base knows the whole hippocampus on synthetic images; its two parts are new.
        Task("hippocampus", "synth-hippocampus", _HIPPOCAMPUS, _HIPPOCAMPUS, 60, _all_classes),
        Task(
            "openkbp-site",
            "openkbp-segresnet",
            (*openkbp.BASE_ORGANS, *openkbp.NOVEL_ORGANS),
            openkbp.NOVEL_ORGANS,
            40,
            _shifted,
        ),
    )
}
