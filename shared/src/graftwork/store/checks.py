"""What a passport must look like: types, ranges and names, each fault one line. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from graftwork.cards import cards
from graftwork.store.header import ITEM_SIZE

FORMAT, VERSION = "graftwork-adapter", 1

_HEX = re.compile(r"[0-9a-f]*\Z")
Check = Callable[[Any], bool]


def _text(most: int) -> Check:
    return lambda v: isinstance(v, str) and len(v) <= most and v.isprintable()


def _whole(low: int = 0) -> Check:
    return lambda v: type(v) is int and v >= low


def _hex(digits: int) -> Check:
    return lambda v: isinstance(v, str) and len(v) == digits and bool(_HEX.match(v))


def _number(v: Any) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool)


def _shape(v: Any) -> bool:
    return isinstance(v, list) and len(v) <= 8 and all(type(n) is int and n >= 0 for n in v)


def _dtype(v: Any) -> bool:
    return isinstance(v, str) and v in ITEM_SIZE


def passport_faults(p: dict[str, Any]) -> list[str]:
    """Everything wrong with a passport, one line each; empty if it is sound."""
    if p.get("format") != FORMAT:
        return [f"format: must be {FORMAT!r}"]
    version = p.get("format_version")
    if type(version) is int and version > VERSION:
        return [
            f"format_version: {version} is newer than this graftwork reads ({VERSION}); update it"
        ]
    faults = _fields(
        p,
        "",
        {
            "format": lambda v: True,
            "format_version": lambda v: v == VERSION and type(v) is int,
            "graftwork": _text(100),
            "torch": _text(100),
            "created": _text(100),
            "name": lambda v: isinstance(v, str) and graft_name_fault(v) is None,
            "graft": lambda v: isinstance(v, dict),
            "base": lambda v: isinstance(v, dict),
            "tensors": lambda v: isinstance(v, dict),
            "file": lambda v: isinstance(v, dict),
            "trainable": lambda v: isinstance(v, dict),
            "stored": lambda v: v in (None, "float16", "bfloat16"),
            "metrics": lambda v: v is None or isinstance(v, dict),
            "data_card": lambda v: v is None or isinstance(v, dict | str),
            "app": lambda v: (
                isinstance(v, dict)
                and all(_text(100)(k) and isinstance(s, dict) for k, s in v.items())
            ),
        },
        frozenset({"app"}),
    )
    if faults:
        return faults
    faults += _fields(p["file"], "file.", {"bytes": _whole(8), "sha256": _hex(64)})
    counts: dict[str, Check] = {
        "parameters": _whole(),
        "base_parameters": _whole(),
        "share": lambda v: _number(v) and v >= 0,
    }
    faults += _fields(p["trainable"], "trainable.", counts)
    faults += base_faults(p["base"])
    for key, item in p["tensors"].items():
        fault = name_fault(key)
        faults += [f"tensors: {fault}"] if fault else []
        faults += _fields(item, f"tensors.{key[:80]}.", {"dtype": _dtype, "shape": _shape})
    return faults or _spec_faults(p["graft"])


def base_faults(base: Any) -> list[str]:
    """Everything wrong with a base's fingerprint."""
    of: dict[str, Check] = {
        "class": _text(500),
        "outline": lambda v: isinstance(v, dict) and all(_whole(1)(n) for n in v.values()),
        "tensors": lambda v: isinstance(v, dict),
    }
    faults = _fields(base, "base.", of)
    if faults:
        return faults
    entry: dict[str, Check] = {
        "dtype": _text(20),
        "shape": _shape,
        "sha256": _hex(64),
        "sketch": lambda v: (
            isinstance(v, str) and len(v) <= 64 and len(v) % 4 == 0 and _hex(len(v))(v)
        ),
    }
    for key, item in base["tensors"].items():
        faults += _fields(item, f"base.tensors.{key[:80]}.", entry)
    return faults


