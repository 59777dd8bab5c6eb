"""From job files to a record: means, paired comparisons, what the searches did, how often the verdict was right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graftwork_medseg.fewshot.protocol import FOLDS
from graftwork_medseg.fewshot.verdict import BETTER, UNDECIDED, WORSE
from graftwork_runs import Row

from . import jobs as listing
from .jobs import EVERYWHERE, FIXED, PARTS, Job
from .sites import TOLERANCE_MM
from .statistics import Mean, Scores, difference, mean

METRICS = (("dice", None), ("hd95", "mm"), ("nsd", None))
COMPARED = ("random", "best fixed choice", "one fixed choice")
Key = tuple[str, int, str, float | None]  # task, k, arm, budget


@dataclass
class Cell:
    """All folds of one arm: scores by metric, fold and case (mean over organs, then over draws)."""

    key: Key
    scores: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    trained: list[int] = field(default_factory=list)
    caps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of everything that trains, search included
    shares: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    draws: int = 1
    found: list[dict[str, Any]] = field(default_factory=list)

    @property
    def folds(self) -> int:
        """How many folds have a score."""
        return len(self.scores.get("dice", {}))

    @property
    def dice(self) -> Scores:
        """Dice by fold and case."""
        return self.scores["dice"]


def expected(tasks: Sequence[str]) -> list[Key]:
    """Every cell that a whole grid has, in the table's order."""
    keys: dict[Key, None] = {}
    for task in tasks:
        for k in (1, 5, 10):
            found = {(j.arm, j.budget) for j in listing.grid_jobs(task) if j.k == k}
            for arm in listing.arms_of(task):
                budgets = sorted((b for a, b in found if a == arm), key=lambda b: b or 2.0)
                keys |= dict.fromkeys((task, k, arm, b) for b in budgets)
    return list(keys)


def cells(results: Iterable[dict[str, Any]], tasks: Sequence[str]) -> dict[Key, Cell]:
    """The grid's results, a cell for each that is expected; empty where jobs are missing."""
    out = {key: Cell(key) for key in expected(tasks)}
    pile: dict[tuple[Key, int], list[dict[str, Any]]] = {}
    for found in results:
        job = Job(**found["job"])
        key = (job.task, job.k, job.arm, job.budget)
        if job.kind != "grid" or key not in out or job.fold not in FOLDS:
            continue
        pile.setdefault((key, job.fold), []).append(found)
    for (key, fold), several in sorted(pile.items(), key=lambda item: str(item[0])):
        cell = out[key]
        cell.refused += [f["why"] for f in several if f["status"] == "does not fit"]
        done = [f for f in several if f["status"] == "done"]
        if not done:
            continue
        cell.found += done
        cell.draws = max(cell.draws, len(done))
        for metric, _ in METRICS:
            draws = [_by_case(f["scores"], metric) for f in done]
            cell.scores.setdefault(metric, {})[fold] = {
                case: float(np.mean([d[case] for d in draws])) for case in draws[0]
            }
        for f in done:
            cell.trained.append(f["trained"])
            cell.caps += [f["cap"]] if f["cap"] is not None else []
            seconds = f["seconds"]
            cell.seconds.append(seconds["train"] + seconds.get("search", 0.0))
            cell.shares.append(seconds.get("audits", 0.0) / max(cell.seconds[-1], 1e-9))
    return out


def _by_case(scores: dict[str, dict[str, Any]], metric: str) -> dict[str, float]:
    return {c: float(np.mean([s[metric] for s in one.values()])) for c, one in scores.items()}


def case_name(task: str, k: int) -> str:
    """A row's case."""
    return f"{task}, {k} shot{'s' * (k > 1)}"


def variant_name(arm: str, budget: float | None) -> str:
    """A row's variant."""
    return arm if budget is None else f"{arm}, {100 * budget:g} %"


