"""Whether a model still is what it was when its pass was recorded, and what of it cannot be recorded at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from graftwork.attach import grafts_of
from graftwork.states import MethodState

#: attributes by which libraries say that a module recomputes its activations
CHECKPOINTING = ("gradient_checkpointing", "grad_checkpointing", "use_checkpoint")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

#: where a tensor of a module stands: the dictionary and the name that find it, and itself
Place = tuple[dict[str, Any], str, Tensor]


class Standing:
    """A model as it stands: its modules, its tensors and where they lie, which grafts act.

    Args:
        model: what is recorded.

    Attributes:
        places: every parameter and buffer.
        trained: those that ask for a gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._modules = [(m, type(m), m.training, tuple(m._modules.values())) for m in modules]
        hooks = [getattr(m, name) for m in modules if m is not model for name in _HOOKS]
        self._hooks = hooks
        self.places: list[Place] = []
        tensors = []
        for m in modules:
            for kind, there in ((True, m._parameters), (False, m._buffers)):
                for name, t in there.items():
                    if t is None:
                        continue
                    self.places.append((there, name, t))
                    frozen = kind and not t.requires_grad
                    version = t._version if frozen and not t.is_inference() else None
                    tensors.append((there, name, t, t.data_ptr(), t.requires_grad, version))
        self._tensors = tensors
        self._counts = [(m._parameters, len(m._parameters)) for m in modules]
        self._sites = [(s, s.active) for m in modules if (s := grafts_of(m)) is not None]
        self._states = [(m, m.prompt) for m in modules if isinstance(m, MethodState)]
        self.trained = [place for place in self.places if place[2].requires_grad]

    def holds(self) -> bool:
        """Whether nothing was exchanged, moved, frozen, thawed or switched, and no frozen weight written to."""
        for m, kind, training, children in self._modules:
            if (
                m.training is not training
                or type(m) is not kind
                or tuple(m._modules.values()) != children
            ):
                return False
        for there, name, t, place, trains, version in self._tensors:
            if (
                there.get(name) is not t
                or t.data_ptr() != place
                or t.requires_grad is not trains
                or (version is not None and t._version != version)
            ):
                return False
        return all(len(there) == n for there, n in self._counts) and all(
            s.active == pairs for s, pairs in self._sites
        )

    def now(self) -> str | None:
        """What stands in the way of a recorded pass in this very call; `None`: nothing."""
        if any(self._hooks):
            return "hooks sit on modules inside the model, and a recorded pass calls none"
        for site, _ in self._sites:
            if site.mix is not None or site.seen is not None:
                return "several grafts share the batch, or a reach check listens"
        for state, prompt in self._states:
            if state.left is not None:
                return "extra_loss collects what methods leave beside the output"
            if state.prompt is not prompt:
                return "a block says where the prompts lie"
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            return "saved tensors are hooked (checkpointing, or offloading)"
        return None

    def off(self) -> bool:
        """Whether the model carries grafts, and none is switched on."""
        return bool(self._sites) and not any(pairs for _, pairs in self._sites)

    def ever(self, model: nn.Module) -> str | None:
        """What makes this model unfit for recording as it stands; `None`: nothing."""
        if isinstance(model, DistributedDataParallel):
            return "record the module inside DistributedDataParallel, not the wrapper"
        for m, *_ in self._modules:
            for name in CHECKPOINTING:
                if getattr(m, name, False) is True and m.training:
                    return (
                        f"{type(m).__name__}.{name} is on: activations that are computed again in the backward pass "
                        "are not recorded; switch it off"
                    )
        for _, name, t in self.places:
            if type(t) not in (Tensor, nn.Parameter):
                return f"{name} is a {type(t).__name__} (sharded or quantised), not a plain tensor"
        devices = {str(t.device) for *_, t in self.places if t.numel() > 1}
        if len(devices) > 1:
            return f"the model lies on {', '.join(sorted(devices))}; one device is recorded"
        return None
