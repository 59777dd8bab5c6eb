"""What methods add to the training loss, such as a router's balance: collected while a block runs, gone after it.

    with gw.extra_loss(model) as extra:
        loss = task(model(x), y) + extra()
    loss.backward()

Nothing stays behind on the model: outside such a block, and in eval mode, what a method leaves is dropped where it was
made. So there is nothing left from an earlier forward, whether that one was used or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.states import MethodState


@contextlib.contextmanager
def extra_loss(model: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Collect what the grafts inside `model` add to the loss of the forward passes in this block.

    Yields a function to call once, after the forward passes: the sum, a scalar with gradient, weighted by the
    methods' own settings; zero where no method adds anything. Every call of a layer counts, so a layer that is called
    twice adds twice. Use one block for each backward. Works under gradient checkpointing in its
    `use_reentrant=False` form.

    Args:
        model: any module; what is grafted inside it counts, in training mode and switched on.

    Raises:
        GraftError: inside another such block of the same model; or, from the function, called twice, or a part of the
            loss has no gradient although the graft trains (re-entrant checkpointing).
    """
    states = [m for m in model.modules() if isinstance(m, MethodState)]
    if any(s.left is not None for s in states):
        raise GraftError("extra_loss: the model is inside another such block; leave that one first")
    handed = False

    def total() -> Tensor:
        nonlocal handed
        if handed:
            raise GraftError("extra_loss: handed out already; use one block for each backward")
        handed = True
        parts = [(s, loss) for s in states for loss in s.left or ()]
        _stop(states)  # a checkpointed recomputation in backward is no further forward
        if torch.is_grad_enabled():
            for state, loss in parts:
                if not loss.requires_grad and any(p.requires_grad for p in state.parameters()):
                    raise GraftError(
                        f"extra_loss: what {state.method.id} adds to the loss has no gradient: the layer ran "
                        "without gradients, as in torch's re-entrant checkpointing; use_reentrant=False "
                        "mends that"
                    )
        first = next(model.parameters(), None)
        device = None if first is None else first.device
        return sum((loss.to(device) for _, loss in parts), torch.zeros((), device=device))

    for s in states:
        s.left = []
    try:
        yield total
    finally:
        _stop(states)


def _stop(states: list[MethodState]) -> None:
    for s in states:
        s.left = None
