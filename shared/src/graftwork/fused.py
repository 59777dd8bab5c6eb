"""Which modules read a child's weight without calling the child?

torch's MultiheadAttention, the fast path of TransformerEncoderLayer, timm's BEiT, EVA and Swin-V2
attention do. A graft that only changes the child's call would be bypassed there in silence. The
readers are found in the bytecode of each class on the way from the root to a site: in `forward`
and the methods that it names, an attribute chain such as `self.qkv.weight`, unless only its dtype,
device, shape or presence is asked for. While such an owner's forward runs, the site shows its
effective weight; outside it `.weight` is the untouched base Parameter.

A reader that is found although it uses nothing does no harm: the layer's own call stays as it is.
"""

from __future__ import annotations

import dis
import inspect
import itertools
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple

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
#: calls and comparisons that look at an object, not at its values
_LOOKS = frozenset(["isinstance", "hasattr", "type", "id", "callable"])
_LOADS = frozenset(["LOAD_FAST", "LOAD_DEREF", "LOAD_FAST_CHECK"])

_TORCH_BASES = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, object)

Chain = tuple[str, ...]
_REGISTERED: dict[type, set[Chain]] = {}
_READS: dict[type[nn.Module], Reads] = {}


class Reads(NamedTuple):
    """What a class reads in its forward.

    Attributes:
        own: chains from `self`, exact: `self.attn.qkv.weight`.
        loose: the last two parts of chains from other names: `block.qkv.weight`.
        near: parameters of what has no name: `self.layers[0].weight`, `layer.weight` in a loop.
    """

    own: frozenset[Chain]
    loose: frozenset[Chain]
    near: frozenset[str]

    def finds(self, path: Chain, name: str, certain: bool) -> bool:
        """Whether the parameter `name` of the module at `path` (not empty) is read."""
        if (*path, name) in self.own or certain:
            return (*path, name) in self.own
        # what has no name is a child, or sits in a list of children
        return (path[-1], name) in self.loose or (len(path) <= 2 and name in self.near)


def register_reader(cls: type[nn.Module], *paths: str) -> None:
    """Declare that `cls` reads these parameters in its forward, for example `"proj.weight"`.

    Only needed where the read cannot be seen in the class's own bytecode.
    """
    _REGISTERED.setdefault(cls, set()).update(tuple(p.split(".")) for p in paths)
    _READS.clear()


def owners(
    model: nn.Module, site: str, parameters: tuple[str, ...], certain: bool = False
) -> Iterator[tuple[str, str]]:
    """Modules whose forward reads one of the site's parameters: (owner, site's path in it).

    Args:
        certain: only reads that start at `self`, which cannot mean another module.
    """
    parts = tuple(site.split(".")) if site else ()
    module = model
    for depth in range(len(parts) + 1):
        relative = parts[depth:]
        reads = _reads(plain_class(module))
        # a layer's own forward reads its own weight: that is its call
        raw = [p for p in parameters if p not in ("weight", "bias")]
        if (
            any(reads.finds(relative, p, certain) for p in parameters)
            if relative
            else any((p,) in reads.own for p in raw)
        ):
            yield ".".join(parts[:depth]), ".".join(relative)
        if depth < len(parts):
            module = module.get_submodule(parts[depth])


def walks_children(cls: type[nn.Module]) -> bool:
    """Whether the class's forward loops over its own children, whatever they are."""
    names = {n for code in _codes(cls) for part in _nested(code) for n in part.co_names}
    return bool(names & {"children", "named_children", "_modules"})


def _reads(cls: type[nn.Module]) -> Reads:
    if cls not in _READS:
        _READS[cls] = _find_reads(cls)
    return _READS[cls]


def _find_reads(cls: type[nn.Module]) -> Reads:
    own: set[Chain] = set()
    loose: set[Chain] = set()
    near: set[str] = set()
    for base in cls.__mro__:
        own |= _REGISTERED.get(base, set())
    for code in _codes(cls):
        for root, chain in _chains(code):
            for end in range(1, len(chain) + 1):
                if end < len(chain) and chain[end] in _HARMLESS:
                    continue
                if root == "self":
                    own.add(chain[:end])
                elif end >= 2:
                    loose.add(chain[end - 2 : end])
                else:
                    near.add(chain[0])
    return Reads(frozenset(own), frozenset(loose), frozenset(near))


def _codes(cls: type[nn.Module]) -> Iterator[CodeType]:
    """The code of `forward` and of every method and property that is reached from it by name."""
    todo, seen = ["forward"], {"forward"}
    while todo:
        name = todo.pop()
        for base in cls.__mro__:
            if base in _TORCH_BASES:
                continue
            member = vars(base).get(name)
            function = inspect.unwrap(member) if callable(member) else getattr(member, "fget", None)
            code = getattr(function, "__code__", None)
            if not isinstance(code, CodeType):
                continue
            yield code
            # strings count as names too: getattr(self, "attend")
            named = {n for c in _nested(code) for n in (*c.co_names, *c.co_consts)}
            todo += [n for n in named if isinstance(n, str) and n not in seen]
            seen.update(todo)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _nested(const)


def _chains(code: CodeType) -> Iterator[tuple[str, Chain]]:
    """Attribute chains in a function and the functions inside it, with the name they start from."""
    for part in _nested(code):
        root, chain, looked = "", [], False
        steps = list(dis.get_instructions(part))
        for step, after in itertools.zip_longest(steps, steps[1:]):
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                chain.append(str(step.argval))
                continue
            if chain and not looked and not _asks_presence(step, after):
                yield root, tuple(chain)
            loads = step.opname in _LOADS
            looked = step.argval in _LOOKS if step.opname == "LOAD_GLOBAL" else looked and loads
            root, chain = (str(step.argval) if loads else ""), []


def _asks_presence(step: dis.Instruction, after: dis.Instruction | None) -> bool:
    """What follows a chain only compares it with `None`."""
    if step.opname == "LOAD_CONST" and step.argval is None:
        return after is not None and after.opname == "IS_OP"
    return step.opname.startswith("POP_JUMP") and step.opname.endswith("NONE")
