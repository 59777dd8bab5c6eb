"""Checkpoint values as JSON plus a flat dictionary of tensors, without pickle and without loss.

JSON lists, strings, integers, finite floats, booleans, null and string-keyed dictionaries stand for
themselves; anything else is a one-key dictionary `{"!kind": ...}`.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from datetime import timedelta
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftwork.errors import GraftError


def encode(value: Any, tensors: dict[str, Tensor], where: str = "") -> Any:
    """Turn `value` into JSON values; its tensors are put into `tensors` under their dotted place.

    Raises:
        GraftError: a value of a type that cannot be stored without pickle.
    """

    def items(pairs: Any) -> list[list[Any]]:
        return [
            [encode(k, tensors, f"{where}.key"), encode(v, tensors, f"{where}.{k}")]
            for k, v in pairs
        ]

    if value is None or (isinstance(value, bool | str) and type(value) in (bool, str)):
        return value
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized:
            raise GraftError(
                f"checkpoint: {where} is a {value.layout} tensor, which cannot be stored"
            )
        key = where.lstrip(".") or "value"
        tensors[key] = value
        return {"!tensor": key}
    if isinstance(value, np.ndarray | np.generic):
        return {
            "!array" if isinstance(value, np.ndarray) else "!number": _array(value, tensors, where)
        }
    if type(value) is int:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"!float": repr(float(value))}
    if type(value) in (dict, OrderedDict, defaultdict):
        if all(type(k) is str and not k.startswith("!") for k in value):
            return {k: encode(v, tensors, f"{where}.{k}") for k, v in value.items()}
        return {"!dict": items(value.items())}
    if type(value) is Counter:
        return {"!counter": items(value.items())}
    if type(value) is list:
        return [encode(v, tensors, f"{where}.{i}") for i, v in enumerate(value)]
    if type(value) in (tuple, set, frozenset):
        kind = "!set" if not isinstance(value, tuple) else "!tuple"
        members = value if isinstance(value, tuple) else sorted(value, key=repr)
        return {kind: [encode(v, tensors, f"{where}.{i}") for i, v in enumerate(members)]}
    if isinstance(value, timedelta):
        return {"!seconds": value.total_seconds()}
    if isinstance(value, PurePath):
        return str(value)
    raise GraftError(
        f"checkpoint: {where.lstrip('.')} is a {type(value).__module__}.{type(value).__qualname__}, which only "
        "pickle could store; return plain numbers, strings, lists, dictionaries or tensors from `state_dict`"
    )


def decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `encode`.

    Raises:
        KeyError, TypeError, ValueError: not something `encode` wrote.
    """
    if isinstance(value, list):
        return [decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), "")
    if not kind.startswith("!"):
        return {k: decode(v, tensors) for k, v in value.items()}
    body = value[kind]
    match kind:
        case "!tensor":
            return tensors[body]
        case "!array":
            return _from_array(body, tensors)
        case "!number":
            return _from_array(body, tensors)[()]
        case "!float":
            return float(body)
        case "!dict":
            return {decode(k, tensors): decode(v, tensors) for k, v in body}
        case "!counter":
            return Counter({decode(k, tensors): decode(v, tensors) for k, v in body})
        case "!tuple":
            return tuple(decode(v, tensors) for v in body)
        case "!set":
            return {decode(v, tensors) for v in body}
        case "!seconds":
            return timedelta(seconds=body)
    raise ValueError(f"unknown kind {kind!r}")


def _array(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    array = np.ascontiguousarray(value)
    if array.dtype.kind not in "biufc":
        raise GraftError(
            f"checkpoint: {where.lstrip('.')} is an array of {array.dtype}, which cannot be stored"
        )
    key = where.lstrip(".") or "value"
    # as bytes: torch has no counterpart for some of numpy's types
    tensors[key] = (
        torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8)
        if array.size
        else torch.empty(0)
    )
    return {"dtype": array.dtype.str, "shape": list(np.shape(value)), "bytes": key}


def _from_array(body: Any, tensors: dict[str, Tensor]) -> Any:
    data = tensors[body["bytes"]].numpy().tobytes()
    return np.frombuffer(data, dtype=np.dtype(body["dtype"])).reshape(body["shape"]).copy()
