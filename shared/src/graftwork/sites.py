"""Which layers? Globs over dotted names and module types; every pattern must match.

`*` crosses dots, as in a shell's `**`: "*.attn.qkv", "layer3.*.conv*", "encoder.*". "type:Conv3d"
selects by class name, a class selects by isinstance. There are no regular expressions: a config
from a stranger cannot make matching hang.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from graftwork.algebra import quantised
from graftwork.algebra.geometry import Geometry
from graftwork.algebra.linear import Linear
from graftwork.algebra.recognise import (
    plain_class,
    recognise,
    recognise_attention,
    recognise_block,
)
from graftwork.attach import CHILD
from graftwork.errors import GraftError
from graftwork.methods.base import Method

Pattern = str | type[nn.Module]


@dataclass(frozen=True)
class Site:
    """One place a graft can sit.

    Args:
        name: dotted name; for a raw parameter the module's name and the parameter's.
        module: dotted name of the module.
        geo: its geometry; `None` for modules that are copied whole.
        weight, bias: names of the parameters that change.
    """

    name: str
    module: str
    geo: Geometry | None
    weight: str = "weight"
    bias: str = "bias"

    @property
    def raw(self) -> bool:
        """The site is a bare parameter of its module, which is never called for it."""
        return self.weight != "weight"


#: bare parameters that are linear maps: attribute -> its bias (torch.nn.MultiheadAttention)
PACKED = {
    "in_proj_weight": "in_proj_bias",
    "q_proj_weight": "",
    "k_proj_weight": "",
    "v_proj_weight": "",
}


def own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The model's modules by name, without anything that a graft added."""
    for name, module in model.named_modules():
        if CHILD not in name.split("."):
            yield name, module


def candidates(model: nn.Module) -> dict[str, Site | str]:
    """Every layer and packed parameter of the model: a site, or the reason why it is refused."""
    found: dict[str, Site | str] = {}
    for name, module in own_modules(model):
        geo = recognise(module)
        if isinstance(geo, str):
            found[name] = geo
        elif geo is not None:
            found[name] = Site(name, name, geo)
        if isinstance(module, nn.MultiheadAttention):
            for weight, bias in PACKED.items():
                p = module._parameters.get(weight)
                if p is not None:
                    site = f"{name}.{weight}" if name else weight
                    packed = Linear(out=p.shape[0], in_=p.shape[1])
                    found[site] = Site(site, name, packed, weight, bias)
    return found


def matches(pattern: Pattern, name: str, module: nn.Module) -> bool:
    """Whether one pattern selects this module."""
    if isinstance(pattern, type):
        return isinstance(module, pattern)
    if pattern.startswith("type:"):
        return fnmatch.fnmatchcase(plain_class(module).__name__, pattern[5:])
    return fnmatch.fnmatchcase(name, pattern)


def check_patterns(patterns: Iterable[Pattern] | Pattern, field: str) -> list[Pattern]:
    """Patterns as a list, refused if one is not a glob or a class."""
    if isinstance(patterns, str | type):
        patterns = [patterns]
    out = list(patterns)
    for p in out:
        if not (isinstance(p, type) or (isinstance(p, str) and 0 < len(p) <= 500)):
            raise GraftError(
                f"{field}: {p!r} is not a glob (up to 500 characters) or a module class"
            )
    return out


def no_match(pattern: Pattern, names: Iterable[str], field: str) -> GraftError:
    """The error for a pattern that selects nothing, with the nearest names."""
    shown = pattern if isinstance(pattern, str) else pattern.__name__
    pool = sorted(set(names))
    near = difflib.get_close_matches(shown, pool, n=3, cutoff=0.5)
    if not near:
        # compare the last components: "layers.0.atn.qkv" is near "blocks.0.attn.qkv"
        tails = {n.rsplit(".", 1)[-1]: n for n in pool}
        tail = shown.rsplit(".", 1)[-1].replace("*", "")
        near = [tails[t] for t in difflib.get_close_matches(tail, tails, n=3, cutoff=0.5)]
    hint = (
        f"; near misses: {', '.join(near)}"
        if near
        else f"; the model has {', '.join(pool[:5])} ..."
    )
    return GraftError(f"{field}: pattern {shown!r} matches no layer{hint}")


def select(
    model: nn.Module,
    method: Method,
    patterns: Iterable[Pattern] | Pattern | None,
    outside: set[str],
) -> tuple[list[Site], dict[str, str]]:
    """Sites for a method, and what was left out with the reason.

    Args:
        patterns: globs, "type:Name" or classes; `None` takes the method's default sites.
        outside: names of modules that train whole; nothing inside them is a site.

    Raises:
        GraftError: a pattern that matches nothing, or a matched layer that the method refuses.
    """
    layers = {n: s for n, s in candidates(model).items() if not within(n, outside)}
    if patterns is None:
        return _default_sites(model, method, layers)
    modules = dict(own_modules(model))
    chosen: set[str] = set()
    found: dict[str, Site] = {}
    for pattern in check_patterns(patterns, "sites"):
        reasons: list[str] = []
        hits = 0
        for name in _matching(pattern, modules, layers, outside):
            site = _serve(method, name, modules, layers.get(name))
            if isinstance(site, Site):
                found[name] = site
                chosen.add(name)
                hits += 1
            elif site is not None:
                reasons.append(f"{name or 'the model'}: {site}")
        refused = [r for r in reasons if not r.endswith(_OTHER_KIND)]
        if refused:
            raise GraftError(f"{method.id} refuses {refused[0]}")
        if not hits and reasons:
            raise GraftError(
                f"sites: pattern {pattern!r} matches only layers of other kinds: {reasons[0]}"
            )
        if not hits:
            raise no_match(pattern, layers, "sites")
    order = list(dict.fromkeys([*modules, *layers]))
    return [found[n] for n in order if n in chosen], {}


