"""Adapter folders: save, load, inspect, convert. Names load on first use; `inspect` needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "save": "graftwork.store.adapter",
    "load": "graftwork.store.adapter",
    "inspect": "graftwork.store.passport",
    "describe": "graftwork.store.passport",
    "to_peft": "graftwork.store.hf_write",
    "from_peft": "graftwork.store.hf_read",
    "to_lora": "graftwork.store.convert",
    "Conversion": "graftwork.store.convert",
}

if TYPE_CHECKING:
    from graftwork.store.adapter import load, save
    from graftwork.store.convert import Conversion, to_lora
    from graftwork.store.hf_read import from_peft
    from graftwork.store.hf_write import to_peft
    from graftwork.store.passport import describe, inspect


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graftwork.store' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


__all__ = [
    "Conversion",
    "describe",
    "from_peft",
    "inspect",
    "load",
    "save",
    "to_lora",
    "to_peft",
]
