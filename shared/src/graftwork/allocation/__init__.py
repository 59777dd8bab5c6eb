"""Who gets trained? Self-auditing allocation of a parameter budget (SEA-PEFT, arXiv 2603.05822).

Names load on first use. See `docs/how-to-allocate.md`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Family": "graftwork.allocation.families",
    "register_family": "graftwork.allocation.families",
    "Unit": "graftwork.allocation.unit",
    "units": "graftwork.allocation.unit",
    "conv_units": "graftwork.allocation.manifests",
    "swin_units": "graftwork.allocation.manifests",
    "Switchboard": "graftwork.allocation.switchboard",
    "Plan": "graftwork.allocation.plan",
    "Search": "graftwork.allocation.search",
    "Result": "graftwork.allocation.search",
    "graft_units": "graftwork.allocation.export",
    "read_record": "graftwork.allocation.export",
    "write_record": "graftwork.allocation.export",
}

if TYPE_CHECKING:
    from graftwork.allocation.export import graft_units, read_record, write_record
    from graftwork.allocation.families import Family, register_family
    from graftwork.allocation.manifests import conv_units, swin_units
    from graftwork.allocation.plan import Plan
    from graftwork.allocation.search import Result, Search
    from graftwork.allocation.switchboard import Switchboard
    from graftwork.allocation.unit import Unit, units

__all__ = [
    "Family",
    "Plan",
    "Result",
    "Search",
    "Switchboard",
    "Unit",
    "conv_units",
    "graft_units",
    "read_record",
    "register_family",
    "swin_units",
    "units",
    "write_record",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graftwork.allocation' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
