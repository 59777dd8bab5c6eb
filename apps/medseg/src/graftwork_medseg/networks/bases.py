"""`--base`: whose network is grafted. Our checkpoints, MONAI bundles, published state dicts, nnU-Net.

    (nothing)               the shipped base
    mni152-sim-base         a shipped checkpoint by its name
    FILE.safetensors        a checkpoint that medseg wrote: network, classes and contract are in it
    FILE.pt .pth .ckpt ...  weights alone, in a published layout; `model.network` names the network
    FOLDER                  a MONAI bundle (configs/metadata.json), or nnU-Net v2 results (plans.json)

All of it is read as data: no pickle runs code, no bundle's expression is evaluated, no script is loaded.
"""

from __future__ import annotations

from pathlib import Path

from graftwork.errors import GraftError

from ..files import CHECKPOINTS
from . import bundle, nnunet, state_dicts
from .network import NetworkConfig, Pretrained, load_pretrained, read_weights

_PICKLES = (".pt", ".pth", ".ckpt", ".bin")


def shipped() -> dict[str, Path]:
    """The checkpoints that come with medseg, by name."""
    return {p.stem: p for p in sorted(CHECKPOINTS.glob("*.safetensors"))}


def load_base(base: str | None, network: NetworkConfig | None = None) -> Pretrained:
    """The network that `base` names, with its weights and, where it states one, its contract.

    Args:
        base: see the module's docstring.
        network: class and arguments, for weights that carry none.

    Raises:
        GraftError: nothing there, not one of these kinds, unsafe, or weights that do not fit.
    """
    if base is None or base in shipped():
        return load_pretrained(shipped()[base] if base else None, network)
    path = Path(base).expanduser()
    if path.is_dir():
        if network is not None:
            raise GraftError(f"{path}: says what its network is; leave model.network out")
        if bundle.is_bundle(path):
            return bundle.read(path)
        if nnunet.is_results(path):
            return nnunet.read(path)
        raise GraftError(
            f"{path}: neither a MONAI bundle (configs/metadata.json) nor a results folder of nnU-Net v2 "
            "(plans.json)"
        )
    if not path.is_file():
        raise GraftError(
            f"{path}: no such weights file, and no shipped checkpoint of that name: {', '.join(shipped())}"
        )
    if path.suffix == ".safetensors":
        carries = "network" in read_weights(path)[1]
        return load_pretrained(path) if network is None else _given(path, network, carries)
    if path.suffix not in _PICKLES:
        raise GraftError(
            f"{path}: give weights as .safetensors or {', '.join(_PICKLES)}; a .ts file is a program"
        )
    if network is None:
        raise GraftError(
            f"{path}: holds weights alone; set model.network.name and model.network.args to their network"
        )
    return state_dicts.read(path, network)


def _given(path: Path, network: NetworkConfig, carries: bool) -> Pretrained:
    return load_pretrained(path, network) if carries else state_dicts.read(path, network)
