"""What a method is: a typed, ranged, immutable dataclass and the algebra it adds to a layer."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.algebra.geometry import Geometry
from graftwork.errors import GraftError

Params = Mapping[str, Tensor]


class Prompt(NamedTuple):
    """Where the prompt lies in a call, for methods whose change depends on positions; see `graftwork.prompt`.

    Attributes:
        start, end: of each row, `(rows,)`: its first position and the one behind its last; `None`: the call's own ends.
        reach: the largest `end`.
        over: the call goes on from a key-value cache, so nothing of the prompt is in it.
    """

    start: Tensor | None = None
    end: Tensor | None = None
    reach: int = 0
    over: bool = False


class Call(NamedTuple):
    """One call of a grafted layer: its input and output, and its frozen weight and bias.

    Of a block that returns a tuple, `y` is the first tensor in it. `leave` is there in training: it takes a scalar that
    belongs to the loss, see `graftwork.extra_loss`. What it is given must not depend on anything but this call, so that
    a checkpointed recomputation repeats it. `saw` is there in training while somebody asks for the branch's input
    behind its dropout; see `dropped`.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    bias: Tensor | None
    training: bool
    leave: Callable[[Tensor], None] | None = None
    prompt: Prompt = Prompt()
    saw: Callable[[Tensor], None] | None = None


def dropped(c: Call, probability: float) -> Tensor:
    """A branch's input: the call's, in training with dropout, and shown to whoever asks for it."""
    x = F.dropout(c.x, probability, c.training)
    if c.saw is not None:
        c.saw(x)
    return x


class Delta(NamedTuple):
    """A change of a layer's weight and bias; `None` leaves the tensor as it is."""

    weight: Tensor | None = None
    bias: Tensor | None = None


class Factors(NamedTuple):
    """A weight change that is `scale * b a` in canonical shape and nothing else; see `Method.factors`.

    On linear layers each output channel of weight and change, bias apart, may have a norm of its own, `magnitude`
    `(out,)` in the factors' dtype: it is multiplied by that over the norm that it has, which gets no gradient; where it
    has none, by 1.
    """

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None = None


class Rate(NamedTuple):
    """How a tensor trains beside the others: its learning rate over theirs, and whether weight decay acts on it."""

    times: float = 1.0
    decay: bool = True


