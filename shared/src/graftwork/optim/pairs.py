"""Which trained tensors are the two factors of one weight change, and which are not?

An optimizer gets a list of tensors, which does not say. A graft says it, and so does a module that carries grafts;
`Trained` is that list and the module, for whoever builds optimizers from lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.handle import Graft, grafts
from graftwork.ledger import ATTRIBUTE
from graftwork.states import MethodState, SiteState


class Trained(list[nn.Parameter]):
    """The parameters of a module that train, as optimizers take them, and the module.

    Args:
        module: any module; what is frozen in it is left out.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(p for p in module.parameters() if p.requires_grad)
        self.module = module


@dataclass(frozen=True)
class Pair:
    """The factors of one weight change B A.

    Both are looked at as tall matrices, `(blocks, rows, rank)`: B as it is, A transposed. Then W = B A is
    U V^T, and whatever holds for one factor holds for the other with the names exchanged.

    Args:
        site: the layer's name, for messages.
        a, b: `(r, in/g, *kernel)` and `(out, r/g, 1...)`.
        blocks: groups with factors of their own; 1 where all share them.
    """

    site: str
    a: nn.Parameter
    b: nn.Parameter
    blocks: int

    def tall(self, of: nn.Parameter, value: Tensor) -> Tensor:
        """`value`, shaped like the factor `of`, as `(blocks, rows, rank)`."""
        width = self.a.shape[0] // self.blocks
        if of is self.a:
            return value.reshape(self.blocks, width, -1).mT
        return value.reshape(self.blocks, -1, width)

    def flat(self, of: nn.Parameter, tall: Tensor) -> Tensor:
        """The inverse of `tall`."""
        return (tall.mT if of is self.a else tall).reshape(of.shape)


def grafts_in(target: Graft | nn.Module) -> Iterator[Graft]:
    """The graft itself, or every graft anywhere inside a module."""
    if isinstance(target, Graft):
        yield target
        return
    for root in target.modules():
        if ATTRIBUTE in root.__dict__:
            yield from grafts(root).values()


def trained_states(target: Graft | nn.Module) -> Iterator[tuple[str, SiteState]]:
    """(site name, state) of every state that has a tensor which trains."""
    for graft in grafts_in(target):
        for site, state in graft.states():
            if any(p.requires_grad for p in state.parameters()):
                yield site, state


def known(params: Any) -> Graft | nn.Module | None:
    """What stands behind `params` and knows its pairs; `None` for bare tensors."""
    if isinstance(params, Trained):
        return params.module
    return params if isinstance(params, Graft | nn.Module) else None


def tensors_of(params: Graft | nn.Module | Iterable[Any]) -> list[Any]:
    """The tensors that train, of a graft, a module or a list."""
    if isinstance(params, Graft | nn.Module):
        return [p for p in params.parameters() if p.requires_grad]
    return [params] if isinstance(params, Tensor) else list(params)


def find_pairs(target: Graft | nn.Module, who: str) -> list[Pair]:
    """The factor pairs of every layer that `target`'s grafts train.

    Args:
        target: a graft, or a module that carries grafts.
        who: the optimizer's name, for messages.

    Raises:
        GraftError: a method whose change is not B A alone; a scale other than 1; a rank above the
            layer's; a factor that does not train.
    """
    return [
        _pair(site, state, who)
        for site, state in trained_states(target)
        if isinstance(state, MethodState)
    ]


def _pair(site: str, state: MethodState, who: str) -> Pair:
    params, method = state.params(), state.method
    name = type(method).__name__
    where = f"{who}: {site or 'the model'}"
    factors = method.factors(state.geo, params, False)
    if factors is None or set(params) != {"A", "B"}:
        raise GraftError(
            f"{where}: the change of {name} is not B A alone, so no step on B and A is a step on the "
            f"weight; graft with LoRA, or train {name} with torch.optim.AdamW"
        )
    if factors.scale != 1.0:
        raise GraftError(
            f"{where}: {name} has the scale {factors.scale:g}, and here the step does not depend on one; "
            f"leave alpha at None (and rslora and clients unset), which makes it 1"
        )
    a, b = params["A"], params["B"]
    assert isinstance(a, nn.Parameter) and isinstance(b, nn.Parameter)
    if not (a.requires_grad and b.requires_grad):
        raise GraftError(f"{where}: only one of A and B trains; unfreeze the other")
    blocks = state.geo.groups if state.geo.splits(a.shape[0]) else 1
    pair = Pair(site, a, b, blocks)
    rank = a.shape[0] // blocks
    largest = min(pair.tall(p, p).shape[1] for p in (a, b))
    if rank > largest:
        raise GraftError(
            f"{where}: {name}.rank gives factors of rank {rank}, the layer's weight has at most {largest}; "
            "lower it there (overrides)"
        )
    return pair
