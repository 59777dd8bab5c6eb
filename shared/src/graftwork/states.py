"""What a graft keeps at one site, and how it changes that site's call.

A state is a child module of the site that `state_dict` does not see. Three forms: tensors of a
method (`MethodState`), a copy of the whole module (`CopyState`), new output or token rows
(`RowsState`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.algebra import quantised
from graftwork.algebra.conv import Conv, ConvTranspose
from graftwork.algebra.geometry import Geometry
from graftwork.algebra.layout import stored_like
from graftwork.algebra.linear import Block, Embedding
from graftwork.attending import Inside, goes_on
from graftwork.errors import GraftError
from graftwork.fast.conv_sites import FastConv
from graftwork.fast.sites import KINDS, Fast
from graftwork.methods.base import Call, Delta, Method, Prompt, work_dtype
from graftwork.seeded import digest

Base = Callable[..., Any]
_EXACT = (torch.float32, torch.float64)


class Hidden(nn.Module):
    """A module that `parameters()` and `.to()` see and the base's `state_dict` does not."""

    _prefix: str = ""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_forget_missing)  # type: ignore[no-untyped-call]

    def state_dict(self, *args: Any, destination: Any = None, **kwargs: Any) -> Any:
        # a destination means that a parent collects; then this child has nothing to add
        if destination is not None:
            return destination
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self._prefix = prefix


def _forget_missing(module: nn.Module, keys: Any) -> None:
    # children of a hidden module report their tensors as missing; they were never in the file
    assert isinstance(module, Hidden)
    if module._prefix:
        keys.missing_keys[:] = [k for k in keys.missing_keys if not k.startswith(module._prefix)]