def setting(
    default: Any, *, low: float | None = None, high: float | None = None, **extra: Any
) -> Any:
    """A dataclass field with an inclusive range that is checked at construction."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, **extra})


def check_fields(item: Any) -> None:
    """Check a dataclass's values against its types and the ranges of `setting`.

    Raises:
        GraftError: wrong type, value out of range or not finite; the message names the field.
    """
    cls: Any = type(item)
    hints = _hints(cls)
    for f in dataclasses.fields(item):
        _check(f"{type(item).__name__}.{f.name}", getattr(item, f.name), hints[f.name], f.metadata)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@dataclass(frozen=True)
class Method:
    """Base of all methods.

    Subclasses are frozen dataclasses with plain fields (JSON and YAML round trip) and the four
    functions below. `changes` says what they touch: "weight" (mergeable delta), "activation" (a
    branch), "attention" (what an attention module attends to) or "module" (the graft owns a copy of the module).
    """

    id: ClassVar[str]
    changes: ClassVar[str]
    layer_kinds: ClassVar[tuple[str, ...]]
    #: kinds that are grafted when no sites are named
    default_kinds: ClassVar[tuple[str, ...]]
    #: globs that are grafted when no sites are named; overrides `default_kinds`
    default_globs: ClassVar[tuple[str, ...]] = ()
    #: whether float16 and bfloat16 files keep what was trained; not where it is a small difference
    half_files: ClassVar[bool] = True
    #: whether `change` reads the frozen weight; of a quantised layer it is made dense for each call then
    reads_weight: ClassVar[bool] = False
    #: whether the change depends on where in its sequence a vector stands; then calls come with a `Prompt`
    positional: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def mergeable(self) -> bool:
        """Whether the change is one of the layer's own tensors."""
        return self.refuses_merge() is None

    @property
    def starts_at_base(self) -> bool:
        """Whether the start is the base bit for bit, whatever the input."""
        return True

    def fitted(self, geometries: Sequence[Geometry]) -> Method:
        """The method as a graft keeps it, given all the layers that have these settings; at least one.

        For what layers share: its size goes into a field here, and from there into the passport.
        """
        return self

    def shares(self, name: str, geo: Geometry) -> str | None:
        """What a site has in common with those that train the very same tensors; `None` where each has its own.

        Sites of one graft share where their settings and this word are the same; the first one's start counts.
        """
        return None

    def rates(self, geo: Geometry) -> Mapping[str, Rate]:
        """By name, the tensors that train at a rate of their own; `graftwork.optim.rates` makes groups of them."""
        return {}

    # -- the algebra ------------------------------------------------------------------------------

    def refuses(self, geo: Geometry, bias: Tensor | None) -> str | None:
        """Why this layer cannot be served, or `None`."""
        return None

    def refuses_rank(self, geo: Geometry) -> str | None:
        """Why a new graft of this layer needs `any_rank`, although a file that holds one loads, or `None`."""
        return None

    def refuses_merge(self) -> str | None:
        """Why the change cannot become a part of the layer's own tensors, or `None`."""
        if self.changes in ("activation", "attention"):
            return f"{self.id} changes activations, not weights"
        return None

    def refuses_fused(self, geo: Geometry) -> str | None:
        """Why a layer whose weight is read without being called cannot be served, or `None`."""
        if self.changes != "weight":
            return f"{type(self).__name__} changes activations, and this layer is never called"
        return None

    def refuses_length(self, length: int) -> str | None:
        """Why a positional method cannot serve a prompt of so many positions, or `None`."""
        return None

    def dense_pays(self, geo: Geometry) -> bool:
        """Whether one pass with the changed weight is cheaper than a pass and a branch.

        Only asked where the two are the same function to float32 rounding.
        """
        return False

    def factors(self, geo: Geometry, p: Params, training: bool) -> Factors | None:
        """The change as low-rank factors, where it is nothing more in this mode; `None` where it is.

        Declaring them is all that a method does to be served by the fast forms of `graftwork.fast`.
        """
        return None

    def dropped_factors(self, geo: Geometry, p: Params) -> tuple[Factors, float] | None:
        """In training, the change as `factors` of an input with dropout, and its probability; `None` where it is
        anything else. `change` then takes its input from `dropped`. Tasks that share a pass read it, so that dropout
        costs them no products of their own; the choice of samples does, too.
        """
        return None

    def diagonal(self, geo: Geometry, p: Params, training: bool) -> Tensor | None:
        """The change as diagonal blocks `(groups, count, rows, cols, *kernel)` of `geo.block_plan`, where it is
        nothing more in this mode; `None` where it is. The other declaration that `graftwork.fast` reads.
        """
        return None

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """Trainable tensors at their start values, float32 (float64 on a float64 base)."""
        raise NotImplementedError

    def frozen(
        self, geo: Geometry, weight: Tensor, bias: Tensor | None, start: Params
    ) -> dict[str, Tensor]:
        """Tensors that belong to the graft and never train: kept in its file, given to all that takes `p`.

        `start` is what `start` returned, so that one decomposition serves both. Random matrices do not
        belong here but in `seeded`.
        """
        return {}

    def seeded(self, geo: Geometry, weight: Tensor) -> dict[str, Tensor]:
        """Frozen random tensors, drawn by `graftwork.seeded.draw` from a seed among the method's fields.

        They are in `p` like the others, but in no file of ours: they are drawn again on loading, and refused
        where their hash is not the one that the passport holds.
        """
        return {}

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        """What is added to the layer's output `c.y`."""
        raise NotImplementedError

    def attend(
        self,
        p: Params,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **more: Any,
    ) -> Tensor:
        """What `torch.nn.functional.scaled_dot_product_attention` returns inside a module, for these arguments."""
        raise NotImplementedError

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        """The same change as tensors. `weight` and `bias` come in float32 or wider, as do `p`."""
        raise GraftError(
            f"{type(self).__name__} cannot be merged: it changes activations, not weights"
        )

    # -- configuration ----------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """Fields as plain JSON values."""
        return {
            f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v
            for f in dataclasses.fields(self)
        }

    def with_fields(self, **fields: Any) -> Method:
        """The same method with some fields changed.

        Raises:
            GraftError: an unknown field or a value out of range.
        """
        return from_config(type(self), {**self.config(), **fields})


def rank_above(method: Any, most: int) -> str | None:
    """The refusal of a rank above `most`, that of the layer; `None` where it is not above."""
    if method.rank <= most:
        return None
    own = f"{type(method).__name__}.rank = {method.rank}"
    return f"{own} is a rank above the layer's own, {most}; give it less there"


def from_config(cls: type[Method], config: Mapping[str, Any]) -> Method:
    """Build a method from plain values, strictly.

    Raises:
        GraftError: unknown field, wrong type, value out of range or not finite.
    """
    fields = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(config) - fields)
    if unknown:
        raise GraftError(f"{cls.__name__}: unknown field {unknown[0]!r}; it has {sorted(fields)}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})


def _check(name: str, value: Any, hint: Any, limits: Mapping[str, Any]) -> None:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if not any(_fits(value, option) for option in options):
        raise GraftError(f"{name} must be {_words(hint)}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise GraftError(f"{name} must be finite, not {value!r}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = limits.get("low"), limits.get("high")
        if (low is not None and value < low) or (high is not None and value > high):
            raise GraftError(
                f"{name} must lie in [{low}, {'...' if high is None else high}], not {value!r}"
            )
    choices = limits.get("choices")
    if choices is not None and value not in choices:
        raise GraftError(f"{name} must be one of {list(choices)}, not {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_fits(v, item) for v in value)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    return (
        getattr(hint, "__name__", str(hint)) if not isinstance(hint, types.UnionType) else str(hint)
    )


def work_dtype(weight: Tensor) -> torch.dtype:
    """The dtype adapter tensors are kept and merged in: float32, or float64 on a float64 base."""
    if weight.dtype in (torch.float32, torch.bfloat16, torch.float16):
        return torch.float32  # without an operation, which a small network's step would notice
    return torch.promote_types(weight.dtype, torch.float32)
