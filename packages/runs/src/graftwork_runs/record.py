"""Records: the JSON files from which every published figure is generated.

A record says what was measured, by which command, where, on which seeds, and the rows. The same
schema serves a benchmark (benchmarks/records/<area>/<name>.json) and a run (record.json in its
folder). Unknown fields are refused, so that a misspelt one cannot pass unseen.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from graftwork.errors import GraftError
from graftwork_runs.files import write_atomic

VERDICTS = ("seen", "partly", "not seen at this scale", "not testable here")

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Text = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Strict):
    """One measured figure: `value` of `metric` for a `variant` in a `case`.

    `lo` and `hi` bound it (the record's notes say what kind of bound); `n` is the number of
    measurements behind it. A figure that could not be measured has `value` None and says why in
    `note`.
    """

    case: _Text
    variant: _Text
    metric: _Text
    value: _Finite | None
    lo: _Finite | None = None
    hi: _Finite | None = None
    n: _Count | None = None
    unit: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Row:
        if (self.lo is None) != (self.hi is None):
            raise ValueError("lo and hi go together")
        if self.lo is not None and self.hi is not None and self.lo > self.hi:
            raise ValueError(f"lo {self.lo} is above hi {self.hi}")
        if self.value is None and not self.note:
            raise ValueError("a row without a value needs a note that says why")
        return self


class Record(_Strict):
    """One experiment, benchmark or run. `environment()` fills the fields that say where it was."""

    record: _Text
    claim: _Text
    command: _Text
    commit: str | None = None
    date: _Text
    device: _Text
    cores: Annotated[int, Field(ge=1)] | None = None
    memory_bytes: _Count | None = None
    versions: dict[str, str]
    seeds: list[int] = []
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    peak_memory_bytes: _Count | None = None
    data: dict[str, str] = {}  # name of a file or data set -> its sha256
    rows: list[Row]
    notes: list[str] = []
    details: dict[str, Any] = {}
    verdict: str | None = None

    @field_validator("record")
    @classmethod
    def _is_a_path(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", value):
            raise ValueError("is <area>/<name>, of letters, digits, '.', '_' and '-'")
        return value

    @field_validator("date")
    @classmethod
    def _is_a_date(cls, value: str) -> str:
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value):
            raise ValueError("is a UTC time such as 2026-01-31T12:00:00Z")
        return value

    @field_validator("verdict")
    @classmethod
    def _starts_with_a_verdict(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(VERDICTS):
            raise ValueError(f"starts with one of: {', '.join(VERDICTS)}; then ': ' and why")
        return value

    @field_validator("data")
    @classmethod
    def _are_hashes(cls, value: dict[str, str]) -> dict[str, str]:
        for name, digest in value.items():
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"{name!r} has no sha256 of 64 hexadecimal digits")
        return value

    def to_json(self) -> str:
        """The record as JSON text; fields that were not given are left out."""
        return (
            json.dumps(self.model_dump(exclude_defaults=True), indent=1, ensure_ascii=False) + "\n"
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the record atomically; its folder is made when missing. Returns the path."""
        path = Path(path)
        text = self.to_json()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GraftError(f"{path.parent}: cannot be made ({error.strerror}).") from error
        return write_atomic(path, text)

    def find(self, **wanted: str) -> list[Row]:
        """The rows whose case, variant or metric equal the given ones."""
        return [row for row in self.rows if all(getattr(row, k) == v for k, v in wanted.items())]


def validate_record(path: str | os.PathLike[str]) -> Record:
    """Read and check a record file. Raises GraftError naming the file and each wrong field."""
    path = Path(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GraftError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise GraftError(f"{path}: is not JSON ({error}). Run its benchmark again.") from error
    try:
        return Record.model_validate(raw)
    except ValidationError as error:
        raise GraftError(f"{path}: {_explain(error)}") from error


def record_schema() -> dict[str, Any]:
    """The JSON schema of a record."""
    return Record.model_json_schema()


def _explain(error: ValidationError) -> str:
    problems = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "the record"
        problems.append(f"{where}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems) + ". Fix these fields, or run the record's command again."
