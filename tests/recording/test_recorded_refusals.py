"""What cannot be recorded says why and runs as it is; what a replay may differ by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_graphs import Fake
from test_recorded import Net, batch, net
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graftwork as gw


class Waits(Net):
    def forward(self, x: Tensor, scale: float = 1.0, **more: Any) -> dict[str, Any]:
        return {"out": self.q(x), "cache": object()}


class Recomputes(Net):
    reentrant = False

    def forward(self, x: Tensor, scale: float = 1.0, **more: Any) -> dict[str, Any]:
        h = self.q(x)
        return {"out": checkpoint(torch.tanh, h, use_reentrant=self.reentrant)}


class Reenters(Recomputes):
    reentrant = True


class Elsewhere(Net):
    def __init__(self) -> None:
        super().__init__()
        self.held = [self.o.weight]

    def forward(self, x: Tensor, scale: float = 1.0, **more: Any) -> dict[str, Any]:
        return {"out": self.q(x)[..., :6] @ self.held[0].t()}


class Counts(Net):
    turns = 0

    def forward(self, x: Tensor, scale: float = 1.0, **more: Any) -> dict[str, Any]:
        self.turns += 1
        return {"out": self.turns * self.q(x)}


def _hooked(model: nn.Module) -> None:
    model.q.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]


def _checkpointed(model: nn.Module) -> None:
    model.q.train().gradient_checkpointing = True  # type: ignore[union-attr, operator]


def _frozen(model: nn.Module) -> None:
    model.requires_grad_(False)


def _captured() -> bool:
    try:
        return torch.cuda.is_current_stream_capturing()
    except RuntimeError:  # no driver
        return False


class Asks(Net):
    def forward(self, x: Tensor, scale: float = 1.0, **more: Any) -> dict[str, Any]:
        if not _captured() and float(x.sum()) > 1e9:
            return {"out": x}
        return {"out": self.q(x)}


class Looks(Net):
    def forward(self, x: Tensor, scale: float = 1.0, **more: Any) -> dict[str, Any]:
        return {"out": self.q(x) if float(x.sum()) < 1e9 else x}


REFUSED: list[tuple[type[Net], Callable[[nn.Module], None], str]] = [
    (Net, _hooked, "hooks sit on modules"),
    (Net, _checkpointed, "Linear.gradient_checkpointing is on"),
    (Net, _frozen, "the output has no gradient"),
    (Waits, lambda m: None, "the output holds a object"),
    (Elsewhere, lambda m: None, "read from elsewhere"),
    (Looks, lambda m: None, "called a synchronizing operation"),
    (Recomputes, lambda m: None, "is checkpointed"),
    (Reenters, lambda m: None, "is checkpointed"),
    (Counts, lambda m: None, "two rehearsals of the pass differ"),
]


@pytest.mark.parametrize(("kind", "change", "why"), REFUSED)
def test_what_cannot_be_recorded_says_why_and_runs_as_it_is(
    kind: type[Net], change: Callable[[nn.Module], None], why: str
) -> None:
    torch.manual_seed(0)
    model, told = kind().eval(), list[str]()
    change(model)
    with gw.recorded(model, machine=Fake(), tell=told.append) as recorder:
        assert [model(batch(0))["out"].shape[0] for _ in range(3)] == [3] * 3
    assert recorder.replayed == recorder.recorded == 0 and len(told) == 1
    assert why in told[0] and recorder.plain.total() == 3


def test_a_pass_that_waits_where_nothing_is_captured_can_be_recorded() -> None:
    torch.manual_seed(0)
    model = Asks()
    with gw.recorded(model, machine=Fake()) as recorder:
        for seed in range(3):
            model(batch(seed))["out"].sum().backward()
    assert recorder.replayed == 3 and not _captured()


def test_a_language_model_of_transformers_is_recorded() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}
    config = transformers.LlamaConfig(**sizes, **heads, use_cache=False)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    gw.graft(model, gw.LoRA(2), sites=["*proj"], seed=0)
    other = copy.deepcopy(model)
    with gw.recorded(model, machine=Fake()) as recorder:
        for seed in range(3):
            ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(seed))
            found, wanted = (m(input_ids=ids, labels=ids).loss for m in (model, other))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
            found.backward()
            wanted.backward()
    assert recorder.replayed == 3, recorder
    for p, q in zip(gw.get(model).parameters(), gw.get(other).parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)


def test_kernels_that_add_in_no_fixed_order_are_forgiven() -> None:
    class Shakes(Net):
        def forward(self, x: Tensor, scale: float = 1.0, **more: Any) -> dict[str, Any]:
            self.turns = getattr(self, "turns", 0) + 1
            return {"out": (1 + 4e-3 * (-1) ** self.turns) * self.q(x)}

    torch.manual_seed(0)
    model = Shakes()
    with gw.recorded(model, machine=Fake(), tell=lambda line: None) as recorder:
        model(batch(0))["out"].sum().backward()
    assert recorder.replayed == 1


@pytest.mark.parametrize(("gap", "held"), [(1e-4, True), (1e-1, False)])
def test_a_replay_may_differ_by_the_order_of_its_sums(gap: float, held: bool) -> None:
    class Rounds(Fake):
        def capture(self, *passes: Any) -> Any:
            made = super().capture(*passes)
            run = made.backward

            def backward() -> None:
                run()
                for g in made.grads:
                    if g is not None:
                        g.mul_(1 + gap)

            made.backward = backward
            return made

    model = net(gw.LoRA(2))
    with gw.recorded(model, machine=Rounds(), tell=lambda line: None) as recorder:
        model(batch(0))["out"].sum().backward()
    assert (recorder.replayed == 1) is held
