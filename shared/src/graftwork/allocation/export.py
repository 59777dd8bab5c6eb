"""A chosen set as one ordinary graft, and the search's record as a file.

As one graft it is saved, loaded, merged and, where all its units are of a method that peft knows,
written as a PEFT folder, like any other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from graftwork.allocation.unit import Unit, exclusions
from graftwork.errors import GraftError
from graftwork.graft import attach_entry, resolve
from graftwork.handle import Graft
from graftwork.store.strict_json import dump, parse

FORMAT = "graftwork-allocation"
LIMIT = 64_000_000  # bytes; a long search of hundreds of units stays far below


def graft_units(
    model: nn.Module,
    units: Sequence[Unit],
    *,
    beside: Iterable[Mapping[str, Any]] = (),
    name: str = "default",
    seed: int | None = None,
) -> Graft:
    """Graft a chosen set fresh on a base, for example to refine it: the training is the caller's.

    Args:
        model: a base without a graft of that name.
        units: the set.
        beside: specs (`Graft.spec()`) of grafts that belong with it, such as the head's.
        name: of the one graft.
        seed: of the start values.

    Raises:
        GraftError: an empty set, units that exclude each other, or a base that they do not fit.
    """
    entry, faults = resolve(model, joint_spec(units, beside))
    if faults:
        raise GraftError(f"the units do not fit {type(model).__name__}:\n  " + "\n  ".join(faults))
    return attach_entry(model, name, entry, seed)


def joint_spec(units: Sequence[Unit], beside: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """One graft's spec for a set of units and the grafts beside them.

    The first method that changes layers is the graft's own, others stand at their sites. Norms that train
    become modules of the graft.

    Raises:
        GraftError: nothing chosen, or parts that meet at one site.
    """
    excludes = exclusions(units)
    for unit in units:
        clash = sorted({u.name for u in units} & excludes[unit.name])
        if clash:
            raise GraftError(f"units: {unit.name!r} and {clash[0]!r} exclude each other")
    parts: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = []  # name, kind, method, rest
    owned: list[dict[str, Any]] = []
    for unit in units:
        method = {"id": unit.method.id, "config": unit.method.config()}
        for site in unit.sites:
            if site.geo is None:
                owned.append({"name": site.name, "kind": "module"})
                continue
            rest = {"groups": site.geo.groups} if site.geo.groups > 1 else {}
            parts.append((site.name, site.geo.kind, method, rest))
    for spec in beside:
        for item in spec["sites"]:
            rest = {k: v for k, v in item.items() if k == "groups"}
            if item["kind"] == "norm" and item.get("method", spec["method"])["id"] == "norm_affine":
                owned.append({"name": item["name"], "kind": "module"})
            else:
                parts.append((item["name"], item["kind"], item.get("method", spec["method"]), rest))
        owned += [dict(item) for item in spec["also_train"]]
    names = [p[0] for p in parts] + [o["name"] for o in owned if o["kind"] == "module"]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise GraftError(
            f"units: two parts of the set meet at {twice[0]}; one graft keeps one there"
        )
    if not parts and not owned:
        raise GraftError("units: the set is empty; raise the budget or give the search more steps")
    shared = parts[0][2] if parts else {"id": "norm_affine", "config": {}}
    sites = [
        {"name": n, "kind": kind, **rest, **({} if method == shared else {"method": method})}
        for n, kind, method, rest in parts
    ]
    return {"method": shared, "sites": sites, "also_train": owned, "merged": False}


def write_record(path: str | os.PathLike[str], record: Mapping[str, Any]) -> Path:
    """Write a search's record as JSON; a file of that name is replaced whole or not at all.

    Raises:
        GraftError: it cannot be written.
    """
    path = Path(path)
    data = dump(dict(record), f"{path}: record")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise GraftError(f"{path}: cannot be written: {error}") from None
    return path


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_record` wrote.

    Raises:
        GraftError: no such file, or not a search's record.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LIMIT:
            raise GraftError(f"{path}: larger than any record of a search ({LIMIT:,d} bytes)")
        record = parse(path.read_bytes(), str(path))
    except OSError as error:
        raise GraftError(f"{path}: cannot be read: {error.strerror}") from None
    if record.get("format") != FORMAT or not isinstance(record.get("chosen"), list):
        raise GraftError(f"{path}: not the record of a search; write one with write_record")
    return record


def chosen_units(record: Mapping[str, Any], units: Iterable[Unit]) -> list[Unit]:
    """The units that a record's set names, in the order of `units`.

    Raises:
        GraftError: a name that is not among them, or one whose cost differs.
    """
    by_name = {u.name: u for u in units}
    wanted = {}
    for row in record["chosen"]:
        name = row.get("name") if isinstance(row, dict) else None
        if name not in by_name:
            raise GraftError(f"record: there is no unit {name!r}; build the units as in the search")
        if row.get("cost") != by_name[name].cost:
            raise GraftError(
                f"record: unit {name!r} has {by_name[name].cost} parameters here, "
                f"{row.get('cost')} in the record; is this the same network?"
            )
        wanted[name] = by_name[name]
    return [u for u in by_name.values() if u.name in wanted]
