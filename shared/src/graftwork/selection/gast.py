"""GAST: gradient-aligned sparse tuning with data-layer selection (Yao et al. 2026, arXiv 2603.09865).

    a_i^l = <g_i^l, g_sup^l>,   a~ = (a - mean a) / std a,   p^l = softmax(a~ / temperature)      (paper, section 3)
    S^l: K of the B samples from p^l, without replacement;   g^l = (1/K) sum_{i in S^l} g_i^l

g_i^l is sample i's gradient of the graft's tensors in layer l, g_sup^l that of a support batch. Each layer trains
on its own part of the batch; loss, optimizer and method stay.

    gast = gw.GAST(g, keep=8)
    gast.support(task(model(x_support), y_support))
    with gast.batch(len(x), step):
        task(model(x), y).backward()
    optimizer.step()

The loss must be a sum or mean over samples of terms that see one sample each; g_i is the gradient of B times
sample i's term, so that the mean of the g_i is the gradient of the loss. No per-sample gradient is stored: each
layer keeps its input x and output gradient d until the last of its own d has come, then scores, draws, forms g^l
and lets go (`graftwork.selection.ghost`). Under dropout in the branch x is what the dropout left of the input. What
trains beside the adapter keeps its ordinary gradient.

Shapes: x and d `(B, ...)`, scores `(B,)`. With `folded` a layer may see B k rows, k for each sample in the
samples' order (windows).

Departures (the text leaves these open): scores that are equal to rounding give a uniform draw, so there is no
epsilon in the standardisation; layer means decoder block, the name up to its first number, or one module, or what
a function of the name says. Everything is computed in float32 or wider. Under gradient accumulation each
micro-batch is scored and drawn on its own. With `processes` each process scores and draws from its own samples, against
the support gradient of all; g^l is the mean of theirs. `rule` has the paper's two controls. No public code was found.
Refuses: methods that declare no low-rank factors in training (nor, with dropout, `dropped_factors`, which LoRA does);
bare parameters and weights that their owner reads without calling the layer; embeddings with
scale_grad_by_freq; layers with new rows; a graft that is off, merged or weighted; K above B; NaN or infinite
scores; rows that are not B; a second backward of one batch.

Invariants:
1. K = B: g^l is the ordinary gradient, whatever the scores.
2. A score is the inner product with the explicit per-sample gradient, g^l the explicit mean.
3. sum_i a_i = B <mean gradient, g_sup>; with the batch as support their mean is its squared norm.
4. K distinct samples per layer; equal scores give each the rate K/B, a higher score a higher rate; a shift or
   positive factor of all scores changes nothing.
5. The gradient at the network's input is the same as without.
6. Layers draw independently.
7. Equal scores: uniform; a NaN score, K > B, an empty support: errors; B = 1 passes through.
8. Same seed and step, same subsets; no generator but its own moves.
9. Nothing is added to the model: no parameter, no hook outside `batch`, the same output.
10. Padding tokens that the loss leaves out change no score.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.attach import CALL, ROWS
from graftwork.errors import GraftError, NotFiniteError
from graftwork.fused import owners
from graftwork.handle import Graft, active
from graftwork.selection import ghost, several
from graftwork.selection.draws import RULES, choose
from graftwork.states import MethodState, first_input


@dataclass(frozen=True)
class Choice:
    """One layer's draw: `scores` `(B,)` and the `picked` samples `(K,)`."""

    scores: Tensor
    picked: Tensor

    @property
    def negative(self) -> float:
        """The share of picked samples whose gradient points against the support's."""
        return float((self.scores[self.picked.to(self.scores.device)] < 0).float().mean())


@dataclass
class _Site:
    name: str
    module: nn.Module
    state: MethodState
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    masked: Tensor | None = None  # the input of the call that runs, behind the branch's dropout
    early: bool = False  # called in the forward, so that a call in the backward is a recomputation

    def take(self, x: Tensor) -> None:
        """Keep the input of the call that runs, behind its dropout."""
        self.masked = x.detach()


@dataclass
class _Layer:
    sites: list[_Site] = field(default_factory=list)
    waiting: int = 0
    late: bool = False  # has calls made in the backward only: nobody knows which is the last
    done: bool = False


