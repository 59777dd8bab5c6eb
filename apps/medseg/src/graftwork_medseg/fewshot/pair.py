"""A site's private pair on a shared graft (Med-DualLoRA): made, saved apart, loaded together.

    graft = start(network, "shared.graft", LoRA(4), ...)     # trains the private pair, or both
    graft = load(network, "shared.graft", "private.graft")   # what `predict --dual` does

The private graft's passport names the shared one's tensors by their SHA-256, so that it is never used with
another. The shared graft's folder holds what it held before, with the moved tensors if they moved: nothing of the site.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.methods.base import Method

SHARED, PRIVATE = "shared", "private"  # names of the two grafts on the network


def fingerprint(folder: str | Path) -> str:
    """SHA-256 of an adapter's tensor file, by its passport."""
    return str(gw.inspect(folder)["file"]["sha256"])


def start(
    network: nn.Module,
    shared: str | Path,
    method: Method | None,
    *,
    head: str,
    rows: int,
    moving: bool,
    seed: int,
    any_rank: bool = False,
) -> gw.Graft:
    """Load the shared graft and pair it with a new private one on the same sites.

    Args:
        network: the base that the shared graft was trained on.
        shared: its adapter folder.
        method: of the private pair; a LoRA.
        head: the last convolution's name.
        rows: output rows that the private graft adds to it.
        moving: train the shared pair too.
        seed: of the private pair's start values.
        any_rank: as in `graftwork.graft`.

    Returns:
        The private graft.

    Raises:
        GraftError: a graft for another base, a pair that is not LoRA, or rows beside a head that the shared
            graft owns. The network is as it was.
    """
    own = _loaded(network, shared)
    try:
        if not isinstance(method, gw.LoRA) or method.id != "lora":
            kind = "null" if method is None else method.id
            raise GraftError(f"dual: the private pair is a LoRA, not --graft {kind}")
        if rows and head in own.entry.modules():
            raise GraftError(
                f"dual: {shared} has output rows of its own, beside which a private graft can have none; ask "
                "for organs that it knows"
            )
        try:
            pair = gw.dual(
                network,
                SHARED,
                method,
                private_also_train=[gw.NewRows(head, rows)] if rows else [],
                train_shared=moving,
                private_seed=seed,
                names=(SHARED, PRIVATE),
                any_rank=any_rank,
            )
        except GraftError as error:
            raise GraftError(f"dual: {shared}: {error}") from None
    except GraftError:
        own.remove()
        raise
    assert pair.private is not None
    return pair.private


def check_pair(shared: str | Path, private: str | Path, named: object) -> None:
    """Refuse two adapter folders that were not trained side by side.

    Args:
        shared, private: the folders.
        named: the shared graft's fingerprint by the private one's passport.

    Raises:
        GraftError: the private graft belongs to none or to another shared one.
    """
    if named is None:
        raise GraftError(f"{private}: is not a private graft; leave --dual out")
    if named != fingerprint(shared):
        raise GraftError(
            f"{private}: was trained beside another shared graft than {shared}; name that one with --dual"
        )


def load(network: nn.Module, shared: str | Path, private: str | Path) -> gw.Graft:
    """Load both, which `check_pair` found to belong together; they act together. The private graft.

    Raises:
        GraftError: either does not fit the network, which is as it was then.
    """
    own = _loaded(network, shared)
    try:
        graft = gw.load(network, private, name=PRIVATE)
    except GraftError:
        own.remove()
        raise
    gw.activate(network, {SHARED: 1.0, PRIVATE: 1.0})
    return graft


def _loaded(network: nn.Module, shared: str | Path) -> gw.Graft:
    return gw.load(network, shared, name=SHARED)


def save_shared(network: nn.Module, source: str | Path, folder: Path) -> Path:
    """Write the shared graft as it is now, with the passport of the folder that it came from."""
    passport = gw.inspect(source)
    kept: dict[str, Any] = {k: passport.get(k) for k in ("data_card", "app")}
    return gw.save(gw.get(network, SHARED), folder, overwrite=True, **kept)


@contextmanager
def without(graft: gw.Graft) -> Iterator[None]:
    """What a case is compared with: the shared graft alone beside a private one, else the base."""
    network = graft.model
    if graft.name == PRIVATE and SHARED in gw.grafts(network):
        gw.activate(network, {SHARED: 1.0})
        try:
            yield
        finally:
            gw.activate(network, {SHARED: 1.0, PRIVATE: 1.0})
    else:
        with graft.off():
            yield
