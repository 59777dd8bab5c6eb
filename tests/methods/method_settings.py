"""Random settings of any method, read off its dataclass fields: types, ranges and choices."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from hypothesis import strategies as st

from graftwork.methods import method_class
from graftwork.methods.base import Method

#: how far above its smallest value a whole number is drawn
SPREAD = 9
#: size of numbers without a range
WIDE = 4.0


#: settings that fit a layer of a few channels, for methods whose own would be refused there
SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "dora": {"rank": 4},
    "pissa": {"rank": 4},
    "milora": {"rank": 4},
    "goat": {"rank": 3, "experts": 3, "top_k": 2, "rho": 2.0},
    "alfa": {"rank": 3, "width": 2},
    "lora_sp": {"rank": 4, "hidden": 2},
    "loreft": {"rank": 2, "where": "all"},
    "direft": {"rank": 2, "where": "all"},
    "core": {"rank": 2, "tasks": 2, "task": 2},
    "prefix": {"length": 3, "std": 0.5},
    "vera": {"rank": 6},
    "noble": {"rank": 3},
    "wegeft": {"rank": 2},
    "loretta": {"rank": 2, "tt_rank": 2, "cores": 2},
    "loretta_adp": {"bottleneck": 3, "tt_rank": 2, "cores": 2},
    "moe_lora": {"rank": 2, "experts": 3, "top_k": 2},
    "hydra_lora": {"rank": 2, "experts": 3},
    "oft": {"block": 2},
    "boft": {"block": 2, "butterflies": 2, "gain": True},
}


def small(method_id: str) -> Method:
    """The method as it is by default, or with settings that fit small layers."""
    return method_class(method_id)(**SMALL.get(method_id, {}))


@st.composite
def _experts(draw: st.DrawFn) -> dict[str, Any]:
    experts = draw(st.integers(1, 3))
    each = draw(st.integers(1, 3))
    return {"experts": experts, "rank": experts * each, "top_k": draw(st.integers(1, experts))}


#: generated layers have no sequence; positions are tested where there is one
_EDITS = {"rank": st.integers(1, 3), "where": st.just("all"), "tied": st.just(True)}


@st.composite
def _routed(draw: st.DrawFn) -> dict[str, Any]:
    experts = draw(st.integers(1, 3))
    fields: dict[str, Any] = {"experts": experts, "rank": draw(st.integers(1, 3))}
    if experts == 1:
        return {**fields, "top_k": None, "balance": 0.0}
    return {**fields, "top_k": draw(st.none() | st.integers(1, experts))}


#: fields whose legal values depend on each other, or on a layer of a few channels
JOINT: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "goat": _experts(),
    "moe_lora": _routed(),
    "hydra_lora": _routed(),
    "lora_sp": st.fixed_dictionaries(
        {"rank": st.sampled_from([2, 4, 6]), "hidden": st.integers(1, 2), "eta": st.floats(0.05, 1)}
    ),
    "oft": st.fixed_dictionaries({"block": st.sampled_from([2, 2, 3])}),
    "boft": st.sampled_from([(2, 1), (2, 1), (2, 2), (2, 3), (4, 1)]).map(
        lambda pair: {"block": pair[0], "butterflies": pair[1]}
    ),
    "alfa": st.fixed_dictionaries({"rank": st.integers(2, 3)})
    | st.just({"rank": 1, "form": "free"}),
    "loreft": st.fixed_dictionaries(_EDITS),
    "direft": st.fixed_dictionaries(_EDITS),
    "core": st.fixed_dictionaries(
        _EDITS | {"tasks": st.just(2), "task": st.integers(1, 2), "rank": st.integers(1, 2)}
    )
    | st.fixed_dictionaries(_EDITS | {"tasks": st.just(1), "task": st.just(1)}),
    "prefix": st.fixed_dictionaries({"length": st.integers(1, 3)}),
    "noble": st.fixed_dictionaries(
        {
            "rank": st.integers(1, 4),
            "act": st.sampled_from(["cos", "gelu", "silu", "tanh", "leaky_relu"]),
        }
    )
    | st.fixed_dictionaries(
        {"rank": st.integers(1, 4), "act": st.just("none"), "layers": st.just(1)}
    ),
    "wegeft": st.fixed_dictionaries({"rank": st.integers(1, 3)}),
    "loretta": st.fixed_dictionaries({"rank": st.integers(1, 4), "tt_rank": st.integers(1, 4)}),
    "loretta_adp": st.fixed_dictionaries(
        {"bottleneck": st.integers(1, 6), "tt_rank": st.integers(1, 4)}
    ),
    "pissa": st.fixed_dictionaries({"rank": st.integers(1, 4)}),
    "milora": st.fixed_dictionaries({"rank": st.integers(1, 4)}),
}


def settings_of(method_id: str, **fixed: Any) -> st.SearchStrategy[Method]:
    """Instances of the method with every field drawn from its legal range; `fixed` ones as given."""
    if method_id in JOINT and not fixed:
        return JOINT[method_id].flatmap(lambda fields: settings_of(method_id, **fields))
    cls = method_class(method_id)
    hints = typing.get_type_hints(cls)
    drawn = {
        f.name: st.just(f.default) | _values(f"{cls.__name__}.{f.name}", hints[f.name], f.metadata)
        for f in dataclasses.fields(cls)
        if f.name not in fixed
    }
    return st.fixed_dictionaries(drawn).map(lambda fields: cls(**fields, **fixed))


def _values(name: str, hint: Any, limits: Any) -> st.SearchStrategy[Any]:
    if isinstance(hint, types.UnionType):
        return st.one_of([_values(name, h, limits) for h in typing.get_args(hint)])
    if limits.get("choices") is not None:
        return st.sampled_from(limits["choices"])
    low, high = limits.get("low"), limits.get("high")
    if hint is type(None):
        return st.none()
    if hint is bool:
        return st.booleans()
    if hint is int:
        start = 0 if low is None else int(low)
        return st.integers(
            start, start + SPREAD if high is None else min(int(high), start + SPREAD)
        )
    if hint is float:
        return st.floats(
            -WIDE if low is None else float(low),
            WIDE if high is None else float(high),
            allow_nan=False,
        ).map(lambda v: round(v, 3))  # no halves can hold 1e-140
    if typing.get_origin(hint) is tuple:
        item = _values(name, typing.get_args(hint)[0], limits)
        return st.lists(item, min_size=1, max_size=3).map(tuple)
    raise NotImplementedError(
        f"{name}: the suite has no values for {hint}; teach method_settings._values this type, "
        f"or give the field choices"
    )