class SiteState(Hidden):
    """Base of the three forms. `kind` is the word in passports and summaries.

    Args:
        layer: the module that the state sits on.
        weight_name: its parameter whose shape must stay.
    """

    kind: str = ""

    def __init__(self, layer: nn.Module, weight_name: str = "weight") -> None:
        super().__init__()
        self.weight_name = weight_name
        weight = layer._parameters.get(weight_name)
        self.shape = None if weight is None else weight.shape

    def check(self, layer: nn.Module) -> None:
        """Refuse a layer that was resized after grafting.

        Raises:
            GraftError: its weight has another shape than it had.
        """
        weight = layer._parameters.get(self.weight_name)
        if self.shape is not None and weight is not None and weight.shape != self.shape:
            raise GraftError(
                f"a grafted {type(layer).__mro__[2].__name__} was resized from {tuple(self.shape)} "
                f"to {tuple(weight.shape)}; remove the graft, resize, and graft again, or give the "
                "graft new tokens and outputs of its own with NewRows"
            )

    def call(self, layer: nn.Module, base: Base, args: Any, kwargs: Any) -> Any:
        """The site's output with this state active."""
        raise NotImplementedError

    def own_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor that belongs to the graft, persistent buffers included, by a stable name."""
        yield from self.named_parameters()
        for name, buffer in self.named_buffers():
            path, _, leaf = name.rpartition(".")
            if leaf not in self.get_submodule(path)._non_persistent_buffers_set:
                yield name, buffer

    def merged(self, layer: nn.Module) -> dict[str, Tensor]:
        """New tensors of the layer, by name, in the dtypes they will have."""
        raise NotImplementedError


class MethodState(SiteState):
    """A method's tensors at one layer, or at one raw parameter such as `in_proj_weight`.

    Args:
        method: the method with this site's own settings.
        geo: the layer's geometry.
        weight_name, bias_name: the layer's parameters that the method changes.
        blank: the trained and the stored tensors are zeros, to be loaded at once; nothing is computed from
            the weight then, so that a reload costs no decomposition.

    Attributes:
        digest: the hash of the tensors that are drawn from a seed; empty where there are none.
    """

    kind = "method"

    def __init__(
        self,
        method: Method,
        geo: Geometry,
        layer: nn.Module,
        weight_name: str,
        bias_name: str,
        blank: bool = False,
    ) -> None:
        super().__init__(layer, weight_name)
        self.method, self.geo, self.bias_name = method, geo, bias_name
        self.scheme = quantised.scheme(layer)
        weight, bias = self.base(layer)
        trained, frozen = starts(method, geo, weight, bias, blank)
        for name, value in trained.items():
            self.register_parameter(name, nn.Parameter(stored_like(value, weight)))
        for name, value in frozen.items():
            self.register_buffer(name, value)
        drawn = method.seeded(geo, weight.detach())
        for name, value in drawn.items():
            self.register_buffer(name, value, persistent=False)
        self.digest = digest(drawn) if drawn else ""
        self.names = (*trained, *frozen, *drawn)
        self.left: list[Tensor] | None = None  # parts of the loss, while somebody collects them
        self.prompt = Prompt()  # where prompts lie, while somebody says so
        self.saw: Callable[[Tensor], None] | None = None  # who asks for inputs behind dropout
        self.watch: Callable[[Tensor], None] | None = None  # who asks for changes
        # a transposed convolution needs its output's size, which only a call tells
        self.dense = geo.kind.startswith("conv") and not geo.kind.startswith("conv_transpose")
        self.dense = self.dense and method.changes == "weight" and method.dense_pays(geo)
        self.fast: Fast | FastConv | None = None
        if geo.kind in KINDS:
            self.fast = Fast()
        elif isinstance(geo, Conv | ConvTranspose):
            self.fast = FastConv()

    def base(self, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
        """The frozen weight, dense, and bias (for a block: any tensor of it, for dtype and device)."""
        if self.scheme is not None:
            return quantised.dense(layer), layer._parameters.get(self.bias_name)
        weight = layer._parameters.get(self.weight_name)
        if weight is None:
            weight = next(layer.parameters())
        return weight, layer._parameters.get(self.bias_name)

    def params(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.names}

    def change(self, layer: nn.Module, x: Tensor, y: Tensor, over: bool = False) -> Tensor:
        """What this graft adds to the layer's output; may be wider than `y`, so round after the sum."""
        if self.scheme is None:
            weight, bias = self.base(layer)
        else:
            weigh = quantised.dense if self.method.reads_weight else quantised.unread
            weight, bias = weigh(layer, y.dtype), layer._parameters.get(self.bias_name)
        leave = self._leave if self.training else None
        prompt = self.prompt._replace(over=over) if over else self.prompt
        saw = self.saw if self.training else None
        c = Call(x, y, weight, bias, self.training, leave, prompt, saw)
        change = self.geo.graded(self.method.change(self.geo, self.params(), c), x)
        if self.watch is not None:
            self.watch(change)
        return change

    def _leave(self, loss: Tensor) -> None:
        if self.left is not None:
            self.left.append(loss)

    def call(self, layer: nn.Module, base: Base, args: Any, kwargs: Any) -> Any:
        if self.fast is not None and not kwargs and len(args) == 1 and isinstance(args[0], Tensor):
            quick = self.fast.call(self, layer, base, args[0])
            if quick is not None:
                return quick
        if self.method.changes == "attention":
            return self._inside(layer, base, args, kwargs)
        x = first_input(args, kwargs)
        if self.dense and x.dtype in _EXACT and not torch.is_autocast_enabled(x.device.type):
            return self._run_dense(layer, x)
        over = self.over(layer, args, kwargs)
        out = base(*args, **kwargs)
        y = self.hidden(layer, out)
        return rebuilt(out, (y + self.change(layer, x, y, over)).to(y.dtype))

    def _inside(self, layer: nn.Module, base: Base, args: Any, kwargs: Any) -> Any:
        inside = Inside(functools.partial(self.method.attend, self.params()))
        with inside:
            out = base(*args, **kwargs)
        if inside.calls != 1:
            raise GraftError(
                f"{self.method.id}: {type(layer).__mro__[2].__name__} makes {inside.calls} calls of "
                "torch.nn.functional.scaled_dot_product_attention, where one is served; transformers' models make it "
                "with attn_implementation='sdpa'"
            )
        return out

    def over(self, layer: nn.Module, args: Any, kwargs: Any) -> bool:
        """Whether a positional method's prompt lies in earlier calls; ask before the layer writes its cache."""
        return self.method.positional and goes_on(layer, args, kwargs)

    def hidden(self, layer: nn.Module, out: Any) -> Tensor:
        """The output that the method changes: the whole, or the first of what a block returns."""
        if isinstance(self.geo, Block) and type(out) in (tuple, list) and out:
            out = out[0]
        if not isinstance(out, Tensor):
            raise GraftError(
                f"a grafted {type(layer).__mro__[2].__name__} returns a {type(out).__name__}, not a "
                "tensor; graft a layer inside it"
            )
        return out

    def _run_dense(self, layer: nn.Module, x: Tensor) -> Tensor:
        """One pass with the changed weight; in half precision it would round small updates away."""
        weight, bias = self.base(layer)
        d = self.delta(layer)
        if d.weight is not None:
            weight = weight + d.weight
        if d.bias is not None:
            bias = d.bias if bias is None else bias + d.bias
        return self.geo.run(x, weight, bias)

    def delta(self, layer: nn.Module) -> Delta:
        """The change of weight and bias, in float32 or wider."""
        weight, bias = self.base(layer)
        wide = work_dtype(weight)
        params = {k: v.to(wide) for k, v in self.params().items()}
        weight = weight.detach().to(wide)
        bias = None if bias is None else bias.detach().to(wide)
        with torch.autocast(weight.device.type, enabled=False):  # wide means wide
            return self.method.weight_change(self.geo, params, weight, bias)

    def merged(self, layer: nn.Module) -> dict[str, Tensor]:
        return merged_sum(layer, [(self, 1.0)])


