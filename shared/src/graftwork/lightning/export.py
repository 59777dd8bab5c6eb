"""Writing a network's weights with the graft merged in."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from graftwork import Graft
from graftwork.lightning.checkpoint_io import write_atomically


def export_merged(graft: Graft, target: Path) -> None:
    """Write the whole network's `state_dict` with the graft merged in, as one safetensors file.

    The live network is left as it was, bit for bit. Tied tensors are written once for each name.

    Raises:
        GraftError: the graft cannot be merged, or the file cannot be written.
    """
    graft.merge(keep="cpu")
    try:
        tensors = {
            k: t.detach().cpu().contiguous().clone() for k, t in graft.model.state_dict().items()
        }
    finally:
        graft.unmerge()
    write_atomically(target, save(tensors))