def table_faults(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """How the tensors of a file differ from a table `{name: {"dtype", "shape"}}`."""
    faults = [f"{k[:80]}: missing in the file" for k in expected if k not in found]
    faults += [f"{k[:80]!r}: in the file, not in the passport" for k in found if k not in expected]
    for k in expected.keys() & found.keys():
        if found[k] != expected[k]:
            have, want = (f"{t['dtype']} {t['shape']}" for t in (found[k], expected[k]))
            faults.append(f"{k[:80]}: {have} in the file, {want} in the passport")
    return sorted(faults)


def graft_name_fault(name: str) -> str | None:
    """Why a graft cannot have this name, or `None`."""
    if not name or any(c in name for c in ".:/\\") or not name.isprintable() or len(name) > 100:
        return (
            f"{name[:80]!r} is not a graft name (no dots, colons or slashes; up to 100 characters)"
        )
    return None


def name_fault(name: Any) -> str | None:
    """Why this is no dotted name of a module or tensor, or `None`. The root's name is empty."""
    if not isinstance(name, str) or len(name) > 1000 or not name.isprintable():
        return f"{str(name)[:80]!r} is not a dotted name"
    if any(c in name for c in "/\\") or (name and "" in name.split(".")):
        return f"{name[:80]!r} is not a dotted name (no slashes, no empty parts)"
    return None


def _fields(
    value: Any, where: str, of: dict[str, Check], optional: frozenset[str] = frozenset()
) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where.rstrip('.')}: must be an object"]
    faults = [f"{where}{k}: missing" for k in of if k not in value and k not in optional]
    faults += [f"{where}{k[:80]}: unknown field" for k in value if k not in of]
    return faults + [
        f"{where}{k}: bad value {str(v)[:60]!r}"
        for k, v in value.items()
        if k in of and not of[k](v)
    ]


def _spec_faults(spec: dict[str, Any]) -> list[str]:
    faults = _fields(
        spec,
        "graft.",
        {
            "method": lambda v: isinstance(v, dict),
            "sites": lambda v: isinstance(v, list),
            "also_train": lambda v: isinstance(v, list),
            "merged": lambda v: v is False,
        },
    )
    if faults:
        return faults
    faults += _method_faults(spec["method"], "graft.method.")
    for i, item in enumerate(spec["sites"]):
        where = f"graft.sites[{i}]."
        of: dict[str, Check] = {
            "name": lambda v: name_fault(v) is None,
            "kind": _text(50),
            "groups": _whole(2),  # of a convolution; absent means 1
            "method": lambda v: isinstance(v, dict),
            "seeded": lambda v: isinstance(v, dict),  # of tensors that are drawn, not stored
        }
        faults += _fields(item, where, of, frozenset({"groups", "method", "seeded"}))
        if isinstance(item, dict) and isinstance(item.get("seeded"), dict):
            drawn = {"generator": _text(100), "sha256": _hex(64)}
            faults += _fields(item["seeded"], where + "seeded.", drawn)
        if isinstance(item, dict) and isinstance(item.get("method"), dict):
            faults += _method_faults(item["method"], where + "method.")
    for i, item in enumerate(spec["also_train"]):
        where = f"graft.also_train[{i}]."
        rows = isinstance(item, dict) and item.get("kind") == "rows"
        of = {
            "name": lambda v: name_fault(v) is None,
            "kind": lambda v: v in ("module", "rows"),
        }
        if rows:
            of["new"] = lambda v: type(v) is int and 1 <= v <= 10**7
        faults += _fields(item, where, of)
    return faults or _overlaps(spec)


def _method_faults(method: dict[str, Any], where: str) -> list[str]:
    of: dict[str, Check] = {"id": _text(100), "config": lambda v: isinstance(v, dict)}
    faults = _fields(method, where, of)
    if faults:
        return faults
    known = [c["id"] for c in cards()]
    if method["id"] not in known:
        faults.append(f"{where}id: no method {method['id']!r}; there are {known}")
    for key, value in method["config"].items():
        items = value if isinstance(value, list) else [value]
        if not all(v is None or isinstance(v, bool | int | float | str) for v in items):
            faults.append(f"{where}config.{key[:80]}: must be a plain value or a list of them")
    return faults


def _overlaps(spec: dict[str, Any]) -> list[str]:
    """Sites named twice, and modules that are both copied whole and grafted."""
    sites = [s["name"] for s in spec["sites"]]
    whole = [b["name"] for b in spec["also_train"] if b["kind"] == "module"]
    rows = [b["name"] for b in spec["also_train"] if b["kind"] == "rows"]
    faults = []
    for field, names in (("sites", sites), ("also_train", whole), ("also_train", rows)):
        twice = [n for n, count in Counter(names).items() if count > 1]
        faults += [f"graft.{field}: {n!r} is named twice" for n in twice]
    copied = set(whole)
    for name, itself in [*((n, 1) for n in [*sites, *rows]), *((n, 0) for n in whole)]:
        parts = name.split(".") if name else []
        within = {".".join(parts[:n]) for n in range(len(parts) + itself)}
        for outer in sorted(within & copied):
            faults.append(
                f"graft.also_train: {outer!r} is copied whole, yet {name!r} inside it is named too"
            )
    return faults
