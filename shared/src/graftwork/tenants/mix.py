"""Several grafts active in one pass, each on its own rows of the batch.

    with gw.tenants.mixed(model, Segments(("a", "b"), (4, 2))):
        y = model(x)                      # rows 0 to 3 under graft "a", 4 and 5 under "b"

The frozen layers run once for all rows. At a linear layer the tasks whose change is a pair of low-rank factors share
two batched products (`grouped`). A method's change of any other kind is computed from its own rows of the layer's
input and output, which is exact for all of them, at the price of a few operations for each task. A module that a task
replaces (`also_train`, norms) or whose attention it changes runs once for each such task, on its rows; so does a module
that reads the weights of grafted layers without calling them. All of it is exact where the model keeps rows apart;
`checks` refuses what is known not to.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.algebra.linear import Embedding
from graftwork.attach import SiteGrafts, grafts_of
from graftwork.errors import GraftError
from graftwork.fast.siblings import plain
from graftwork.handle import get
from graftwork.ledger import Entry, ledger_of, root_of
from graftwork.states import MethodState, RowsState, SiteState, first_input, rebuilt
from graftwork.tenants import rows
from graftwork.tenants.grouped import Token, grouped_linear
from graftwork.tenants.recipe import Recipe, Site
from graftwork.tenants.segments import Segments
from graftwork.tenants.streams import Stream, checkpointed
from graftwork.tenants.tiles import Tiles

#: batches' layouts that are kept
KEPT = 256
#: bytes that a GPU's kernels read at a time, at most
ALIGNED = 32


class Pass:
    """What holds while a batch, or some of its rows, runs."""

    def __init__(self, mix: Mix, segments: Segments, tiles: dict[Any, Tiles]) -> None:
        self.mix, self.segments, self.tiles = mix, segments, tiles
        self._recipe: Recipe | None = None
        self._token: Token | None = None

    @property
    def recipe(self) -> Recipe:
        """What the sites do for these tasks, looked up at the first call of one."""
        if self._recipe is None:
            self._recipe = self.mix.recipe(self.segments.tasks)
        return self._recipe

    @property
    def token(self) -> Token:
        """Of the factors' copies, which the first layer that needs them has made."""
        if self._token is None:
            self._token = self.recipe.stacks.fill()
        return self._token


