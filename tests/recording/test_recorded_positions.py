"""A recorded pass of a transformers model runs the attention of the plain pass, and masks what is packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from tests.recording.fake_graphs import Fake

transformers = pytest.importorskip("transformers")


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=40, max_position_embeddings=32, use_cache=False,
        attn_implementation="sdpa",
    )  # fmt: skip
    model = transformers.LlamaModel(config).train()
    gw.graft(model, gw.LoRA(2), seed=0)
    return model


class Seen(nn.Module):
    """The model's hidden states, and whether its attention was given masks."""

    def __init__(self, model: nn.Module, positions: Any = None) -> None:
        super().__init__()
        self.model, self.positions, self.masks = model, positions, list[bool]()

    def forward(self, ids: Tensor, given: Tensor | None = None) -> Tensor:
        real = F.scaled_dot_product_attention

        def noted(*args: Any, **kwargs: Any) -> Tensor:
            self.masks.append(kwargs.get("attn_mask") is not None)
            return real(*args, **kwargs)

        positions = given if self.positions is None else self.positions(ids)
        F.scaled_dot_product_attention = noted
        try:
            out: Tensor = self.model(ids, position_ids=positions).last_hidden_state
        finally:
            F.scaled_dot_product_attention = real
        return out


def ids(seed: int) -> Tensor:
    return torch.randint(1, 40, (2, 6), generator=torch.Generator().manual_seed(seed))


WHOLE, PACKED = torch.arange(6).expand(2, 6), torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
MADE = {
    "by the model": (None, False),
    "whole": (lambda ids: torch.arange(6, device=ids.device)[None], False),
    "packed": (lambda ids: torch.arange(6, device=ids.device)[None] % 3, True),
    "of the input": (lambda ids: torch.cumsum((ids > 0).long(), 1) - 1, True),
}


@pytest.mark.parametrize(("positions", "masked"), MADE.values(), ids=MADE)
def test_positions_are_looked_at_once_where_they_cannot_change(
    positions: Any, masked: bool
) -> None:
    model = Seen(llama(), positions)
    with gw.recorded(model, machine=Fake()) as recorder:
        for seed in range(3):
            y = model(ids(seed))
            y.sum().backward()
        assert (recorder.recorded, recorder.replayed) == (1, 3), str(recorder)
        assert model.masks and {*model.masks} == {masked}
        torch.testing.assert_close(y, recorder._forward(ids(2)))


def test_a_padding_mask_that_is_not_there_is_no_reason_for_a_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As transformers 5.17 asks."""
    masking = transformers.masking_utils
    real = masking._ignore_causal_mask_sdpa

    def asked(padding_mask: Any, *args: Any, **kwargs: Any) -> Any:
        return not masking.is_tracing(padding_mask) and real(padding_mask, *args, **kwargs)

    monkeypatch.setattr(masking, "_ignore_causal_mask_sdpa", asked)
    traced, model = masking.is_tracing, Seen(llama())
    with gw.recorded(model, machine=Fake()) as recorder:
        for seed in range(3):
            model(ids(seed)).sum().backward()
        assert recorder.recorded == 1 and model.masks and not any(model.masks)
    assert masking.is_tracing is traced


def test_positions_that_are_inputs_may_become_packed() -> None:
    model = Seen(llama())
    with gw.recorded(model, machine=Fake()) as recorder:
        for given in (WHOLE, PACKED, WHOLE):
            y = model(ids(0), given.contiguous())
            y.sum().backward()
            torch.testing.assert_close(y, recorder._forward(ids(0), given))
        assert recorder.replayed == 3 and recorder.recorded == 1
