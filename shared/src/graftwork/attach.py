"""How a site's class changes, and how adapter tensors hide from the base's `state_dict`.

A grafted layer becomes an instance of a generated, importable, cached subclass of its own class, so
isinstance, deepcopy, pickle, `torch.compile` and wrappers go on working; exact-type checks
(`type(m) is nn.Linear`) see the subclass. All that the graft keeps hangs on one hidden child,
`_graft`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.states import CopyState, Hidden, MethodState, SiteState, first_input, rebuilt

CHILD = "_graft"
CALL, ROWS = "", "new_rows"  # slots of a site: its own call, and rows appended to its output


class Mixed(Protocol):
    """What answers a site's call with a change for each row."""

    def run(self, layer: nn.Module, base: Any, args: Any, kwargs: Any) -> Any:
        """The site's output; `base` is the layer's own forward."""
        ...


class SiteGrafts(Hidden):
    """Everything that hangs on one site: states by graft name and slot, and what is switched on.

    Attributes:
        active: (graft name, weight) pairs in force, in order; empty means the base.
        on: whether any is. A compiler that looked at the names would compile anew for each of them.
        frozen_norm: the site keeps running statistics and stays in eval mode; `training` of this
            child is the mode that it would have without the graft.
        serves: dotted paths (from this module) of sites whose weights this module's forward reads.
        open: whether such an owner's forward is running, so that `.weight` is the effective weight.
        seen: names of active grafts that were reached, while a reach check listens.
        mix: answers the site's call in place of what is switched on, while several grafts act on a batch, each on its
            own rows (`graftwork.tenants`).
        few: answers the site's call with a few rows, or with `None`, while the model serves
            (`graftwork.fast.serving`); gone as soon as something else is switched on.
    """

    def __init__(self) -> None:
        super().__init__()
        # in a tuple, so that it is not registered as one more child
        self._sole: tuple[SiteState | None] = (None,)
        self.few: Callable[[Any], Tensor | None] | None = None
        self.mix: Mixed | None = None
        self.active = ()
        self.frozen_norm = False
        self.serves: tuple[str, ...] = ()
        self.open = False
        self.seen: set[tuple[str, str]] | None = None
        self._read: dict[str, Tensor | None] = {}

    @property
    def active(self) -> tuple[tuple[str, float], ...]:
        return self._active

    @active.setter
    def active(self, pairs: tuple[tuple[str, float], ...]) -> None:
        self._active, self.on = pairs, bool(pairs)
        self._find_sole()

    def add(self, name: str, slot: str, state: SiteState) -> None:
        self.add_module(f"{name}:{slot}" if slot else name, state)
        self._find_sole()

    def drop(self, name: str) -> None:
        for key in [k for k in self._modules if k.split(":")[0] == name]:
            del self._modules[key]
        self.active = tuple(a for a in self.active if a[0] != name)

    def state(self, name: str, slot: str = CALL) -> SiteState | None:
        found = self._modules.get(f"{name}:{slot}" if slot else name)
        assert found is None or isinstance(found, SiteState)
        return found

    def sole(self) -> SiteState | None:
        """The one state that acts on this site's call, in full, or `None`."""
        return self._sole[0]

    def _find_sole(self) -> None:
        (name, weight), *others = self.active or (("", 0.0),)
        alone = not others and weight == 1.0 and self.state(name, ROWS) is None
        self._sole = (self.state(name) if alone else None,)
        self.few = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "few": None, "mix": None}

    def slots(self, name: str) -> dict[str, SiteState]:
        """This graft's states here, by slot."""
        out: dict[str, SiteState] = {}
        for key, state in self._modules.items():
            graft, _, slot = key.partition(":")
            if graft == name and isinstance(state, SiteState):
                out[slot] = state
        return out

    @property
    def idle(self) -> bool:
        """Nothing is left that needs the generated class."""
        used = self._modules or self.frozen_norm or self.serves or self.mix is not None
        return not used

    def run(self, layer: nn.Module, base: Any, args: Any, kwargs: Any) -> Any:
        """The site's call under the active grafts."""
        if self.seen is None:
            sole = self.sole()
            if sole is not None:
                sole.check(layer)
                return sole.call(layer, base, args, kwargs)
        call = base
        for name, weight in self.active:
            state = self.state(name)
            if state is not None:
                state.check(layer)
                self._mark(name, CALL)
                if weight == 1.0 and len(self.active) == 1:
                    call = functools.partial(_one, state, layer, base)
                else:
                    call = functools.partial(_summed, self, layer, base)
                    for other, _ in self.active:
                        self._mark(other, CALL)
                break
        for name, _ in self.active:
            extra = self.state(name, ROWS)
            if extra is not None:
                extra.check(layer)
                self._mark(name, ROWS)
                return extra.call(layer, call, args, kwargs)
        return call(*args, **kwargs)

    def effective(self, layer: nn.Module, name: str) -> Tensor | None:
        """The parameter `name` with the active grafts' changes, for an owner that reads it."""
        if name in self._read:
            return self._read[name]
        value: Tensor | None = layer._parameters[name]
        for graft, weight in self.active:
            for slot, state in self.slots(graft).items():
                if isinstance(state, CopyState):
                    self._mark(graft, slot)
                    value = state.module._parameters[name]
                elif isinstance(state, MethodState) and name in (
                    state.weight_name,
                    state.bias_name,
                ):
                    self._mark(graft, slot)
                    d = state.delta(layer)
                    change = d.weight if name == state.weight_name else d.bias
                    if change is not None:
                        change = change if weight == 1.0 else weight * change
                        dtype = state.base(layer)[0].dtype
                        value = (change if value is None else value.to(change.dtype) + change).to(
                            dtype
                        )
        self._read[name] = value
        return value

    def _mark(self, name: str, slot: str) -> None:
        if self.seen is not None:
            self.seen.add((name, slot))


