"""Leave one out at the end of `adapt`: each labelled case is segmented by a graft that never saw it.

For every case a fresh graft is trained on all the others, by the run's own settings, and base and graft are scored
on the case (mean Dice over the classes). `verdict` turns the scores into one word. Scores of finished
cases are kept in `judge.json` of the run folder, so a stopped run goes on with the next case.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graftwork as gw
from graftwork.errors import GraftError

from ..data import VolumeData
from ..files import publish
from ..module import Segmenter
from ..prediction import metrics
from .verdict import Verdict, judge

SCORES = "judge.json"
Fit = Callable[[Segmenter, VolumeData], None]


def leave_one_out(
    model: Segmenter,
    data: VolumeData,
    new_graft: Callable[[Any], gw.Graft],
    fit: Fit,
    folder: Path,
    say: Callable[[str], None],
    *,
    limit: int | None = None,
) -> Verdict:
    """Judge what `adapt` did on the site's own labelled cases.

    Args:
        model: with its graft; it is left as it is.
        data: whose training and validation cases are left out in turn.
        new_graft: grafts a network anew, by the run's settings.
        fit: trains a model on a data module's training cases.
        folder: the run folder, for `judge.json`.
        say: prints one line.
        limit: leave out the first so many cases alone.
    """
    plain = _without_grafts(model)
    cases = data.labelled()[:limit]
    done = _read(folder / SCORES)
    for i, name in enumerate(cases):
        if name not in done:
            fold, left = copy.deepcopy(plain), data.leave_out(i)
            graft = new_graft(fold.network)
            fit(fold, left)
            [read] = left.readers("validate")
            volume = read()
            fold.eval()
            scores = {"graft": _score(fold, volume)}
            with graft.off():
                scores["base"] = _score(fold, volume)
            done[name] = scores
            with publish(folder / SCORES) as file:
                file.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        shown = done[name]
        say(
            f"left out {i + 1} of {len(cases)}, {name}: Dice {shown['base']:.3f} (base), "
            f"{shown['graft']:.3f} (graft)"
        )
    return judge(*({c: done[c][arm] for c in cases} for arm in ("base", "graft")))


def _without_grafts(model: Segmenter) -> Segmenter:
    """A copy of the base, without what a training left on the module."""
    trainer, model._trainer = model._trainer, None
    try:
        plain = copy.deepcopy(model)
    finally:
        model._trainer = trainer
    for graft in gw.grafts(plain.network).values():
        graft.remove()
    return plain


def _score(model: Segmenter, volume: Any) -> float:
    return metrics.case_dice(model.score(volume, model.segment(volume)))


def _read(file: Path) -> dict[str, dict[str, float]]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(c): {a: float(s[a]) for a in ("base", "graft")} for c, s in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GraftError(
            f"{file}: not the scores of an earlier run ({error}); remove it to judge anew"
        ) from error
