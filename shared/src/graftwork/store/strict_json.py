"""JSON as it should arrive from strangers: no duplicate keys, no NaN, no giants, text that can be printed."""

from __future__ import annotations

import json
import math
from typing import Any

from graftwork.errors import GraftError

#: whole numbers above this lose their value in other JSON readers
LARGEST = 2**53


def parse(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`.

    Args:
        what: how messages name the file.

    Raises:
        GraftError: not UTF-8, not JSON, not an object, nested too deep, a key given twice, a number that
            is NaN, infinite or above 2^53, or text with unpaired surrogates.
    """
    try:
        value = json.loads(data.decode("utf8"), object_pairs_hook=_no_twins, parse_constant=_refuse)
        _check(value)
    except RecursionError:
        raise GraftError(f"{what}: nested too deep to be genuine") from None
    except GraftError as e:
        raise GraftError(f"{what}: {e}") from None
    except ValueError as e:  # bad UTF-8, bad JSON, a number of thousands of digits
        raise GraftError(f"{what}: not valid JSON ({str(e)[:200]})") from None
    if not isinstance(value, dict):
        raise GraftError(f"{what}: holds a {type(value).__name__}, not a JSON object")
    return value


def dump(value: Any, what: str) -> bytes:
    """`value` as JSON that `parse` accepts, UTF-8 with a final newline.

    Raises:
        GraftError: a value that JSON cannot hold, or that `parse` would refuse.
    """
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=1)
        _check(value)
        return text.encode("utf8") + b"\n"
    except (TypeError, ValueError, RecursionError) as e:
        raise GraftError(f"{what}: cannot be written as JSON ({str(e)[:200]})") from None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        keys = [k for k, _ in pairs]
        twin = next(k for k in keys if keys.count(k) > 1)
        raise GraftError(f"the key {twin[:80]!r} is given twice")
    return out


def _refuse(word: str) -> Any:
    raise GraftError(f"holds {word}, which is not a JSON number")


def _check(value: Any) -> None:
    if isinstance(value, str):
        value.encode("utf8")  # raises UnicodeEncodeError, a ValueError, on unpaired surrogates
    elif isinstance(value, dict):
        for k, v in value.items():
            _check(k)
            _check(v)
    elif isinstance(value, list | tuple):
        for v in value:
            _check(v)
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise GraftError(f"the number {str(value)[:20]}... is too large")
    elif isinstance(value, float) and not math.isfinite(value):
        raise GraftError(f"holds {value!r}, which is not a JSON number")
