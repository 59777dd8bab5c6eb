"""What a dry run proves: the graft that was written, twice, is the graft that was trained."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

import graftwork as gw
from graftwork.lightning.checkpoint_io import load_checkpoint


def check_round_trip(graft: gw.Graft, checkpoint: Path, adapter: Path) -> None:
    """Read the graft back from its checkpoint and from its adapter folder.

    Raises:
        RuntimeError: one of the two holds another graft.
    """
    live = graft.tensors()
    saved = next(g for g in load_checkpoint(checkpoint)["grafts"] if g["name"] == graft.name)
    fresh = copy.deepcopy(graft.model)
    gw.get(fresh, graft.name).remove()
    read = gw.load(fresh, adapter).tensors()
    for name, tensors in (("checkpoint", saved["tensors"]), ("adapter", read)):
        if not all(torch.equal(t.cpu(), tensors[k].cpu()) for k, t in live.items()):
            raise RuntimeError(f"dry run: the {name} read back is not the graft that was written")
