"""A record that several short commands fill: what one measured replaces what it measured before, the rest stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from graftwork.errors import GraftError
from graftwork_runs import Record, Row, validate_record

#: joins the commands in a record's `command`
AND = " && "


def merged(new: Record, path: Path, judge: Callable[[Sequence[Row]], str]) -> Record:
    """`new` with the rows of the record at `path` that it did not measure again.

    A case's variant is replaced whole. A variant that failed now does not replace figures that were measured.

    Args:
        new: what was measured now.
        path: the record's file; without one `new` is all.
        judge: all rows -> the verdict.

    Raises:
        GraftError: the file is of another record, device, or set of versions.
    """
    if not path.exists():
        return new
    old = validate_record(path)
    for field in ("record", "device", "versions"):
        if getattr(old, field) != getattr(new, field):
            raise GraftError(
                f"{path.name}: its {field} is {getattr(old, field)}, now it is {getattr(new, field)}; figures of the "
                "two do not belong into one record: remove the file, or name another with --out"
            )
    had = {(r.case, r.variant) for r in old.rows if r.value is not None}
    kept_now = [r for r in new.rows if (r.case, r.variant) not in _failed(new.rows) & had]
    now = {(r.case, r.variant) for r in kept_now}
    order: dict[str, None] = dict.fromkeys(r.case for r in [*old.rows, *new.rows])
    rows = []
    for case in order:
        for variant in dict.fromkeys(r.variant for r in [*old.rows, *new.rows] if r.case == case):
            source = kept_now if (case, variant) in now else old.rows
            rows += [r for r in source if (r.case, r.variant) == (case, variant)]
    commands = dict.fromkeys([*old.command.split(AND), new.command])
    return new.model_copy(
        update={
            "rows": rows,
            "command": AND.join(commands),
            "seconds": round((old.seconds or 0) + (new.seconds or 0), 1),
            "notes": list(dict.fromkeys([*old.notes, *new.notes])),
            "verdict": judge(rows),
        }
    )


def _failed(rows: Sequence[Row]) -> set[tuple[str, str]]:
    """The variants of which nothing was measured."""
    good = {(r.case, r.variant) for r in rows if r.value is not None}
    return {(r.case, r.variant) for r in rows} - good
