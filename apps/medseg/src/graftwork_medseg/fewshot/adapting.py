"""Before anything is trained: which outputs learn, from which cases, and whether the request can be met at all.

All of it is refused here, or nowhere: a run that starts has its cases, its organs and its budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import graftwork as gw
from graftwork.errors import GraftError

from ..data import FolderData, VolumeData
from ..images.contract import APP
from ..images.organs import Organs
from ..module import Segmenter
from .pair import check_pair
from .plan import Request


def settle(
    model: Segmenter, data: VolumeData, request: Request, outputs: Sequence[str]
) -> list[str]:
    """Let model and data learn what was asked for.

    Args:
        model: its outputs are `outputs`; it scores the asked organs from now on.
        data: its training and validation cases become the shots and the audit case.
        request: the user's.
        outputs: class names of the base, or of the graft that is built upon, background first.

    Returns:
        Lines for the user.

    Raises:
        GraftError: data that are no folder, as `Organs.match` and `shots.choose`, and what reading a case names.
    """
    if not request.draws:
        return []
    if not isinstance(data, FolderData):
        raise GraftError(
            "organ, shots, fold, budget and dual need a folder of cases; name it with --data PATH"
        )
    where, lines = str(data.dataset.path), []
    if request.by_name:
        asked = data.classes[1:] if request.names is None else request.names
        organs = Organs.match(outputs, data.classes, asked, where=where)
        data.ask(organs)
        model.ask(organs)
        lines.append(_outputs(organs, outputs))
    chosen = data.draw(request.shots, request.fold)
    drawn = {*chosen.train, *([chosen.audit] if chosen.audit else []), *chosen.lacking}
    left = [c.name for c in data.dataset.training if c.name not in drawn]
    audit = f", {chosen.audit} is held out" if chosen.audit else ""
    lines.append(f"cases: training on {len(chosen.train)} ({_listed(chosen.train)}){audit}")
    if chosen.lacking:
        lines.append(f"passed over, an organ is missing: {_listed(chosen.lacking)}")
    if left:
        lines.append(f"labelled but not used: {_listed(left)}")
    return lines


def renamed(site: Sequence[str], base: Sequence[str]) -> list[str]:
    """A line where classes that go by number have another name in the base."""
    pairs = [f"{new} as {old}" for new, old in zip(site[1:], base[1:], strict=False) if new != old]
    listed = ", ".join(pairs)
    return [f"note: classes go by number; outputs of the base begin: {listed}"] if pairs else []


def _outputs(organs: Organs, outputs: Sequence[str]) -> str:
    new = [n for n in organs.asked if n not in outputs]
    known = [n for n in organs.asked if n in outputs]
    parts = [f"known to the base: {', '.join(known)}"] if known else []
    parts += [f"new: {', '.join(new)}"] if new else []
    return f"organs: {'; '.join(parts)}"


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def measure_by_name(model: Segmenter, data: VolumeData, section: Mapping[str, Any]) -> None:
    """Find a graft's outputs in a site's labels by name, where that is needed to measure or to predict.

    That is where the graft was trained on organs asked for by name, and where the site's names are the graft's in
    another order or some of them. In all other cases classes go by number.

    Args:
        model: of the graft.
        data: of the site.
        section: the graft's `app` section, with `contract` and perhaps `organs`.
    """
    outputs = tuple(section["contract"].get("classes", ()))
    if not isinstance(data, FolderData) or not outputs:
        return
    site = data.classes
    learnt = {n.casefold() for n in section.get("organs") or outputs[1:]}
    wanted = [n for n in site[1:] if n.casefold() in learnt]
    if "organs" not in section and (tuple(site) == outputs or len(wanted) < len(site) - 1):
        return
    if not wanted:
        return  # `agree` says that the classes differ
    organs = Organs.match(outputs, site, wanted, where=str(data.dataset.path))
    data.ask(organs)
    model.ask(organs)


def refuse_foreign(adapter: str | Path, outputs: Sequence[str], organs: Organs | None) -> None:
    """Refuse to train an adapter on for organs that it has no output for.

    Raises:
        GraftError: as said.
    """
    absent = [n for n in (organs.asked if organs else ()) if n not in outputs]
    if absent:
        raise GraftError(
            f"{adapter}: has no output for {absent[0]!r}; leave --adapter out to train a new graft"
        )


def refuse_conflicts(
    verb: str, request: Request, adapter: str | None, dual: str | None, moving: bool
) -> None:
    """Refuse options that contradict each other.

    Raises:
        GraftError: which, and what to do.
    """
    fault = None
    if moving and dual is None:
        fault = "dual_moving: names no shared graft; give its folder with --dual"
    elif request.budget is not None and dual is not None:
        fault = "budget: with --dual the sites are the shared graft's; leave one of the two out"
    elif request.budget is not None and adapter is not None:
        fault = "budget: a search starts from the base; leave --adapter out"
    elif dual is not None and verb in ("fit", "demo"):
        fault = f"dual: {verb} trains no private graft; use medseg adapt --dual {dual}"
    elif dual is not None and verb == "adapt" and adapter is not None:
        fault = "dual: adapt starts a new private graft; leave --adapter out"
    elif dual is not None and verb != "adapt" and adapter is None:
        fault = f"dual: name the private graft with --adapter, or use the shared one alone: --adapter {dual}"
    if fault:
        raise GraftError(fault)
    named = section_of(adapter, APP).get("shared") if adapter is not None else None
    if adapter is not None and dual is not None:
        check_pair(dual, adapter, named)
    elif named is not None:
        raise GraftError(
            f"{adapter}: is the private half of a pair; name the shared graft with --dual"
        )


def section_of(adapter: str | Path, app: str) -> dict[str, Any]:
    """What an adapter's passport holds for the app; empty if nothing.

    Raises:
        GraftError: as `graftwork.inspect`.
    """
    return dict(gw.inspect(adapter).get("app", {}).get(app, {}))
