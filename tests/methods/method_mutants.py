"""Mutants of a method's file, made from its syntax tree; no method needs mutants of its own.

Five kinds: a sign flipped, a scale changed, a factor read in the wrong order, a term dropped, a wrong start. Most
change the branch and the weight change alike, so that forward and merged forward still agree and only
the equations by hand can tell. A method that owns copies of modules has its algebra in
`states.CopyState`; that class is mutated instead.
"""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module

import torch
from method_settings import small
from torch import nn

from graftwork.algebra.linear import Linear
from graftwork.cards import cards
from graftwork.methods import method_class
from tests.mutant_hunt import Mutant

KINDS = ("sign", "scale", "transpose", "dropped term", "wrong start")
#: functions that say what is computed; the others say what is refused, or how fast it is
NOT_ALGEBRA = (
    *("start", "refuses", "refuses_fused", "refuses_merge", "dense_pays", "__init__"),
    *("__post_init__", "starts_at_base"),
)

Change = Callable[[ast.AST], ast.AST]
Made = Iterator[tuple[str, str, ast.Module]]

HELPERS = """
def _times(factor, t):
    return None if t is None else factor * t

def _misread(t):
    long = [i for i, n in enumerate(t.shape) if n > 1]
    if len(long) < 2:
        return t.flip(long[0]) if long else t
    return t.transpose(long[0], long[1]).reshape(t.shape)

def _without_last(t):
    keep = t.new_ones(t.shape[:1]) if t.dim() else t.new_ones(())
    if t.dim():
        keep[-1] = 0
    return t * keep.reshape(-1, *[1] * (t.dim() - 1))

def _only(name, key, change, t):
    return change(t) if name == key else t

def _started(tensors, name, factor, offset):
    return {k: factor * t + offset if k == name else t for k, t in tensors.items()}

def _moved(module):
    for p in module.parameters():
        p.data = p.data + 0.1
    return module
"""


def mutants(method_id: str) -> list[Mutant]:
    """All mutants of a method: at least one of each kind, each with a source of its own."""
    card = next(c for c in cards() if c["id"] == method_id)
    if card["changes"] == "module":
        module, name, make = "graftwork.states", "CopyState", _of_copies
    else:
        module, name, make = card["module"], card["class"], _of_algebra
    made = _of_file(method_id, module, name, make)
    # a method that inherits its algebra: that of the class that it inherits from, too
    cls = method_class(method_id)
    home = next((c for c in cls.__mro__ if "change" in c.__dict__), cls)
    if home is not cls and card["changes"] != "module":
        made += _of_file(method_id, home.__module__, home.__name__, make)
    return made


def _of_file(method_id: str, module: str, name: str, make: Callable[..., Made]) -> list[Mutant]:
    text = inspect.getsource(import_module(module))
    found: dict[str, Mutant] = {}
    for kind, what, tree in make(method_id, ast.parse(text), name):
        source = ast.unparse(ast.fix_missing_locations(tree)) + "\n" + HELPERS
        found.setdefault(source, Mutant(kind, what, module, source))
    original = ast.unparse(ast.parse(text)) + "\n" + HELPERS
    found.pop(original, None)
    return list(found.values())


def _of_algebra(method_id: str, tree: ast.Module, name: str) -> Made:
    names = [f.name for f in _functions(tree, name) if f.name not in NOT_ALGEBRA]
    results = [n for n in names if n in ("change", "weight_change", "attend")]
    # both forms alike, and one form alone
    flipped, scaled = [results, results[:1]], [results, results[-1:]]
    for side in flipped if len(results) > 1 else [results]:
        yield "sign", f"-({', '.join(side)})", _edited(tree, name, side, _result(-1.0))
    for side in scaled if len(results) > 1 else [results]:
        yield "scale", f"1.25 ({', '.join(side)})", _edited(tree, name, side, _result(1.25))
    start = _sample_start(method_id)
    for key in start:
        for kind, helper in (("transpose", "_misread"), ("dropped term", "_without_last")):
            if helper == "_misread" and start[key].numel() == 1:
                continue  # one number has no order to misread
            edit = _edited(tree, name, names, _factor(key, helper))
            yield kind, f"{helper}({key})", edit
    for function in names:
        count = sum(isinstance(n, ast.BinOp) for n in ast.walk(_function(tree, name, function)))
        for i in range(count):
            yield (
                "dropped term",
                f"{function}, operand {i}",
                _edited(tree, name, [function], _keep_left(i)),
            )
    for key, value in start.items():
        factors = [(1.0, 0.1), (0.0, 0.0)] if value.any() else [(1.0, 0.1)]
        for factor, offset in factors:
            edit = _edited(tree, name, ["start"], _start(key, factor, offset))
            yield "wrong start", f"{factor:g} {key} + {offset:g}", edit