class Mix:
    """The grafts of a model, switched on row by row.

    Args:
        model: the grafted model.
        streams: by task, where its random numbers come from; a task without one draws from torch's generators.

    Raises:
        GraftError: the model carries no graft.
    """

    def __init__(self, model: nn.Module, streams: Mapping[str, Stream] | None = None) -> None:
        self.model = root_of(model) or model
        self.streams = streams if streams is not None else {}
        self._entries: list[Entry] = []
        self._sites: list[tuple[nn.Module, SiteGrafts]] = []
        self._recipes: dict[tuple[str, ...], Recipe] = {}
        self._tiles: dict[Segments, dict[Any, Tiles]] = {}
        self._anchors: dict[torch.device, Tensor] = {}
        self._now: Pass | None = None
        #: by task, what its methods add to the loss, while somebody collects it
        self.left: dict[str, list[Tensor]] | None = None

    @contextlib.contextmanager
    def on(self, segments: Segments) -> Iterator[Mix]:
        """Inside the block each row runs under its task's graft alone, whatever is switched on outside.

        Run the backward pass inside the block too where the model recomputes activations.

        Args:
            segments: of every batch that is passed in the block.

        Raises:
            GraftError: an unknown name, a merge in force, another such block around this one.
        """
        ledger = ledger_of(self.model)
        if ledger.merged is not None:
            raise GraftError(
                f"tenants: graft {ledger.merged.names} is merged; call unmerge() first"
            )
        for name in segments.tasks:
            get(self.model, name)
        self._refresh(list(ledger.entries.values()))
        if any(grafts.mix is not None for _, grafts in self._sites):
            raise GraftError(
                "tenants: the model is inside another such block; leave that one first"
            )
        before = [(grafts, grafts.active) for _, grafts in self._sites if grafts.on]
        try:
            for _, grafts in self._sites:
                grafts.__dict__["mix"] = (
                    self  # what nn.Module makes of an assignment costs more than all else here
                )
            for grafts, _ in before:
                grafts.active = ()
            with self.within(segments):
                assert self._now is not None
                _ = self._now.recipe  # refuses what it must before anything runs
                yield self
        finally:
            for _, grafts in self._sites:
                grafts.__dict__["mix"] = None
            for grafts, active in before:
                grafts.active = active

    def _refresh(self, entries: list[Entry]) -> None:
        same = len(entries) == len(self._entries)
        if same and all(a is b for a, b in zip(entries, self._entries, strict=True)):
            return
        self._entries, self._recipes = entries, {}
        self._sites = [(m, g) for m in self.model.modules() if (g := grafts_of(m)) is not None]

    def recipe(self, tasks: tuple[str, ...]) -> Recipe:
        """What the sites do for these tasks."""
        found = self._recipes.get(tasks)
        if found is None or not found.holds():
            if len(self._recipes) >= KEPT:
                self._recipes.clear()
            found = self._recipes[tasks] = Recipe(self._sites, tasks)
        return found

    def held(self) -> Any:
        """Keeps the memory of all copies of factors as it is now, whatever later passes take in its place."""
        return [recipe.stacks.held() for recipe in self._recipes.values()]

    @contextlib.contextmanager
    def within(self, segments: Segments) -> Iterator[None]:
        """Inside `on`: let other segments say whose the rows are, for calls with some of the rows."""
        if segments not in self._tiles and len(self._tiles) >= KEPT:
            self._tiles.clear()
        tiles = self._tiles.setdefault(segments, {})
        before, self._now = self._now, Pass(self, segments, tiles)
        try:
            yield
        finally:
            self._now = before

    def run(self, layer: nn.Module, base: Any, args: Any, kwargs: Any) -> Any:
        """A site's call."""
        assert self._now is not None
        segments, recipe = self._now.segments, self._now.recipe
        site = recipe.sites.get(id(layer._modules["_graft"]))
        if site is None:
            return base(*args, **kwargs)
        singles = site.singles(segments.tasks)
        if not singles:
            return self._together(site, layer, base, args, kwargs)
        if len(segments.runs) == 1:
            return self._alone(site, singles[0], layer, base, args, kwargs)
        return self._by_task(singles, layer, base, args, kwargs)

    def _by_task(
        self, singles: list[str], layer: nn.Module, base: Any, args: Any, kwargs: Any
    ) -> Any:
        """One call for each of these tasks and one for all other rows."""
        assert self._now is not None
        segments = self._now.segments
        count = first_input(args, kwargs).shape[0]
        if count % segments.rows:
            raise GraftError(
                f"tenants: {type(layer).__mro__[2].__name__} must run once for each of {singles}, and their rows are "
                "not entries of its input's first axis; do not pack these tasks into one sequence"
            )
        each = segments.vectors(count)
        chosen = [(segments.alone(n), segments.runs_of(n)) for n in singles]
        rest = rows.others(segments, singles)
        if rest:
            sizes = tuple(r.stop - r.start for r in rest)
            chosen.append((Segments(tuple(r.name for r in rest), sizes), rest))
        outs, places = [], []
        for own, runs in chosen:
            spots = rows.spans(runs, each)
            some, named = rows.arguments(args, kwargs, count, spots)
            with self.within(own):
                outs.append(self.run(layer, base, some, named))
            places.append(spots)
        return rows.join(outs, places)

    def _alone(
        self, site: Site, name: str, layer: nn.Module, base: Any, args: Any, kwargs: Any
    ) -> Any:
        """The call of a module that sees this task's rows and no other's."""
        state = site.replaced.get(name)
        read = site.served if name in site.reading else []
        try:
            for grafts in read:
                grafts.active = ((name, 1.0),) if grafts.slots(name) else ()
            if state is None:
                return self._together(site, layer, base, args, kwargs)
            state.check(layer)
            if isinstance(state, RowsState):  # behind the layer's own outputs, with their change
                base = functools.partial(self._changed, site, layer, base)
            with self._own(name, state):
                return state.call(layer, base, args, kwargs)
        finally:
            for grafts in read:
                grafts.active = ()

    def _changed(self, site: Site, layer: nn.Module, base: Any, *args: Any, **kwargs: Any) -> Any:
        return self._together(site, layer, base, args, kwargs)

    def _together(self, site: Site, layer: nn.Module, base: Any, args: Any, kwargs: Any) -> Any:
        """One call of the frozen layer for all rows, and every task's change on its own."""
        branches = site.branches
        out = self._grouped(site, layer, args, kwargs)
        over: dict[str, bool] = {}
        if out is None:
            branches = {**site.grouped, **branches}
            over = {n: s.over(layer, args, kwargs) for n, s in branches.items()}
            out = base(*args, **kwargs)
        if not branches:
            return out
        return self._branches(branches, over, layer, first_input(args, kwargs), out)

    def _grouped(self, site: Site, layer: nn.Module, args: Any, kwargs: Any) -> Tensor | None:
        """The layer's output with all changes by factors, or `None` where they must be branches."""
        c = site.bundle
        if c is None or kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
            return None
        x, now = args[0], self._now
        assert now is not None
        if x.dtype is not c.dtype or x.device != c.members[0].a.device or not plain(x):
            return None
        if x.shape[-1] != c.shapes[0][2] or x.numel() == 0:
            return None
        count = x.numel() // x.shape[-1]
        key = (count, c.names, x.device)
        tiles = now.tiles.get(key)
        if tiles is None:
            tiles = Tiles(*now.segments.spread(count), c.names).to(x.device)
            now.tiles[key] = tiles
        token = now.token  # before the stacks are looked at
        dropped = self._dropped(site, x) if any(m.dropout for m in c.members) else None
        return grouped_linear(x, dropped, c, tiles, self._anchor(x.device), token)

    def _dropped(self, site: Site, x: Tensor) -> Tensor:
        """The input's vectors, with every task's own dropout on its own."""
        assert self._now is not None and site.bundle is not None
        flat = x.reshape(-1, x.shape[-1])
        runs, each = self._now.segments.spread(flat.shape[0])
        parts, places = [], []
        chosen = {m.name: m.dropout for m in site.bundle.members if m.dropout}
        for name, p in chosen.items():
            spots = rows.spans([r for r in runs if r.name == name], each)
            mine = _aligned(rows.part(flat, spots))
            with self._own(name, site.grouped[name]):
                parts.append(F.dropout(mine, p))
            places.append(spots)
        for run in (r for r in runs if r.name not in chosen):
            spots = rows.spans([run], each)
            parts.append(rows.part(flat, spots))
            places.append(spots)
        return rows.ordered(parts, places)

    def _anchor(self, device: torch.device) -> Tensor:
        found = self._anchors.get(device)
        if found is None:
            found = self._anchors[device] = torch.zeros((), device=device, requires_grad=True)
        return found

    def _branches(
        self,
        states: Mapping[str, MethodState],
        over: Mapping[str, bool],
        layer: nn.Module,
        x: Tensor,
        out: Any,
    ) -> Any:
        assert self._now is not None
        segments = self._now.segments
        first = next(iter(states.values()))
        whole = first.hidden(layer, out)
        y = whole
        if len(segments.runs) > 1 and (y.shape[0] % segments.rows or x.shape[0] != y.shape[0]):
            x, y = _flat(states, x, y)
        runs, each = segments.spread(y.shape[0])
        parts, places = [], []
        for name, state in states.items():
            state.check(layer)
            spots = rows.spans([r for r in runs if r.name == name], each)
            mine, own = _aligned(rows.part(x, spots)), rows.part(y, spots)
            with self._own(name, state):
                change = state.change(layer, mine, own, over.get(name, False))
            parts.append((own + change).to(y.dtype))
            places.append(spots)
        for run in (r for r in runs if r.name not in states):
            spots = rows.spans([run], each)
            parts.append(rows.part(y, spots))
            places.append(spots)
        return rebuilt(out, rows.ordered(parts, places).view(whole.shape))

    @contextlib.contextmanager
    def _own(self, name: str, state: SiteState) -> Iterator[None]:
        """The task's own random numbers, where its state may draw any, and its own part of the loss."""
        stream = self.streams.get(name)
        quiet = isinstance(state, MethodState) and getattr(state.method, "dropout", None) == 0
        drawn: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if stream is not None and state.training and not quiet:
            drawn = stream.on(next(state.parameters()).device)
        collects = self.left is not None and isinstance(state, MethodState)
        if collects:
            state.__dict__["left"] = self.left.setdefault(name, [])  # type: ignore[union-attr]
        try:
            with drawn:
                yield
        finally:
            if collects:
                state.__dict__["left"] = None
        if stream is not None and checkpointed() and stream.drew():
            raise GraftError(
                f"tenants: task {name!r} draws random numbers inside a checkpointed module, and a recomputation would "
                "draw others; set its dropout to 0 or switch checkpointing off"
            )


