"""The page of one graft, opened by `medseg demo --serve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import graftwork as gw
from graftwork.errors import GraftError

from ..files import CHECKPOINT
from ..module import Segmenter
from .desk import Desk
from .server import serve


def open_page(
    model: Segmenter,
    graft: gw.Graft,
    adapter: str,
    folder: Path,
    base: str | None,
    classes: Sequence[str],
    port: int,
    *,
    wait: bool,
) -> None:
    """Serve a graft until Ctrl-C.

    Args:
        model: with the graft on it.
        graft: the graft.
        adapter: its folder, whose data card may name the classes.
        folder: for what the page is shown.
        base: name or path of the base; None: the shipped one.
        classes: names where the card has none.
        port: of the page; 0: any that is free.
        wait: False returns at once.

    Raises:
        GraftError: a data card whose classes are no names, or a port that is taken.
    """
    passport = gw.inspect(adapter)
    card = passport["data_card"]
    classes = card.get("classes", classes) if isinstance(card, dict) else classes
    if not (isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes)):
        raise GraftError(f"{passport['folder']}/graft.json: data_card.classes must list names")
    desk = Desk(
        model, graft, passport, folder, base=Path(base or CHECKPOINT).name, classes=tuple(classes)
    )
    serve(desk, port=port, wait=wait)