def grid_rows(grid: dict[Key, Cell]) -> list[Row]:
    """Rows of every cell; one that is missing, or does not fit, says so."""
    rows = []
    for (task, k, arm, budget), cell in grid.items():
        where = {"case": case_name(task, k), "variant": variant_name(arm, budget)}
        if not cell.folds:
            why = cell.refused[0] if cell.refused else f"missing: n = 0 of {len(FOLDS)} folds"
            note = f"does not fit: {why}" if cell.refused else why
            rows.append(Row(**where, metric="dice", value=None, n=0, note=note))
            continue
        for metric, unit in METRICS:
            found = mean(cell.scores[metric])
            rows.append(_row(found, where, metric, unit, _note(found, cell)))
        rows.append(_plain(where, "trained parameters", cell.trained))
        rows.append(_plain(where, "seconds", cell.seconds, "s"))
        rows.append(_plain(where, "share of time in audits", cell.shares))
    return rows


def _note(found: Mean, cell: Cell) -> str:
    draws = f" x {cell.draws} sets" if cell.draws > 1 else ""
    lack = f"; {len(FOLDS) - found.folds} of {len(FOLDS)} folds missing"
    return f"{found.folds} folds x {found.cases} cases{draws}" + (
        lack if found.folds < len(FOLDS) else ""
    )


def _row(found: Mean, where: dict[str, str], metric: str, unit: str | None, note: str) -> Row:
    return Row(
        **where, metric=metric, value=round(found.value, 5), n=found.n, unit=unit, note=note,
        lo=None if found.lo is None else round(found.lo, 5),
        hi=None if found.hi is None else round(found.hi, 5),
    )  # fmt: skip


def _plain(
    where: dict[str, str], metric: str, values: Sequence[float], unit: str | None = None
) -> Row:
    value = float(f"{np.mean(values):.6g}")
    return Row(**where, metric=metric, value=value, n=len(values), unit=unit)


# -- comparisons ------------------------------------------------------------------------------------


def fixed_at(grid: dict[Key, Cell], task: str, k: int, budget: float) -> dict[str, Cell]:
    """The fixed choices that fit a cap, by arm: those without a size where their count fits, the others at that cap."""
    out = {}
    for arm in (*FIXED, *EVERYWHERE, *PARTS):
        free = arm in FIXED
        cell = grid.get((task, k, arm, None if free else budget))
        cap = _cap(grid, task, budget)
        if cell is None or not cell.folds or cap is None:
            continue
        if max(cell.trained) <= cap:
            out[arm] = cell
    return out


def _cap(grid: dict[Key, Cell], task: str, budget: float) -> int | None:
    """The cap in parameters, as the capped jobs of the task had it."""
    caps = [
        c for key, cell in grid.items() if key[0] == task and key[3] == budget for c in cell.caps
    ]
    return max(caps) if caps else None


def best_fixed(fixed: dict[str, Cell]) -> str | None:
    """The arm of the highest mean test Dice: a choice that only hindsight has."""
    return max(fixed, key=lambda arm: mean(fixed[arm].dice).value) if fixed else None


def one_fixed(grid: dict[Key, Cell], task: str, budget: float) -> str | None:
    """The one arm that is best over all k of a task at a cap."""
    ks = sorted({key[1] for key in grid if key[0] == task})
    by_k = [found for k in ks if (found := fixed_at(grid, task, k, budget))]
    shared = set.intersection(*(set(f) for f in by_k)) if by_k else set()
    order = [arm for arm in (*FIXED, *EVERYWHERE, *PARTS) if arm in shared]
    return max(
        order, key=lambda arm: float(np.mean([mean(f[arm].dice).value for f in by_k])), default=None
    )


def compared_rows(grid: dict[Key, Cell]) -> list[Row]:
    """SEA-PEFT minus each rival in Dice, paired by fold and case."""
    rows = []
    for (task, k, arm, budget), cell in grid.items():
        if arm != "sea-peft" or budget is None:
            continue
        fixed = fixed_at(grid, task, k, budget)
        best, one = best_fixed(fixed), one_fixed(grid, task, budget)
        rivals = {
            "random": ("random allocation", grid.get((task, k, "random", budget))),
            "best fixed choice": (best, fixed.get(best or "")),
            "one fixed choice": (one, fixed.get(one or "")),
        }
        for title, (name, rival) in rivals.items():
            where = {
                "case": case_name(task, k),
                "variant": f"{variant_name('sea-peft', budget)} minus {title}",
            }
            if not cell.folds or rival is None or not rival.folds:
                lacks = "sea-peft" if not cell.folds else title
                rows.append(
                    Row(
                        **where, metric="Dice difference", value=None, n=0, note=f"missing: {lacks}"
                    )
                )
                continue
            found = mean(difference(cell.dice, rival.dice))
            note = f"{name}; {found.folds} folds x {found.cases} cases"
            rows.append(_row(found, where, "Dice difference", None, note))
    return rows


