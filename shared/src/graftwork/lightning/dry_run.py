"""What a dry run proves: the graft that was written, twice, is the graft that was trained."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file

import graftwork as gw
from graftwork.ledger import ledger_of
from graftwork.lightning.checkpoint_io import load_checkpoint
from graftwork.store.passport import TENSORS


def check_round_trip(graft: gw.Graft, checkpoint: Path, adapter: Path) -> None:
    """Read the graft back from its checkpoint and from its adapter folder.

    Raises:
        RuntimeError: one of the two holds another graft.
    """
    live = graft.tensors()
    saved = next(g for g in load_checkpoint(checkpoint)["grafts"] if g["name"] == graft.name)
    if ledger_of(graft.model).sharded is None:
        fresh = copy.deepcopy(graft.model)
        gw.get(fresh, graft.name).remove()
        read = gw.load(fresh, adapter).tensors()
    else:  # nothing can be grafted on a part of a base
        read = load_file(adapter / TENSORS)
    for name, tensors in (("checkpoint", saved["tensors"]), ("adapter", read)):
        if not all(torch.equal(t.cpu(), tensors[k].cpu()) for k, t in live.items()):
            raise RuntimeError(f"dry run: the {name} read back is not the graft that was written")