def starts(
    method: Method, geo: Geometry, weight: Tensor, bias: Tensor | None, blank: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A method's trained and its stored frozen tensors at a layer; zeros of their shapes if `blank`."""
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    device = weight.device
    if blank:
        weight, bias = weight.to("meta"), None if bias is None else bias.to("meta")
    trained = method.start(geo, weight, bias)
    frozen = method.frozen(geo, weight, bias, trained)
    if blank:
        trained, frozen = (
            {k: torch.zeros(t.shape, dtype=t.dtype, device=device) for k, t in own.items()}
            for own in (trained, frozen)
        )
    return trained, {k: t.detach().clone() for k, t in frozen.items()}


def merged_sum(layer: nn.Module, parts: list[tuple[MethodState, float]]) -> dict[str, Tensor]:
    """New tensors of a layer under the weighted changes of states at one slot, rounded once."""
    first = parts[0][0]
    weight, bias = first.base(layer)
    with torch.no_grad():
        deltas = [(s.delta(layer), w) for s, w in parts]
        out: dict[str, Tensor] = {}
        dw = _total([(d.weight, w) for d, w in deltas])
        if dw is not None:
            out[first.weight_name] = (weight.to(dw.dtype) + dw).to(weight.dtype)
        db = _total([(d.bias, w) for d, w in deltas])
        if db is not None:
            total = db if bias is None else bias.to(db.dtype) + db
            out[first.bias_name] = total.to(weight.dtype if bias is None else bias.dtype)
    return out


def _total(changes: list[tuple[Tensor | None, float]]) -> Tensor | None:
    there = [c if w == 1.0 else w * c for c, w in changes if c is not None]
    return sum(there[1:], there[0]) if there else None


class CopyState(SiteState):
    """The graft owns a copy of the whole module: its tensors train, its buffers move.

    Args:
        layer: the module.
        copied: its copy.
    """

    kind = "module"

    def __init__(self, layer: nn.Module, copied: nn.Module) -> None:
        super().__init__(layer)
        self.module = copied
        for p in self.module.parameters():
            p.requires_grad_(p.is_floating_point())

    def call(self, layer: nn.Module, base: Base, args: Any, kwargs: Any) -> Any:
        # not through __call__: the site's own call runs the hooks that somebody put on the layer
        return self.module.forward(*args, **kwargs)

    def merged(self, layer: nn.Module) -> dict[str, Tensor]:
        module = self.module
        named = [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]
        tied: dict[int, Tensor] = {}  # what is tied inside the copy stays tied
        return {n: tied.setdefault(id(t), t.detach().clone()) for n, t in named}


class RowsState(SiteState):
    """New output channels behind a layer's own, or new tokens behind an embedding's."""

    kind = "rows"

    def __init__(self, new: int, geo: Geometry, layer: nn.Module) -> None:
        super().__init__(layer)
        self.new, self.geo = new, geo
        self.embedding = isinstance(geo, Embedding)
        weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
        assert weight is not None
        zero = torch.zeros((), dtype=work_dtype(weight), device=weight.device)
        # new outputs start at zero (their logit is 0 everywhere); new tokens like the table's mean
        # token, which is where an untrained token does least harm
        if self.embedding:
            rows = weight.detach().to(work_dtype(weight)).mean(0, keepdim=True).repeat(new, 1)
        else:
            shape = geo.with_out(new).weight_shape()
            rows = zero.new_zeros(shape)
        self.weight = nn.Parameter(rows)
        self.bias = None if bias is None else nn.Parameter(zero.new_zeros(new))

    def call(self, layer: nn.Module, base: Base, args: Any, kwargs: Any) -> Any:
        x = first_input(args, kwargs)
        if self.embedding:
            old = x < self.geo.in_
            y = base(torch.where(old, x, 0))
            rows = nn.functional.embedding(
                torch.where(old, 0, x - self.geo.in_), self.weight.to(y.dtype)
            )
            return torch.where(old.unsqueeze(-1), y, rows)
        y = base(*args, **kwargs)
        bias = None if self.bias is None else self.bias.to(y.dtype)
        rows = self.geo.with_out(self.new).run(x, self.weight.to(y.dtype), bias, y)
        return torch.cat([y, rows], dim=self.geo.axis)

    def merged(self, layer: nn.Module) -> dict[str, Tensor]:
        weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
        assert weight is not None
        return self.widen(weight, bias)

    def widen(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """`weight` and `bias` with the new rows appended."""
        if self.embedding:
            return {"weight": torch.cat([weight.detach(), self.weight.detach().to(weight.dtype)])}
        joined = [self.geo.canonical(weight), self.geo.with_out(self.new).canonical(self.weight)]
        with torch.no_grad():
            out = {
                "weight": self.geo.layout(torch.cat([t.to(weight.dtype) for t in joined], dim=1))
            }
            if bias is not None and self.bias is not None:
                out["bias"] = torch.cat([bias, self.bias.to(bias.dtype)])
        return {k: v.contiguous() for k, v in out.items()}


def rebuilt(out: Any, y: Tensor) -> Any:
    """What a layer returned, with `y` in the place of its tensor."""
    return y if isinstance(out, Tensor) else type(out)((y, *out[1:]))


def first_input(args: Any, kwargs: Any) -> Tensor:
    """The tensor a layer was called with, however it was passed."""
    x = args[0] if args else kwargs.get("input", kwargs.get("x", next(iter(kwargs.values()), None)))
    if not isinstance(x, Tensor):
        raise GraftError("a grafted layer was called without an input tensor")
    return x
