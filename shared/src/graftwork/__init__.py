"""Graftwork: small trained parts grafted onto frozen models, exactly.

Names load on first use, so that `import graftwork` costs nothing and light commands never import
torch. See `docs/architecture.md` for the public surface.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from graftwork.errors import GraftError

__version__ = "0.1.0"

_HOMES = {
    "graft": "graftwork.graft",
    "graft_from_spec": "graftwork.graft",
    "get": "graftwork.handle",
    "grafts": "graftwork.handle",
    "activate": "graftwork.handle",
    "active": "graftwork.handle",
    "dual": "graftwork.dual",
    "Dual": "graftwork.dual",
    "remove": "graftwork.handle",
    "Graft": "graftwork.handle",
    "merge": "graftwork.merging",
    "unmerge": "graftwork.merging",
    "check_reach": "graftwork.reach",
    "extra_loss": "graftwork.losses",
    "linear_cross_entropy": "graftwork.token_loss",
    "prompt": "graftwork.prompts",
    "recorded": "graftwork.recording.recorder",
    "serving": "graftwork.fast.serving",
    "NewRows": "graftwork.beside",
    "register_layer": "graftwork.algebra.recognise",
    "register_reader": "graftwork.fused",
    "save": "graftwork.store",
    "shard_base": "graftwork.sharding",
    "load": "graftwork.store",
    "inspect": "graftwork.store.passport",
    "cards": "graftwork.cards",
    "LoFT": "graftwork.optim.loft",
    "LoFTSimple": "graftwork.optim.loft_simple",
    "LoRAPlus": "graftwork.optim.lora_plus",
    "lora_plus": "graftwork.optim.lora_plus",
    "paced": "graftwork.optim.rates",
    "GAST": "graftwork.selection.gast",
}

#: packages that are part of the public surface under their own name
_ROOMS = ("tenants",)

if TYPE_CHECKING:
    from graftwork import tenants
    from graftwork.algebra.recognise import register_layer
    from graftwork.beside import NewRows
    from graftwork.cards import cards
    from graftwork.dual import Dual, dual
    from graftwork.fast.serving import serving
    from graftwork.fused import register_reader
    from graftwork.graft import graft, graft_from_spec
    from graftwork.handle import Graft, activate, active, get, grafts, remove
    from graftwork.losses import extra_loss
    from graftwork.merging import merge, unmerge
    from graftwork.methods.adaptformer import AdaptFormer
    from graftwork.methods.alfa import Alfa
    from graftwork.methods.bitfit import BitFit
    from graftwork.methods.boft import BOFT
    from graftwork.methods.core import CoRe
    from graftwork.methods.diablo import DiaBlo
    from graftwork.methods.direft import DiReFT
    from graftwork.methods.dora import DoRA
    from graftwork.methods.goat import GOAT
    from graftwork.methods.hydra_lora import HydraLoRA
    from graftwork.methods.ia3 import IA3
    from graftwork.methods.lora import LoRA
    from graftwork.methods.lora_sp import LoRASP
    from graftwork.methods.loreft import LoReFT
    from graftwork.methods.loretta import LoRETTA
    from graftwork.methods.loretta_adp import LoRETTAAdapter
    from graftwork.methods.milora import MiLoRA
    from graftwork.methods.moe_lora import MoELoRA
    from graftwork.methods.noble import NOBLE
    from graftwork.methods.norm_affine import NormAffine
    from graftwork.methods.oft import OFT
    from graftwork.methods.pissa import PiSSA
    from graftwork.methods.prefix import PrefixTuning
    from graftwork.methods.serial_adapter import SerialAdapter
    from graftwork.methods.vera import VeRA
    from graftwork.methods.wegeft import WeGeFT
    from graftwork.optim.loft import LoFT
    from graftwork.optim.loft_simple import LoFTSimple
    from graftwork.optim.lora_plus import LoRAPlus, lora_plus
    from graftwork.optim.rates import paced
    from graftwork.prompts import prompt
    from graftwork.reach import check_reach
    from graftwork.recording.recorder import recorded
    from graftwork.selection.gast import GAST
    from graftwork.sharding import shard_base
    from graftwork.store import load, save
    from graftwork.store.passport import inspect
    from graftwork.token_loss import linear_cross_entropy


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"graftwork.{name}")
    home = _HOMES.get(name)
    if home is None:
        from graftwork.cards import cards as _cards

        home = next((c["module"] for c in _cards() if c["class"] == name), None)
    if home is None:
        raise AttributeError(f"module 'graftwork' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps `graftwork.graft` and `graftwork.cards` the functions, whoever imports the modules of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # the import system binds a submodule to its package under the submodule's name
        if isinstance(value, ModuleType) and _HOMES.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    from graftwork.cards import cards as _cards

    return sorted({*_HOMES, *_ROOMS, "GraftError", "__version__", *(c["class"] for c in _cards())})


__all__ = [
    "BOFT",
    "GAST",
    "GOAT",
    "IA3",
    "NOBLE",
    "OFT",
    "AdaptFormer",
    "Alfa",
    "BitFit",
    "CoRe",
    "DiReFT",
    "DiaBlo",
    "DoRA",
    "Dual",
    "Graft",
    "GraftError",
    "HydraLoRA",
    "LoFT",
    "LoFTSimple",
    "LoRA",
    "LoRAPlus",
    "LoRASP",
    "LoRETTA",
    "LoRETTAAdapter",
    "LoReFT",
    "MiLoRA",
    "MoELoRA",
    "NewRows",
    "NormAffine",
    "PiSSA",
    "PrefixTuning",
    "SerialAdapter",
    "VeRA",
    "WeGeFT",
    "activate",
    "active",
    "cards",
    "check_reach",
    "dual",
    "extra_loss",
    "get",
    "graft",
    "graft_from_spec",
    "grafts",
    "inspect",
    "linear_cross_entropy",
    "load",
    "lora_plus",
    "merge",
    "paced",
    "prompt",
    "recorded",
    "register_layer",
    "register_reader",
    "remove",
    "save",
    "serving",
    "shard_base",
    "tenants",
    "unmerge",
]