def search_rows(grid: dict[Key, Cell]) -> list[Row]:
    """What the searches did: foreseen against found, audit against test, size, whether the cap binds."""
    rows = []
    for (task, k, arm, budget), cell in grid.items():
        if arm != "sea-peft" or not cell.folds:
            continue
        where = {"case": case_name(task, k), "variant": variant_name(arm, budget)}
        searches = [f["facts"]["search"] for f in cell.found]
        foreseen = [s["foreseen"] for s in searches if s["foreseen"] is not None]
        if foreseen:
            rows.append(_plain(where, "Spearman of foreseen and found", foreseen))
        gaps = [f["soft"]["audit"] - f["soft"]["test"] for f in cell.found]
        rows.append(_plain(where, "audit minus test, soft Dice", gaps))
        claims = [s["score"] - f["soft"]["test"] for s, f in zip(searches, cell.found, strict=True)]
        rows.append(_plain(where, "search's own score minus test, soft Dice", claims))
        rows.append(_plain(where, "units chosen", [len(f["facts"]["units"]) for f in cell.found]))
        rows.append(_plain(where, "units to choose from", [s["units"] for s in searches]))
        rows.append(_plain(where, "cost", [s["cost"] for s in searches]))
        rows.append(_plain(where, "budget", [s["budget"] for s in searches]))
        rows.append(_plain(where, "cap binds", [float(s["binds"]) for s in searches]))
        shares = [s["share_in_audits"] for s in searches]
        rows.append(_plain(where, "share of the search in audits", shares))
    return rows


# -- verdicts ---------------------------------------------------------------------------------------

KINDS = ("right", "too careful", "unproven", "wrong")


def kind_of(said: str, true: str) -> str:
    """right: the word of the test; too careful: "no evidence" where the test decides; unproven: a decided word
    where the test has no evidence; wrong: the opposite of the test's word."""
    if said == true:
        return "right"
    if said == UNDECIDED:
        return "too careful"
    return "unproven" if true == UNDECIDED else "wrong"


def verdict_rows(results: Iterable[dict[str, Any]]) -> list[Row]:
    """How often the word was right, and the worst loss of a graft that was accepted."""
    found = [f for f in results if f["job"]["kind"] == "verdict" and f["status"] == "done"]
    groups = {
        "all": found,
        "organs that the base knows": [f for f in found if f["known"]],
        "organs that are new to it": [f for f in found if not f["known"]],
    }
    rows = []
    for title, group in groups.items():
        where = {"case": f"verdict, {title}", "variant": "leave one out"}
        if not group:
            rows.append(
                Row(**where, metric="right", value=None, n=0, note="missing: no task is done")
            )
            continue
        kinds = [kind_of(f["said"]["word"], f["true"]["word"]) for f in group]
        for kind in KINDS:
            share = kinds.count(kind) / len(kinds)
            note = f"{kinds.count(kind)} of {len(kinds)} tasks"
            rows.append(Row(**where, metric=kind, value=round(share, 4), n=len(kinds), note=note))
        for word, accepted in ((BETTER, {BETTER}), ("not worse", {BETTER, UNDECIDED})):
            taken = [f for f in group if f["said"]["word"] in accepted]
            metric = f"worst test difference where the word was {word}"
            if not taken:
                rows.append(Row(**where, metric=metric, value=None, n=0, note="no such task"))
                continue
            worst = min(taken, key=lambda f: f["true"]["difference"])
            job = Job(**worst["job"])
            note = f"{job.task} {job.organs[0]}, fold {job.fold}"
            value = round(worst["true"]["difference"], 5)
            rows.append(Row(**where, metric=metric, value=value, n=len(taken), note=note))
        words = [f["said"]["word"] for f in group]
        for word in (BETTER, UNDECIDED, WORSE):
            rows.append(
                Row(**where, metric=f"said {word}", value=float(words.count(word)), n=len(words))
            )
    return rows


def tolerances() -> str:
    """The NSD's tolerances, for a note."""
    return ", ".join(f"{mm:g} mm on {task}" for task, mm in TOLERANCE_MM.items())