def _one(state: SiteState, layer: nn.Module, base: Any, *args: Any, **kwargs: Any) -> Any:
    return state.call(layer, base, args, kwargs)


def _summed(grafts: SiteGrafts, layer: nn.Module, base: Any, *args: Any, **kwargs: Any) -> Any:
    parts: list[tuple[MethodState, float]] = []
    for name, weight in grafts.active:
        state = grafts.state(name)
        if isinstance(state, MethodState):
            parts.append((state, weight))
        elif state is not None:
            raise GraftError(f"graft {name!r} owns this module; no other can act on it")
    over = [state.over(layer, args, kwargs) for state, _ in parts]
    out = base(*args, **kwargs)
    y = total = parts[0][0].hidden(layer, out)
    for (state, weight), later in zip(parts, over, strict=True):
        total = total + weight * state.change(layer, first_input(args, kwargs), y, later)
    return rebuilt(out, total.to(y.dtype))


class GraftedSite(nn.Module):
    """Mixin of every generated class: routes the call, keeps frozen norms in eval mode."""

    _base_class: type[nn.Module]
    _gated: tuple[str, ...]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        grafts: SiteGrafts = self._modules[CHILD]  # type: ignore[assignment]
        if not torch.compiler.is_compiling() and grafts.few is not None and grafts.seen is None:
            y = grafts.few(args[0]) if len(args) == 1 and not kwargs else None
            if y is not None:
                return y
        base = super().forward
        if grafts.serves:
            base = functools.partial(_serve, self, grafts, base)
        if not grafts.on and grafts.mix is None:
            return base(*args, **kwargs)
        run = grafts.run if grafts.mix is None else grafts.mix.run
        if grafts.open:
            # called by an owner that also reads weights: the branch is added once, here
            grafts.open = False
            try:
                return run(self, base, args, kwargs)
            finally:
                grafts.open = True
        return run(self, base, args, kwargs)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if self._modules[CHILD].frozen_norm:  # type: ignore[union-attr]
            self.training = False
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _blank, (self._base_class, self._gated), self.__getstate__()  # type: ignore[no-untyped-call]


