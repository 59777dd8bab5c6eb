"""Graft, save, load, merge, unmerge and remove, ours beside peft: seconds and peak memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import graftwork as gw
from benchmarks.big.model import Meter, Size, decoder, ours, peft, same_bits
from benchmarks.speed.llama import LINEARS
from graftwork_runs import Row

#: where the old tensors of a merge that can be undone wait
KEEPS = ("device", "cpu", "disk")
BITS = "weights changed by merge and unmerge"


def measure(size: Size, device: str) -> list[Row]:
    """Rows of both sides; the base is made anew for each, and a weight of the first and last block is watched."""
    cuda = device == "cuda"
    meter = Meter("lifecycle", cuda)
    with tempfile.TemporaryDirectory(prefix="big-") as folder:
        _ours(meter, decoder(size, device), Path(folder))
        _peft(meter, decoder(size, device), Path(folder))
    return meter.rows


def _watched(model: Any) -> dict[str, Any]:
    layers = model.model.layers
    found = {}
    for at in (0, len(layers) - 1):
        for name, module in layers[at].named_modules():
            if name.split(".")[-1] in LINEARS:
                module = getattr(module, "base_layer", module)
                found[f"{at}.{name}"] = module.weight
    return found


def _ours(meter: Meter, model: Any, folder: Path) -> None:
    side = "graftwork"
    kept = {n: t.clone() for n, t in _watched(model).items()}
    graft = meter.take(f"{side}, graft", lambda: ours(model))
    if graft is None:
        return
    meter.take(f"{side}, save", lambda: gw.save(graft, folder / "ours"))
    meter.take(f"{side}, remove", graft.remove)
    graft = meter.take(f"{side}, load", lambda: gw.load(model, folder / "ours"))
    for keep in KEEPS:
        meter.take(f"{side}, merge, keep={keep!r}", lambda keep=keep: graft.merge(keep=keep))
        if graft.merged:
            meter.take(f"{side}, unmerge, keep={keep!r}", graft.unmerge)
    meter.add(side, BITS, same_bits(_watched(model), kept))
    meter.take(f"{side}, merge, keep=False", lambda: graft.merge(keep=False))


def _peft(meter: Meter, model: Any, folder: Path) -> None:
    side = "peft"
    kept = {n: t.clone() for n, t in _watched(model).items()}
    wrapped = meter.take(f"{side}, graft", lambda: peft(model))
    if wrapped is None:
        return
    import peft as theirs

    meter.take(f"{side}, save", lambda: wrapped.save_pretrained(folder / "peft"))
    meter.take(f"{side}, remove", wrapped.unload)
    wrapped = meter.take(
        f"{side}, load", lambda: theirs.PeftModel.from_pretrained(model, str(folder / "peft"))
    )
    meter.take(f"{side}, merge, in place", wrapped.merge_adapter)
    meter.take(f"{side}, unmerge, in place", wrapped.unmerge_adapter)
    meter.add(side, BITS, same_bits(_watched(model), kept))
    meter.take(f"{side}, merge, for good", wrapped.merge_and_unload)
