"""A user's own register of vessels: a CSV file with the columns name, mmsi, call_sign, type."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from graftwork.errors import GraftError

from .identities import check_ship
from .kinds import TYPES
from .model import Vessel

COLUMNS = ("name", "mmsi", "call_sign", "type")
MAX_BYTES = 100_000_000
SHOWN = 5
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def decode(data: bytes, name: str) -> str:
    """Text of a file in UTF-8, in UTF-16 with its mark, or in Windows-1252.

    Raises GraftError for bytes that are none of them.
    """
    marked = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    for encoding in (marked,) if marked else ("utf-8", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise GraftError(f"{name} is no text in UTF-8, UTF-16 or Windows-1252; save it as UTF-8")


def read_register(file: str | Path, exercise: bool = False) -> tuple[Vessel, ...]:
    """The vessels of a register, in its order.

    Names become letters, figures and single spaces; an empty MMSI, call sign or type stays unknown. Commas,
    semicolons and tabs may part the columns.
    Raises GraftError with the line and the remedy of each of the first faults.
    """
    path = Path(file)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise GraftError(f"{path} has over {MAX_BYTES // 10**6} MB; split the register")
        text = decode(path.read_bytes(), str(path))
    except OSError as error:
        raise GraftError(f"{path} cannot be read ({error.strerror}); check --register") from None
    vessels: list[Vessel] = []
    faults: list[str] = []
    seen: dict[str, int] = {}
    for line, row in _rows(path, text):
        try:
            vessel = _vessel(row, exercise)
            if vessel.mmsi and seen.setdefault(vessel.mmsi, line) != line:
                raise GraftError(
                    f"MMSI {vessel.mmsi} is on line {seen[vessel.mmsi]} too; keep one of them"
                )
            vessels.append(vessel)
        except GraftError as fault:
            faults.append(f"line {line}: {fault}")
    if faults:
        rest = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise GraftError("\n  ".join([f"{path} has broken rows", *faults[:SHOWN]]) + rest)
    if not vessels:
        raise GraftError(f"{path} holds no vessel; add rows under {','.join(COLUMNS)}")
    return tuple(vessels)


def _rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=head.count), strict=True)
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise GraftError(
                f"{path} line 1 lacks the column {missing[0]}; begin with {','.join(COLUMNS)}"
            )
        for row in reader:
            if any(cell.strip() for cell in row):
                cells = dict(zip(columns, (cell.strip() for cell in row), strict=False))
                yield reader.line_num, {name: cells.get(name, "") for name in COLUMNS}
    except csv.Error as error:
        raise GraftError(
            f"{path} line {reader.line_num}: {error}; quote the cell or part it"
        ) from None


def _vessel(row: dict[str, str], exercise: bool) -> Vessel:
    name = " ".join(re.findall(r"[^\W_]+", row["name"]))
    if not name:
        raise GraftError("the name is empty; give one or take the row out")
    kind = row["type"] or "Other"
    if kind not in TYPES:
        raise GraftError(f"type {kind!r} is unknown; choose one of {', '.join(TYPES)}")
    mmsi, call_sign = row["mmsi"] or None, row["call_sign"].upper() or None
    check_ship(mmsi, call_sign, exercise)
    return Vessel(name, kind, mmsi, call_sign)