class GraftedContainer(GraftedSite):
    """A grafted `nn.Sequential` or `nn.ModuleList` runs, counts and indexes its own children."""

    def own_children(self) -> dict[str, nn.Module]:
        """The children by name, without the graft's."""
        return {n: m for n, m in self._modules.items() if n != CHILD and m is not None}

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.own_children().values()))

    def __len__(self) -> int:
        return len(self.own_children())

    def __getitem__(self, index: Any) -> Any:
        plain = nn.Sequential() if isinstance(self, nn.Sequential) else nn.ModuleList()
        plain._modules.update(self.own_children())
        return plain[index]


class GraftedDict(GraftedContainer):
    """The same for `nn.ModuleDict`."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.own_children())

    def __getitem__(self, index: Any) -> Any:
        return self.own_children()[index]

    def keys(self) -> Any:
        return self.own_children().keys()

    def values(self) -> Any:
        return self.own_children().values()

    def items(self) -> Any:
        return self.own_children().items()


def _mixin(base: type[nn.Module]) -> type[GraftedSite]:
    if issubclass(base, nn.ModuleDict):
        return GraftedDict
    return GraftedContainer if issubclass(base, nn.Sequential | nn.ModuleList) else GraftedSite


def _serve(owner: nn.Module, grafts: SiteGrafts, base: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a fused owner's forward while the sites it reads show their effective weights."""
    sites = [grafts_of(owner.get_submodule(path)) for path in grafts.serves]
    opened = [s for s in sites if s is not None and not s.open and s.active]
    try:
        for s in opened:
            s._read = {}
            s.open = True
        return base(*args, **kwargs)
    finally:
        for s in opened:
            s.open = False
            s._read = {}


def _reader(name: str) -> property:
    def read(self: nn.Module) -> Tensor | None:
        grafts = self._modules.get(CHILD)
        if isinstance(grafts, SiteGrafts) and grafts.open:
            return grafts.effective(self, name)
        return self._parameters[name]

    return property(read)


_CLASSES: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


def site_class(base: type[nn.Module], gated: tuple[str, ...]) -> type[nn.Module]:
    """The generated subclass of `base`; `gated` parameters show effective to fused owners."""
    made = _CLASSES.get((base, gated))
    if made is not None:
        return made
    body: dict[str, Any] = {name: _reader(name) for name in gated}
    body |= {"_base_class": base, "_gated": gated, "__module__": __name__, "__doc__": base.__doc__}
    made = type(f"Grafted{base.__name__}", (_mixin(base), base), body)
    _CLASSES[base, gated] = made
    return made


def _blank(base: type[nn.Module], gated: tuple[str, ...]) -> nn.Module:
    cls = site_class(base, gated)
    made: nn.Module = cls.__new__(cls)
    return made


def grafts_of(module: nn.Module) -> SiteGrafts | None:
    """What hangs on this module, or `None`."""
    found = module._modules.get(CHILD)
    return found if isinstance(found, SiteGrafts) else None


def ensure(module: nn.Module, gated: tuple[str, ...] = ()) -> SiteGrafts:
    """Give the module its generated class and hidden child, once."""
    grafts = grafts_of(module)
    if grafts is None:
        grafts = SiteGrafts()
        grafts.training = module.training
        module.add_module(CHILD, grafts)
    base = getattr(type(module), "_base_class", type(module))
    had: tuple[str, ...] = getattr(type(module), "_gated", ())
    module.__class__ = site_class(base, tuple(sorted({*had, *gated})))
    return grafts


def release(module: nn.Module) -> None:
    """Give the module its own class back when nothing hangs on it any more."""
    grafts = grafts_of(module)
    if grafts is not None and grafts.idle:
        del module._modules[CHILD]
        module.__class__ = module._base_class  # type: ignore[assignment]
