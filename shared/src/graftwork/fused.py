"""Which modules read a child's weight without calling the child?

torch's MultiheadAttention, the fast path of TransformerEncoderLayer, timm's BEiT, EVA and Swin-V2
attention do. A graft that only changes the child's call would be bypassed there in silence. The
readers are found in the bytecode of each class on the way from the root to a site: an attribute
chain such as `self.qkv.weight`, unless only its dtype, device or shape is asked for. While such an
owner's forward runs, the site shows its effective weight; outside it `.weight` is the untouched
base Parameter.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import CodeType

from torch import nn

from graftwork.algebra.recognise import plain_class

#: attributes of a tensor that do not depend on its values
_HARMLESS = frozenset(
    [
        "dtype",
        "device",
        "shape",
        "size",
        "ndim",
        "dim",
        "requires_grad",
        "is_cuda",
        "is_quantized",
        "layout",
        "names",
        "numel",
        "itemsize",
        "is_contiguous",
        "element_size",
        "is_floating_point",
        "is_leaf",
        "grad",
        "is_meta",
        "is_nested",
        "is_cpu",
    ]
)
#: methods that run outside the forward
_NOT_FORWARD = (
    *("init", "reset", "repr", "load", "tie", "export"),
    *("save", "fuse", "quantize", "resize"),
)

Chain = tuple[str, ...]
_REGISTERED: dict[type, set[Chain]] = {}
_READS: dict[type[nn.Module], tuple[frozenset[Chain], frozenset[Chain]]] = {}


def register_reader(cls: type[nn.Module], *paths: str) -> None:
    """Declare that `cls` reads these parameters in its forward, for example `"proj.weight"`.

    Only needed where the read cannot be seen in the class's own bytecode.
    """
    _REGISTERED.setdefault(cls, set()).update(tuple(p.split(".")) for p in paths)
    _READS.clear()


def owners(model: nn.Module, site: str, parameters: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Modules whose forward reads one of the site's parameters: (owner, site's path in it)."""
    parts = tuple(site.split(".")) if site else ()
    module = model
    for depth in range(len(parts) + 1):
        relative = parts[depth:]
        own, loose = _reads(plain_class(module))
        for name in parameters:
            # a layer's own forward reads its own weight: that is its call
            chain = (*relative, name)
            if (relative and (chain in own or chain[-2:] in loose)) or (
                not relative and chain in own and name not in ("weight", "bias")
            ):
                yield ".".join(parts[:depth]), ".".join(relative)
                break
        if depth < len(parts):
            module = module.get_submodule(parts[depth])


def _reads(cls: type[nn.Module]) -> tuple[frozenset[Chain], frozenset[Chain]]:
    if cls not in _READS:
        _READS[cls] = _find_reads(cls)
    return _READS[cls]


def _find_reads(cls: type[nn.Module]) -> tuple[frozenset[Chain], frozenset[Chain]]:
    """Chains read from `self` (exact), and chains read from other names (their last two parts)."""
    own: set[Chain] = set()
    loose: set[Chain] = set()
    for base in cls.__mro__:
        own |= _REGISTERED.get(base, set())
        if base is nn.Module or base.__module__ == "graftwork.attach" or base is object:
            continue
        for name, member in vars(base).items():
            if any(word in name for word in _NOT_FORWARD):
                continue
            function = inspect.unwrap(member) if callable(member) else getattr(member, "fget", None)
            code = getattr(function, "__code__", None)
            if code is not None:
                for root, chain in _chains(code):
                    for end in range(1, len(chain) + 1):
                        if end < len(chain) and chain[end] in _HARMLESS:
                            continue
                        if root == "self":
                            own.add(chain[:end])
                        elif end >= 2:
                            loose.add(chain[end - 2 : end])
    return frozenset(own), frozenset(loose)


def _chains(code: CodeType) -> Iterator[tuple[str, Chain]]:
    """Attribute chains in a function and the functions inside it, with the name they start from."""
    root = ""
    chain: list[str] = []
    for ins in dis.get_instructions(code):
        if ins.opname in ("LOAD_FAST", "LOAD_DEREF", "LOAD_FAST_CHECK"):
            if chain:
                yield root, tuple(chain)
            root, chain = str(ins.argval), []
        elif ins.opname in ("LOAD_ATTR", "LOAD_METHOD") and root:
            chain.append(str(ins.argval))
        else:
            if chain:
                yield root, tuple(chain)
            root, chain = "", []
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _chains(const)
