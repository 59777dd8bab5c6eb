"""Leave one out at the end of `adapt`: each labelled case is segmented by a graft that never saw it.

For every case a fresh graft is trained on all the others, by the run's own settings, and base and graft are scored
on the case (mean Dice over the classes). Beside a private graft the base is the shared graft alone, as it was before.
`verdict` turns the scores into one word. Scores of finished cases are kept in `judge.json` of the run folder, so a
stopped run goes on with the next case.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import graftwork as gw
from graftwork.errors import GraftError

from ..data import VolumeData
from ..files import publish, sweep
from ..module import Segmenter
from ..prediction import metrics
from .pair import without
from .verdict import WORSE, Verdict, judge

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
    note: str = "",
    device: torch.device | str = "cpu",
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
        note: what a reader of the verdict must know.
        device: where cases are segmented; a trainer gives its device back when it is done.
    """
    plain = bare(model)
    cases = data.labelled()[:limit]
    sweep(folder)
    done = _read(folder / SCORES)
    for i, name in enumerate(cases):
        if name not in done:
            fold, left = copy.deepcopy(plain), data.leave_out(i)
            graft = new_graft(fold.network)
            [read] = left.readers("validate")
            volume = read()
            with without(graft):  # before the training, which may move a shared graft
                scores = {"base": _score(fold.to(device), volume)}
            fit(fold, left)
            scores["graft"] = _score(fold.to(device), volume)
            done[name] = scores
            with publish(folder / SCORES) as file:
                file.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        shown = done[name]
        say(
            f"left out {i + 1} of {len(cases)}, {name}: Dice {shown['base']:.3f} (base), "
            f"{shown['graft']:.3f} (graft)"
        )
    verdict = judge(*({c: done[c][arm] for c in cases} for arm in ("base", "graft")))
    return dataclasses.replace(verdict, note=note)


def refuse_worse(adapter: str | None, accept: bool) -> None:
    """Refuse a graft that `adapt` found worse than its base.

    Args:
        adapter: its folder; None: no graft.
        accept: use it all the same.

    Raises:
        GraftError: as said.
    """
    measured = gw.inspect(adapter).get("metrics") if adapter is not None else None
    found = measured.get("verdict") if isinstance(measured, dict) else None
    if isinstance(found, dict) and found.get("word") == WORSE and not accept:
        raise GraftError(
            f"{adapter}: on its own site's cases this graft is worse than the base (Dice "
            f"{found.get('base')} to {found.get('graft')}); predict with the base (leave --adapter out), "
            "or say --accept"
        )


def bare(model: Segmenter) -> Segmenter:
    """A copy of the module on its base alone, without what a training left on it."""
    trainer, model._trainer = model._trainer, None
    try:
        plain = copy.deepcopy(model)
    finally:
        model._trainer = trainer
    for graft in gw.grafts(plain.network).values():
        graft.remove()
    return plain


def _score(model: Segmenter, volume: Any) -> float:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    score = metrics.case_dice(model.score(volume, model.segment(volume)))
    for module, mode in modes:
        module.training = mode
    return score


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
