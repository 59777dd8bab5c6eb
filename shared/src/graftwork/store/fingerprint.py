"""Is this the base that the graft was trained on? Names, shapes, and hashes of the adapted tensors.

Each adapted tensor is rounded to bfloat16 and hashed with SHA-256, so a float32 and a bfloat16 load of one
base agree. A float16 load may round twice (float32 -> float16 -> bfloat16), so where exactly one side is
float16, 16 sampled values are compared instead, to 2^-7 relative and 2^-24 absolute: this tells another
base from the same one, but not a base whose values all moved by less than that. The outline counts all
parameters of the model by name (numbers replaced by "#") and shape, so a deeper or shallower base differs even
if the adapted layers agree. Modules that the graft replaces whole are not part of it.

A quantised weight counts as the dense one that it stands for, with its scheme for a dtype: a base in 4 bits is another
base than the one it was made from. Devices may decode it with other roundings, so two of one scheme are
compared by their samples where the hashes differ.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from graftwork.algebra import quantised
from graftwork.algebra.recognise import plain_class
from graftwork.errors import GraftError
from graftwork.ledger import Entry
from graftwork.sites import own_modules, within

H = TypeVar("H")
R = TypeVar("R")

SAMPLES = 16
_CHUNK = 2**24  # elements hashed at a time, so that a large tensor costs little memory
_THREADS = min(8, os.cpu_count() or 1)
_here = threading.local()


def fingerprint(model: nn.Module, entry: Entry) -> dict[str, Any]:
    """The base under a graft, as plain JSON.

    Raises:
        GraftError: a base tensor holds no values (meta device).
    """
    tensors = dict(_threaded(_entry, adapted(model, entry)))
    cls = plain_class(model)
    named = f"{cls.__module__}.{cls.__qualname__}"[:500]
    return {"class": named, "outline": outline(model, entry), "tensors": tensors}


def differences(saved: Mapping[str, Any], model: nn.Module, entry: Entry) -> list[str]:
    """How the model's base differs from a saved fingerprint, one line for each tensor or layer group."""
    lines: list[str] = []
    now, was = adapted(model, entry), saved["tensors"]

    def compared(name: str, held: Held | None) -> list[str]:
        known = was.get(name)
        if held is None:
            return tensor_difference(name, known, None)
        return tensor_difference(name, known, held.value(), held.kind)

    for _, found in _threaded(compared, {n: now.get(n) for n in was.keys() | now.keys()}):
        lines += found
    here, there = outline(model, entry), saved["outline"]
    for key in here.keys() | there.keys():
        a, b = here.get(key, 0), there.get(key, 0)
        if a != b:
            lines.append(f"{key}: {a} here, {b} in the graft's base")
    return sorted(lines)


