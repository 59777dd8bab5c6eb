"""Which named grafts may act at the same time, and with which weights.

Changes of a layer by methods add up, so they can be weighted and summed at one site. A copied module and new rows
cannot: they stand in the place of the base's own. Such a graft acts beside others as long as its weight is 1
and no other one touches the module that it owns, or, where it owns a copy, anything inside that copy's original.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from graftwork.errors import GraftError
from graftwork.states import CopyState, MethodState

if TYPE_CHECKING:
    from graftwork.handle import Graft


def check_weight(verb: str, name: str, weight: object) -> float:
    """The weight as a number.

    Raises:
        GraftError: it is none, or not finite.
    """
    good = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not good or weight != weight or abs(weight) == float("inf"):  # type: ignore[arg-type]
        raise GraftError(f"{verb}: the weight of {name!r} must be a finite number, not {weight!r}")
    return float(weight)  # type: ignore[arg-type]


def check_together(verb: str, grafts: Mapping[str, Graft], weights: Mapping[str, float]) -> None:
    """Refuse a set of grafts whose parts would stand in each other's way.

    Args:
        verb: who asks, for the message.
        grafts: the handles by name.
        weights: one for each of them.

    Raises:
        GraftError: a graft that owns a module or rows has another weight than 1, or another graft
            touches what it owns; the message names both and the site.
    """
    touched: dict[int, dict[str, str]] = {}  # module -> graft -> site
    owned: list[tuple[str, str, str, nn.Module, bool]] = []
    for name, graft in grafts.items():
        for module_name in graft.entry.modules():
            module = graft.model.get_submodule(module_name)
            for slot, state in graft.site(module_name).slots(name).items():
                site = ".".join(p for p in (module_name, slot) if p) or "the model"
                touched.setdefault(id(module), {})[name] = site
                kind = state.kind
                if isinstance(state, MethodState):
                    if state.method.changes != "attention":
                        continue
                    kind = (
                        "attention"  # one softmax is over all that it sees; outputs do not add up
                    )
                if weights[name] != 1.0:
                    raise GraftError(
                        f"{verb}: {name!r} owns {site} ({kind}), which cannot be part of a "
                        f"weighted sum; give {name!r} the weight 1"
                    )
                owned.append((name, site, kind, module, isinstance(state, CopyState)))
    if len(grafts) == 1:
        return
    for name, site, kind, module, copied in owned:
        for part in module.modules() if copied else [module]:
            for other, where in touched.get(id(part), {}).items():
                if other != name:
                    raise GraftError(
                        f"{verb}: {name!r} owns {site} ({kind}), and {other!r} changes {where}: they "
                        "cannot be part of one sum; switch one of the two off"
                    )