def _matching(
    pattern: Pattern,
    modules: dict[str, nn.Module],
    layers: dict[str, Site | str],
    outside: set[str],
) -> Iterator[str]:
    for name, module in modules.items():
        if matches(pattern, name, module) and not within(name, outside):
            yield name
    if isinstance(pattern, str) and not pattern.startswith("type:"):
        for name in layers:  # packed parameters are sites without a module of their own
            if name not in modules and fnmatch.fnmatchcase(name, pattern):
                yield name


def within(name: str, outside: set[str]) -> bool:
    """Whether `name` is one of these modules or lies inside one."""
    return any(is_within(name, o) for o in outside)


def is_within(name: str, module: str) -> bool:
    """Whether `name` is this module or lies inside it."""
    return module == "" or name == module or name.startswith(module + ".")


_OTHER_KIND = "(another kind of layer)"


def _serve(
    method: Method, name: str, modules: dict[str, nn.Module], site: Site | str | None
) -> Site | str | None:
    """The site if the method serves it, the reason if not, `None` if it is no layer at all."""
    module = modules[site.module if isinstance(site, Site) else name]
    if method.changes == "module":
        return Site(name, name, None) if is_norm(module) else None
    if site is None:
        return _whole(method, name, module)
    if isinstance(site, str):
        return site
    assert site.geo is not None
    if site.geo.kind not in method.layer_kinds:
        return f"{site.geo.kind} is not served by {method.id} {_OTHER_KIND}"
    return method.refuses(site.geo, module._parameters.get(site.bias)) or site


def _whole(method: Method, name: str, module: nn.Module) -> Site | str | None:
    """A module that is no layer as a block or as attention, where the method serves such."""
    if "attention" in method.layer_kinds:
        geo = recognise_attention(module)
        if geo is None or isinstance(geo, str):
            return geo
    elif "block" in method.layer_kinds and name and any(True for _ in module.children()):
        geo = recognise_block(module)
        if isinstance(geo, str):
            return None
    else:
        return None
    return method.refuses(geo, None) or Site(name, name, geo)


def _default_sites(
    model: nn.Module, method: Method, layers: dict[str, Site | str]
) -> tuple[list[Site], dict[str, str]]:
    modules = dict(own_modules(model))
    if method.changes == "module":
        norms = [Site(n, n, None) for n, m in modules.items() if is_norm(m)]
        if not norms:
            raise GraftError(f"{method.id}: the model has no normalisation layer to train")
        return norms, {}
    left: dict[str, str] = {}
    blocks: list[Site] = []
    for name in modules:
        if any(fnmatch.fnmatchcase(name, g) for g in method.default_globs):
            block = _serve(method, name, modules, None)
            if isinstance(block, Site):
                blocks.append(block)
            elif block is not None:
                left[name] = block
    if blocks:
        # of blocks inside each other, such as the stages of a Swin and their blocks, the inner ones
        outer = {o.name for o in blocks for b in blocks if b is not o and is_within(b.name, o.name)}
        left |= dict.fromkeys(sorted(outer), "blocks inside it are sites themselves")
        return [b for b in blocks if b.name not in outer], left
    heads = _vocabulary_heads(model)
    chosen: list[Site] = []
    small: list[Site] = []
    for name, site in layers.items():
        served = _serve(method, name, modules, site)
        if not isinstance(served, Site):
            left[name] = served or "not a layer"
            continue
        assert served.geo is not None
        if served.geo.kind not in method.default_kinds:
            left[name] = f"{served.geo.kind} is not a default site of {method.id}"
        elif modules[served.module] in heads:
            left[name] = "the vocabulary head is not a default site"
        elif _larger_than_layer(method, served, modules[served.module]):
            small.append(served)
            left[name] = "the graft would be larger than the layer"
        else:
            chosen.append(served)
    if (
        not chosen and small
    ):  # a model of tiny layers only: then size is no reason to leave them out
        return small, {n: r for n, r in left.items() if n not in {s.name for s in small}}
    if not chosen:
        why = next((f"; {n or 'the model'}: {r}" for n, r in left.items()), "")
        raise GraftError(f"{method.id} finds no default site in {type(model).__name__}{why}")
    return chosen, left


def _larger_than_layer(method: Method, site: Site, module: nn.Module) -> bool:
    weight = module._parameters.get(site.weight)
    assert site.geo is not None
    if weight is None or site.geo.kind == "norm":
        return False
    rank = method.config().get("rank")
    if rank is None:
        return False
    size = weight.numel() + quantised.hidden_count(module)
    return sum(map(math.prod, site.geo.factor_shapes(int(rank)))) > size


def _vocabulary_heads(model: nn.Module) -> list[nn.Module]:
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    return [head] if isinstance(head, nn.Module) else []


def is_norm(module: nn.Module) -> bool:
    """A normalisation layer with something to train: affine tensors or running statistics."""
    name = plain_class(module).__name__.lower()
    tensors = [*module._parameters.values(), *module._buffers.values()]
    return (
        "norm" in name and any(t is not None for t in tensors) and not list(_own_children(module))
    )


def _own_children(module: nn.Module) -> Iterator[nn.Module]:
    """Children that hold tensors (an activation inside a fused norm does not count)."""
    for name, child in module.named_children():
        if name != CHILD and any(True for _ in child.parameters()):
            yield child
