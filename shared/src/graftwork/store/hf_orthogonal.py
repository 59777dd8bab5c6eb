"""OFT and BOFT in Hugging Face PEFT folders: which fields and layers are served, and how tensors are laid out.

PEFT's OFT inverts I + Q by a short series unless `use_cayley_neumann` is false; what that gives is not quite a
rotation, and not ours, so such a folder is refused. Both turn the unfolded patches of a convolution, which ours do
not. PEFT's BOFT keeps k^2 numbers a block and trains a gain; without its CUDA kernel it computes one factor only,
whatever the file says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graftwork.algebra.geometry import Geometry
from graftwork.errors import GraftError
from graftwork.methods.base import Method
from graftwork.methods.boft import BOFT
from graftwork.methods.oft import OFT

USED = {
    "OFT": {"peft_type", "block_share", "use_cayley_neumann", "modules_to_save", "bias"},
    "BOFT": {"peft_type", "modules_to_save", "bias"},
}

_TRAINING = {"init_weights", "layers_to_transform", "layers_pattern"}

#: block sizes and factors are read off the tensors
HARMLESS = {
    "OFT": _TRAINING
    | {
        "r",
        "oft_block_size",
        "module_dropout",
        "eps",
        "num_cayley_neumann_terms",
        "runtime_config",
    },
    "BOFT": _TRAINING
    | {"boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout"}
    | {"runtime_config"},
}

REFUSED: dict[str, dict[str, Any]] = {"OFT": {"coft": False}, "BOFT": {}}

SUFFIXES = (".oft_R.weight", ".boft_R", ".boft_s")


def faults(config: Mapping[str, Any]) -> list[str]:
    """What a config asks for that is not served."""
    out = []
    if config["peft_type"] == "OFT":
        if config.get("use_cayley_neumann", True) is not False:
            out.append(
                "use_cayley_neumann: this adapter's rotations are a series that ours are not; train it with "
                "use_cayley_neumann=False"
            )
        if not isinstance(config.get("block_share", False), bool):
            out.append("block_share: must be true or false")
    return out


def why_not(method: OFT, geo: Geometry) -> str | None:
    """Why PEFT cannot compute this method on this layer as Graftwork does, or `None`."""
    name = type(method).__name__
    if geo.kind != "linear":
        return f"PEFT's {name} on a {geo.kind} is another function, or none"
    if method.side != "input":
        return f"PEFT's {name} turns the input, not the output"
    return None


def to_file(method: OFT, p: Mapping[str, Tensor], out: int) -> dict[str, Tensor]:
    """A site's tensors under PEFT's names and in its shapes; `out` is the layer's number of outputs."""
    q = p["Q"]
    if not isinstance(method, BOFT):
        return {"oft_R.weight": q}
    rows, cols = torch.triu_indices(method.block, method.block, 1)
    full = q.new_zeros(*q.shape[:-1], method.block, method.block)
    full[..., rows, cols] = q
    gain = p["gain"] if method.gain else q.new_ones(out)
    return {"boft_R": full - full.mT, "boft_s": gain.unsqueeze(1)}


def spread(method: OFT, p: Mapping[str, Tensor], geo: Geometry) -> dict[str, Tensor]:
    """The tensors with BOFT's shared blocks, which PEFT does not have, repeated."""
    if not (isinstance(method, BOFT) and method.shared):
        return dict(p)
    return {**p, "Q": p["Q"].expand(-1, geo.in_ // method.block, -1).clone()}


def from_file(method: OFT, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_file`.

    Raises:
        GraftError: a gain of another shape than a column.
    """
    if not isinstance(method, BOFT):
        return {"Q": found["oft_R.weight"]}
    full, s = found["boft_R"], found["boft_s"]
    if s.dim() != 2 or s.shape[1] != 1:
        raise GraftError(f"boft_s has shape {tuple(s.shape)}, which is no column")
    rows, cols = torch.triu_indices(method.block, method.block, 1)
    return {"Q": (0.5 * (full - full.mT))[..., rows, cols], "gain": s.squeeze(1)}


def file_names(method: OFT) -> set[str]:
    """The names that `to_file` gives."""
    return {"boft_R", "boft_s"} if isinstance(method, BOFT) else {"oft_R.weight"}


def method_of(
    kind: str, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
) -> Method | str:
    """The method of one site, by its tensors' shapes."""
    if kind == "BOFT":
        shape = shapes.get("boft_R", ())
        if len(shape) != 4 or shape[2] != shape[3] or shape[2] < 2 or shape[2] % 2 or shape[0] < 1:
            return f"boft_R has shape {list(shape)}, which is no set of even blocks"
        return BOFT(shape[2], butterflies=shape[0], gain=True)
    shape = shapes.get("oft_R.weight", ())
    block = next(
        (k for k in range(2, 2**13) if len(shape) == 2 and k * (k - 1) // 2 == shape[1]), 0
    )
    if not block:
        return f"oft_R.weight has shape {list(shape)}, which is no set of blocks"
    return OFT(block, shared=bool(config.get("block_share")))


def fields(methods: Mapping[str, OFT]) -> tuple[dict[str, Any], list[str]]:
    """What a PEFT config says of these sites, and why it cannot."""
    first = next(iter(methods.values()))
    boft = isinstance(first, BOFT)
    sizes = sorted(
        {(m.block, not boft and m.shared, getattr(m, "butterflies", 1)) for m in methods.values()}
    )
    why = (
        [f"PEFT has one size of blocks per adapter; this graft has {sizes}"]
        if len(sizes) > 1
        else []
    )
    common = {"bias": "none", "init_weights": True}
    if isinstance(first, BOFT):
        own = {"boft_block_size": first.block, "boft_n_butterfly_factor": first.butterflies}
        return {**common, **own, "boft_block_num": 0, "boft_dropout": 0.0}, why
    own = {"oft_block_size": first.block, "r": 0, "block_share": first.shared}
    return {**common, **own, "use_cayley_neumann": False, "coft": False, "module_dropout": 0.0}, why