class GAST:
    """Data-layer selection for one graft.

    Args:
        graft: of any method that declares low-rank factors; switched on with weight 1.
        keep: K, samples that train each layer.
        layers: what counts as a layer: "block", "module", or site name -> layer name.
        temperature: of the softmax; above 0.
        rule: "softmax"; "uniform" and "top" are the paper's controls.
        seed: of the draws.
        folded: a layer may see several rows of each sample on its first axis.
        processes: g_sup and g^l are means over the processes of torch.distributed, all of which must take every step;
            each has samples and draws of its own.

    Attributes:
        chosen: the last batch's draws by layer, of this process.

    Raises:
        GraftError: see the module's list of refusals.
    """

    def __init__(
        self,
        graft: Graft,
        keep: int,
        *,
        layers: str | Callable[[str], str] = "block",
        temperature: float = 1.0,
        rule: str = "softmax",
        seed: int = 0,
        folded: bool = False,
        processes: bool = False,
    ) -> None:
        if type(keep) is not int or keep < 1:
            raise GraftError(f"GAST.keep must be a whole number of at least 1, not {keep!r}")
        if not temperature > 0 or temperature == float("inf"):
            raise GraftError(f"GAST.temperature must be finite and above 0, not {temperature!r}")
        if rule not in RULES:
            raise GraftError(f"GAST.rule must be one of {list(RULES)}, not {rule!r}")
        if not callable(layers) and layers not in ("block", "module"):
            raise GraftError(
                f'GAST.layers must be "block", "module" or a function of the site\'s name, not {layers!r}'
            )
        self.graft, self.keep, self.rule, self.seed = graft, keep, rule, seed
        self.temperature, self.folded, self.processes = temperature, folded, processes
        rank = several.rank() if processes else 0
        self._draws: tuple[int, ...] = (seed, rank) if rank else (seed,)
        self.chosen: dict[str, Choice] = {}
        self._layers: dict[str, _Layer] = {}
        name_of = layers if callable(layers) else block_of if layers == "block" else str
        for site in _sites(graft):
            self._layers.setdefault(name_of(site.name), _Layer()).sites.append(site)
        self._support: dict[int, Tensor] | None = None
        self._size, self._step = 0, 0
        self._hooks: list[Any] = []
        self._before: dict[int, Tensor | None] | None = None
        self._found: dict[int, Tensor] = {}

    @property
    def layers(self) -> dict[str, tuple[str, ...]]:
        """Names of each layer's sites."""
        return {n: tuple(s.name for s in layer.sites) for n, layer in self._layers.items()}

    def support(self, loss: Tensor) -> None:
        """Take g_sup, the gradient of a support batch's loss; it holds until the next call. No `.grad` moves.

        Raises:
            GraftError: the loss does not depend on the graft; a `NotFiniteError` where it is not finite (an empty
                batch's mean, or a training that diverged).
        """
        params = list(self._parameters())
        if not loss.requires_grad:
            raise GraftError("GAST.support: the loss has no gradient")
        if not bool(torch.isfinite(loss.detach()).all()):
            raise NotFiniteError(
                "GAST.support: the loss is not finite; is the support batch empty?"
            )
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        if all(g is None for g in grads):
            raise GraftError("GAST.support: the loss does not depend on the graft")
        shared = several.means(params, grads) if self.processes else grads
        self._support = {
            id(p): torch.zeros_like(p) if g is None else g.detach()
            for p, g in zip(params, shared, strict=True)
        }

    @contextlib.contextmanager
    def batch(self, size: int, step: int = 0) -> Iterator[GAST]:
        """One forward and backward of a batch; leaves g^l in the tensors' `.grad`, added to what stood there.

        Args:
            size: B.
            step: a number that no other batch of the run has; with `seed` it is the key of the draws.

        Raises:
            GraftError: see the module's list of refusals.
        """
        self.begin(size, step)
        try:
            self.mark()
            yield self
            self.finish()
        finally:
            self.release()

    # -- for a training loop that does the backward itself ------------------------------------------

    def begin(self, size: int, step: int) -> None:
        """Listen, from before the forward on."""
        if self._hooks:
            raise GraftError("GAST: inside another batch; leave that one first")
        if self._support is None:
            raise GraftError("GAST: no support gradient; call support(loss) first")
        if self.keep > size:
            raise GraftError(
                f"GAST.keep: {self.keep} samples of a batch of {size}; keep fewer, or drop the last, smaller "
                "batch of an epoch (drop_last=True)"
            )
        weight = active(self.graft.model).get(self.graft.name)
        if weight != 1.0 or self.graft.merged:
            what = "merged" if self.graft.merged else "off" if weight is None else f"on by {weight}"
            raise GraftError(
                f"GAST: graft {self.graft.name!r} is {what}; switch it on with weight 1"
            )
        self._size, self._step, self.chosen = size, step, {}
        for name, layer in self._layers.items():
            layer.waiting, layer.late, layer.done = 0, False, False
            for site in layer.sites:
                site.calls, site.early, site.masked = [], False, None
                site.state.saw = site.take
                hook = self._listener(name, layer, site)
                self._hooks.append(site.module.register_forward_hook(hook, with_kwargs=True))

    def mark(self) -> None:
        """Set aside the gradients that stand there, right before the backward."""
        self._before = {id(p): p.grad for p in self._parameters()}
        for p in self._parameters():
            p.grad = None

    def finish(self) -> dict[str, Choice]:
        """Put g^l in place, after the backward."""
        assert self._before is not None, "mark() comes before the backward"
        for name, layer in self._layers.items():
            if not layer.done and any(site.calls for site in layer.sites):
                self._settle(name, layer)
        params = list(self._parameters())
        found = [self._found.get(id(p)) for p in params]
        if any(g is None and p.grad is not None for p, g in zip(params, found, strict=True)):
            raise GraftError("GAST: a gradient came by another way than the layers' own calls")
        if self.processes:
            found = several.means(params, found)
        for p, new in zip(params, found, strict=True):
            old = self._before[id(p)]
            p.grad = old if new is None else new if old is None else old + new
        self._before = None
        self.release()
        return self.chosen

    def release(self) -> None:
        """Stop listening; after an error the gradients are as they were before the batch."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._found = [], {}
        for layer in self._layers.values():
            for site in layer.sites:
                site.calls, site.masked, site.state.saw = [], None, None
        if self._before is not None:
            for p in self._parameters():
                p.grad = self._before[id(p)]
            self._before = None

    # -- inside ---------------------------------------------------------------------------------------

    def _parameters(self) -> Iterator[nn.Parameter]:
        for layer in self._layers.values():
            for site in layer.sites:
                yield from (p for p in site.state.parameters() if p.requires_grad)

    def _listener(self, name: str, layer: _Layer, site: _Site) -> Callable[..., None]:
        def seen(module: nn.Module, args: Any, kwargs: Any, y: Any) -> None:
            masked, site.masked = site.masked, None
            if not isinstance(y, Tensor) or not y.requires_grad:
                return
            late = torch._C._current_graph_task_id() != -1
            if late and site.early:
                return  # checkpointing runs the forward again; the first one gets the gradient
            x = first_input(args, kwargs).detach() if masked is None else masked
            rows = x.shape[0] if x.dim() else 1
            if rows != self._size and not (self.folded and rows % self._size == 0):
                raise GraftError(
                    f"GAST: {site.name} was called with {rows} rows for a batch of {self._size} samples"
                )
            site.early, layer.late = site.early or not late, layer.late or late
            layer.waiting += 1

            def arrived(d: Tensor) -> None:
                if layer.done:
                    raise GraftError(
                        f"GAST: {site.name} got a gradient after its layer had chosen; a batch is one forward and "
                        "one backward"
                    )
                site.calls.append((x, d.detach()))
                layer.waiting -= 1
                if layer.waiting == 0 and not layer.late:
                    self._settle(name, layer)

            y.register_hook(arrived)

        return seen

    def _settle(self, name: str, layer: _Layer) -> None:
        """Score, draw, form g^l, let go of x and d."""
        assert self._support is not None
        layer.done, size, total = True, self._size, torch.zeros(())
        for site in layer.sites:
            v = {n: self._support[id(p)] for n, p in ghost.trained(site.state).items()}
            for x, d in site.calls:
                part = ghost.inner_products(site.state, site.module, x, d, v, size)
                total = part if total.dim() == 0 else total + part.to(total.device)
        scores = size * total
        if not bool(torch.isfinite(scores).all()):
            bad = int(torch.nonzero(~torch.isfinite(scores))[0])
            raise NotFiniteError(f"GAST: the score of sample {bad} at layer {name!r} is not finite")
        key: tuple[int | str, ...] = (*self._draws, self._step, name)
        picked = choose(scores, self.keep, self.rule, self.temperature, *key)
        self.chosen[name] = Choice(scores, picked)
        for site in layer.sites:
            own = ghost.trained(site.state)
            for x, d in site.calls:
                for n, g in ghost.summed(site.state, site.module, x, d, picked, size).items():
                    g = g * (size / self.keep)
                    old = self._found.get(id(own[n]))
                    self._found[id(own[n])] = g if old is None else old + g
            site.calls = []


def block_of(name: str) -> str:
    """A site's name up to its first number, `model.layers.3` of `model.layers.3.mlp.up`; all of it without one."""
    parts = name.split(".")
    end = next((i + 1 for i, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[:end])


def _sites(graft: Graft) -> Iterator[_Site]:
    for site, method in graft.entry.sites:
        where = site.name or "the layer"
        if site.raw:
            raise GraftError(f"GAST: {where} is a bare parameter, whose input no call shows")
        state = graft.site(site.module).state(graft.name, CALL)
        module = graft.model.get_submodule(site.module)
        if not isinstance(state, MethodState) or site.geo is None:
            raise GraftError(f"GAST: {where} is a copied module, not a low-rank change")
        if ghost.declared(state) is None:
            why = " with dropout, of which it declares no factors; set it to 0"
            why = why if getattr(method, "dropout", 0) else ", which declares no low-rank factors"
            raise GraftError(f"GAST: {where} has {type(method).__name__}{why}")
        if any(owners(graft.model, site.module, (site.weight, site.bias))):
            raise GraftError(f"GAST: {where}'s weight is read by its owner without calling it")
        if getattr(state.geo, "scale_grad_by_freq", False):
            raise GraftError(f"GAST: {where} has scale_grad_by_freq, which mixes the samples")
        if graft.site(site.module).state(graft.name, ROWS) is not None:
            raise GraftError(f"GAST: {where} has new rows too, which is not served")
        yield _Site(site.name, module, state)