def _aligned(t: Tensor) -> Tensor:
    """The tensor where a GPU's random kernels, which go by the address, draw for it what they draw for a fresh one."""
    return t.clone() if t.is_cuda and t.data_ptr() % ALIGNED else t


def _flat(states: Mapping[str, MethodState], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output with one vector in each row, for batches whose rows are tokens."""
    for name, state in states.items():
        if state.geo.kernel or state.method.positional:
            raise GraftError(
                f"tenants: {state.method.id} of {name!r} looks at more than one token at a time, so its rows cannot be "
                "tokens of a packed sequence; give this task rows of its own"
            )
    embedding = isinstance(next(iter(states.values())).geo, Embedding)
    return (x.flatten() if embedding else x.flatten(0, -2)), y.flatten(0, -2)


@contextlib.contextmanager
def mixed(
    model: nn.Module, segments: Segments, streams: Mapping[str, Stream] | None = None
) -> Iterator[Mix]:
    """Run several grafts of a model in one pass, each on its own rows; see `Mix.on`.

    A `Mix` that is kept finds out what each layer does once, not at every block.

    Raises:
        GraftError: a model that does not keep rows apart (by module name), an unknown name, a merge in force.
    """
    from graftwork.tenants.checks import check_rows_apart

    check_rows_apart(model, strict=False)
    with Mix(model, streams).on(segments) as mix:
        yield mix
