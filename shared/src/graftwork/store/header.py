"""The header of a safetensors file, checked with the standard library alone.

The format (github.com/huggingface/safetensors): 8 bytes of header length, little-endian; a JSON object of
`name -> {dtype, shape, data_offsets}` and an optional `__metadata__` of strings; then the data, which the
tensors must tile without holes or overlaps.
"""

from __future__ import annotations

import math
import struct
from typing import Any, BinaryIO

from graftwork.errors import GraftError
from graftwork.store.strict_json import parse

LIMIT = 10 * 2**20  # bytes of header
ITEM_SIZE = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "I32": 4,
    "I64": 8,
    "F16": 2,
    "BF16": 2,
    "F32": 4,
    "F64": 8,
}


def read_header(file: BinaryIO, size: int, what: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensor table `{name: {"dtype", "shape"}}` and the metadata of a safetensors file.

    Args:
        file: positioned at the start.
        size: of the whole file in bytes.
        what: how messages name the file.

    Raises:
        GraftError: too short, a header above 10 MB, bad JSON, an unknown dtype, a bad shape, or offsets that
            do not tile the data.
    """
    start = file.read(8)
    if len(start) < 8:
        raise GraftError(f"{what}: {size} bytes is too short for a safetensors file")
    (length,) = struct.unpack("<Q", start)
    if length > LIMIT:
        raise GraftError(
            f"{what}: announces a header of {length:,d} bytes; the limit is {LIMIT:,d}"
        )
    if length > size - 8:
        raise GraftError(f"{what}: truncated; the header alone should have {length:,d} bytes")
    raw = parse(file.read(length), f"{what}: header")
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise GraftError(f"{what}: header: __metadata__ must map strings to strings")
    table: dict[str, Any] = {}
    spans: list[tuple[int, int, str]] = []
    for name, item in raw.items():
        table[name], begin, end = _entry(name, item, what)
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise GraftError(
                f"{what}: header: {name[:80]!r} leaves a hole or overlaps another tensor"
            )
        position = end
    if position != size - 8 - length:
        raise GraftError(
            f"{what}: truncated or padded; the header announces {position:,d} bytes of data, "
            f"the file has {size - 8 - length:,d}"
        )
    return table, metadata


def _entry(name: str, item: Any, what: str) -> tuple[dict[str, Any], int, int]:
    where = f"{what}: header: {name[:80]!r}"
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise GraftError(f"{where} must have dtype, shape and data_offsets")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise GraftError(
            f"{where}: dtype {str(dtype)[:20]!r} is not served; {sorted(ITEM_SIZE)} are"
        )
    if not _counts(shape) or len(shape) > 8:
        raise GraftError(f"{where}: bad shape")
    if not _counts(offsets) or len(offsets) != 2:
        raise GraftError(f"{where}: bad data_offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * ITEM_SIZE[dtype]:
        raise GraftError(
            f"{where}: {end - begin:,d} bytes of data do not fit shape {shape} of {dtype}"
        )
    return {"dtype": dtype, "shape": shape}, begin, end


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)