def _of_copies(method_id: str, tree: ast.Module, name: str) -> Made:
    yield "sign", "-call", _edited(tree, name, ["call"], _result(-1.0))
    yield "scale", "1.25 call", _edited(tree, name, ["call"], _result(1.25))
    yield "transpose", "merged misread", _edited(tree, name, ["merged"], _wrap_detached)
    for i in range(2):
        yield "dropped term", f"merged list {i}", _edited(tree, name, ["merged"], _shorter(i))
    yield "wrong start", "the copy + 0.1", _edited(tree, name, ["__init__"], _moved_copy)


def _sample_start(method_id: str) -> dict[str, torch.Tensor]:
    """The start tensors of a small layer."""
    geo = Linear(out=6, in_=5)
    torch.manual_seed(0)
    layer = nn.Linear(5, 6)
    return small(method_id).start(geo, layer.weight.detach(), layer.bias.detach())


# -- editing the tree -----------------------------------------------------------------------------------


def _class(tree: ast.Module, name: str) -> ast.ClassDef:
    (found,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    return found


def _functions(tree: ast.Module, name: str) -> list[ast.FunctionDef]:
    return [n for n in _class(tree, name).body if isinstance(n, ast.FunctionDef)]


def _function(tree: ast.Module, name: str, function: str) -> ast.FunctionDef:
    return next(f for f in _functions(tree, name) if f.name == function)


def _edited(tree: ast.Module, name: str, functions: list[str], edit: Change) -> ast.Module:
    """A copy of the tree with `edit` applied to every node inside these functions."""

    class Walk(ast.NodeTransformer):
        def generic_visit(self, node: ast.AST) -> ast.AST:
            return edit(super().generic_visit(node))

    new = copy.deepcopy(tree)
    for f in _functions(new, name):
        if f.name in functions:
            f.body = [Walk().visit(statement) for statement in f.body]
    return new


def _call(helper: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(helper, ast.Load()), list(args), [])


def _is_call(node: ast.AST | None, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _result(factor: float) -> Change:
    """Multiply what a function returns: a tensor, or the fields of a `Delta`."""

    def times(value: ast.expr) -> ast.Call:
        return _call("_times", ast.Constant(factor), value)

    def edit(node: ast.AST) -> ast.AST:
        if _is_call(node, "Delta"):
            assert isinstance(node, ast.Call)
            node.args = [times(a) for a in node.args]
            node.keywords = [ast.keyword(k.arg, times(k.value)) for k in node.keywords]
        elif isinstance(node, ast.Return) and node.value and not _is_call(node.value, "Delta"):
            node.value = times(node.value)
        return node

    return edit


def _factor(key: str, helper: str) -> Change:
    """Wrap every `p["key"]`, and every `p[f"..."]` where the name is this one."""

    def edit(node: ast.AST) -> ast.AST:
        if not isinstance(node, ast.Subscript):
            return node
        if isinstance(node.slice, ast.Constant) and node.slice.value == key:
            return _call(helper, node)
        if isinstance(node.slice, ast.JoinedStr):
            name = copy.deepcopy(node.slice)
            return _call("_only", name, ast.Constant(key), ast.Name(helper, ast.Load()), node)
        return node

    return edit


def _keep_left(index: int) -> Change:
    """Replace the `index`-th `a op b` by `a`; a factor that is a plain number by the other one."""
    seen = -1

    def edit(node: ast.AST) -> ast.AST:
        nonlocal seen
        if isinstance(node, ast.BinOp):
            seen += 1
            if seen == index:
                number = isinstance(node.left, ast.Attribute | ast.Constant)
                return node.right if number else node.left
        return node

    return edit


def _start(key: str, factor: float, offset: float) -> Change:
    def edit(node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Return) and node.value:
            extra = [ast.Constant(v) for v in (key, factor, offset)]
            node.value = _call("_started", node.value, *extra)
        return node

    return edit


def _wrap_detached(node: ast.AST) -> ast.AST:
    detached = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return _call("_misread", node) if detached and node.func.attr == "clone" else node  # type: ignore[attr-defined, arg-type]


def _shorter(index: int) -> Change:
    def edit(node: ast.AST) -> ast.AST:
        if isinstance(node, ast.List) and len(node.elts) > index:
            del node.elts[index]
        return node

    return edit


def _moved_copy(node: ast.AST) -> ast.AST:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
        node.value = _call("_moved", node.value)
    return node