class Held(NamedTuple):
    """A tensor of the base and where it lies; a quantised one is made dense when it is asked for."""

    module: nn.Module
    tensor: Tensor
    scheme: str | None

    @property
    def kind(self) -> str:
        """Its dtype, or how it is quantised."""
        return self.scheme[:20] if self.scheme is not None else _dtype(self.tensor)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the dense tensor."""
        return tuple(self.tensor.shape) if self.scheme is None else quantised.shape_of(self.module)

    def value(self) -> Tensor:
        """The dense tensor."""
        return self.tensor.detach() if self.scheme is None else quantised.dense(self.module)


def adapted(model: nn.Module, entry: Entry) -> dict[str, Held]:
    """The base's tensors that the graft's function depends on, by full name."""
    modules = dict(own_modules(model))
    names = [s.module for s, _ in entry.sites] + [b.name for b in entry.beside if b.new is not None]
    found: dict[str, Held] = {}
    for name in dict.fromkeys(names):
        for leaf, held in _parameters(modules[name]):
            found[f"{name}.{leaf}" if name else leaf] = held
    return found


def outline(model: nn.Module, entry: Entry) -> dict[str, int]:
    """How many parameters there are of each name and shape, such as `layers.#.weight 64x64: 12`."""
    counts: dict[str, int] = {}
    copied = {b.name for b in entry.beside if b.new is None}
    for name, held in _parameters(model):
        if within(name, copied):
            continue
        shape = "x".join(map(str, held.shape)) or "scalar"
        key = re.sub(r"(^|(?<=\.))\d+(?=\.|$)", "#", name) + " " + shape
        counts[key] = counts.get(key, 0) + 1
    return counts


def _parameters(module: nn.Module) -> Iterator[tuple[str, Held]]:
    """Base parameters by name, every use of a tied one, without anything that a graft added."""
    for name, m in own_modules(module):
        for leaf, p in m._parameters.items():
            if p is not None:
                scheme = quantised.scheme(m) if leaf == "weight" else None
                yield f"{name}.{leaf}" if name else leaf, Held(m, p, scheme)


def tensor_difference(
    name: str, saved: Mapping[str, Any] | None, t: Tensor | None, kind: str | None = None
) -> list[str]:
    """How one tensor `t` differs from its entry in a saved fingerprint; empty if it does not.

    Args:
        kind: how the base stores it; `None`: as its dtype says.
    """
    if t is None:
        return [f"{name}: not in this model"]
    if saved is None:
        return [f"{name}: not in the graft's base"]
    if list(t.shape) != saved["shape"]:
        return [f"{name}: shape {tuple(t.shape)} here, {tuple(saved['shape'])} in the graft's base"]
    if _hash(t, name) == saved["sha256"]:
        return []
    kind = kind or _dtype(t)
    halves = (kind == "float16") != (saved["dtype"] == "float16")
    coded = kind == saved["dtype"] and not hasattr(torch, kind)
    if (halves or coded) and _close(t, saved["sketch"]):
        return []
    if kind != saved["dtype"] and not (hasattr(torch, kind) and hasattr(torch, saved["dtype"])):
        return [f"{name}: {kind} here, {saved['dtype']} in the graft's base"]
    return [f"{name}: other values"]


def _entry(name: str, held: Held) -> dict[str, Any]:
    t = held.value()
    return {
        "dtype": held.kind,
        "shape": list(t.shape),
        "sha256": _hash(t, name),
        "sketch": _sketch(t),
    }


def _threaded(work: Callable[[str, H], R], held: Mapping[str, H]) -> list[tuple[str, R]]:
    """Every name with what `work` makes of it, a few at a time: copies to the host and hashes let other threads run."""
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return list(zip(held, pool.map(work, held, held.values()), strict=True))


def _hash(t: Tensor, name: str) -> str:
    if t.is_meta:
        raise GraftError(
            f"{name}: the base has no values yet (meta device); load its weights first"
        )
    digest = hashlib.sha256()
    for part in t.reshape(-1).split(_CHUNK):
        digest.update(_landed(_rounded(part)).numpy().data)
    return digest.hexdigest()


def _landed(bits: Tensor) -> Tensor:
    """The same on the host until this thread's next call."""
    if not bits.is_cuda:
        return bits.cpu()
    # Fresh memory for every chunk would cost more than the copy: the system clears each page of it first.
    if not hasattr(_here, "room"):
        _here.room = torch.empty(_CHUNK, dtype=torch.int16, pin_memory=True)
    room: Tensor = _here.room[: bits.numel()]
    return room.copy_(bits)


def _bits(t: Tensor) -> Tensor:
    return _rounded(t).cpu()


def _rounded(t: Tensor) -> Tensor:
    # by way of float32, so that a float64 base rounds as its float32 load does
    rounded = t if t.dtype == torch.bfloat16 else t.to(torch.float32).to(torch.bfloat16)
    return rounded.contiguous().view(torch.int16)


def _samples(t: Tensor) -> Tensor:
    flat = t.reshape(-1)
    n = flat.numel()
    picks = [i * (n - 1) // (SAMPLES - 1) for i in range(SAMPLES)] if n else []
    return flat[torch.tensor(picks, dtype=torch.long, device=t.device)]


def _sketch(t: Tensor) -> str:
    return _bits(_samples(t)).numpy().astype("<i2").tobytes().hex()


def _close(t: Tensor, sketch: str) -> bool:
    words = torch.frombuffer(bytearray.fromhex(sketch), dtype=torch.bfloat16) if sketch else None
    here = _samples(t).to("cpu", torch.float32)
    if words is None or words.numel() != here.numel():
        return here.numel() == 0 and not sketch
    there = words.to(torch.float32)
    allowed = 2**-7 * torch.maximum(here.abs(), there.abs()) + 2**-24
    return bool(((here - there).abs() <= allowed).all())


def _dtype(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")
