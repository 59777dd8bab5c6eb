"""Layouts: the same answers and gradients as each sequence alone, and nothing lost on the way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SIZES, build
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.tenants.align import Aligned, Batch, batches, chunked, packed, padded
from graftwork.tenants.aligner import Aligner
from graftwork.tenants.cost import CostModel, Own, TaskLoad
from graftwork.tenants.layouts import (
    LAYOUTS,
    Shape,
    bins,
    choose_chunk,
    chunked_rows,
    packed_rows,
    padded_rows,
    shape,
    waste,
)

lengths_of = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=4)


def made(lengths: list[list[int]], extra: int = 0) -> list[Batch]:
    torch.manual_seed(0)
    out = []
    for k, mine in enumerate(lengths):
        width = max(mine) + extra
        ids = torch.randint(1, 32, (len(mine), width))
        for row, n in zip(ids, mine, strict=True):
            row[n:] = 31
        out.append(Batch(f"t{k}", ids, tuple(mine)))
    return out


def laid(tasks: list[Batch], layout: str, chunk: int) -> Aligned:
    if layout == "padded":
        return padded(tasks)
    return chunked(tasks, chunk) if layout == "chunked" else packed(tasks, None, torch.float64)


@given(
    lengths=lengths_of,
    layout=st.sampled_from(LAYOUTS),
    chunk=st.integers(1, 50),
    extra=st.integers(0, 3),
)
def test_the_way_there_and_back_is_the_identity(
    lengths: list[list[int]], layout: str, chunk: int, extra: int
) -> None:
    tasks = made(lengths, extra)
    aligned = laid(tasks, layout, chunk)
    ids = aligned.inputs["input_ids"]
    for t in tasks:
        back = aligned.own(ids, t.name)
        assert back.shape == t.tokens.shape
        for row, mine, n in zip(back, t.tokens, t.lengths, strict=True):
            assert torch.equal(row[:n], mine[:n])
            assert not row[n:].any()
        deep = aligned.own(torch.stack([ids, 2 * ids], -1), t.name)
        assert torch.equal(deep[..., 1], 2 * back)
    # whose each row is, told by the runs
    rows = ids.numel() if layout == "packed" else ids.shape[0]
    assert sum(aligned.sizes) == rows
    owner = [n for n, size in zip(aligned.names, aligned.sizes, strict=True) for _ in range(size)]
    width = 1 if layout == "packed" else ids.shape[1]
    for name, spans in aligned.spans.items():
        for first, n in spans:
            assert {owner[p // width] for p in range(first, first + n)} == {name}
    flat = [n for mine in lengths for n in mine]
    assert aligned.waste == waste(flat, layout, chunk if layout == "chunked" else None)


@settings(deadline=None, max_examples=12)
@given(data=st.data(), lengths=lengths_of, layout=st.sampled_from(LAYOUTS))
@pytest.mark.parametrize("name", SIZES)
def test_answers_and_gradients_are_those_of_each_sequence_alone(
    name: str, data: st.DataObject, lengths: list[list[int]], layout: str
) -> None:
    model = build(name)
    chunk = data.draw(st.integers(1, 20))
    aligner = Aligner(model, layout, chunk if layout == "chunked" else None, check=False)
    tasks = made(lengths)
    aligned = aligner.align(
        {
            t.name: {
                "input_ids": t.tokens,
                "attention_mask": torch.arange(t.tokens.shape[1])
                < torch.tensor(t.lengths)[:, None],
            }
            for t in tasks
        }
    )
    assert aligned.layout == layout

    def gradients(outputs: list[Tensor]) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        loss = sum((o * torch.randn_like(o)).sum() for o in outputs)
        return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

    output = aligner.run(aligned)
    own = [aligned.own(output, t.name)[i, :n] for t in tasks for i, n in enumerate(t.lengths)]
    alone = [
        model(t.tokens[i : i + 1, :n]).logits[0] for t in tasks for i, n in enumerate(t.lengths)
    ]
    for mine, reference in zip(own, alone, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-9)
    for mine, reference in zip(gradients(own), gradients(alone), strict=True):
        close = 1e-4 if name == "Gemma" else 1e-7  # its norms sum in float32 whatever the dtype
        torch.testing.assert_close(mine, reference, rtol=close, atol=close)


@pytest.mark.parametrize("name", SIZES)
def test_every_model_passes_the_check_in_all_layouts(name: str) -> None:
    aligner = Aligner(build(name))
    assert aligner.refused == {}
    assert aligner.layouts() == LAYOUTS


def test_models_that_cannot_are_refused_by_name() -> None:
    from transformers import BertConfig, BertLMHeadModel, BloomConfig, BloomForCausalLM

    bloom = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2))
    assert Aligner(bloom).layouts() == ("padded",)  # its positions come from a mask
    with pytest.raises(GraftError, match="BloomForCausalLM takes no position_ids"):
        Aligner(bloom, "packed")
    both_ways = BertLMHeadModel(
        BertConfig(
            vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, is_decoder=False,
        )
    )  # fmt: skip
    with pytest.raises(GraftError, match="BertLMHeadModel is not causal"):
        Aligner(both_ways)
    eager = build("Llama", "eager")
    assert "scaled_dot_product_attention" in Aligner(eager).refused["chunked"]
    with pytest.raises(GraftError, match='attn_implementation="sdpa"'):
        Aligner(eager, "chunked")
    assert Aligner(eager, "packed").layouts() == ("padded", "packed")


def test_a_sliding_window_leaves_long_sequences_padded() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    aligner = Aligner(model, sizes=(4,), least=0)
    assert aligner.choice([3, 8, 3, 3]).layout != "padded"
    assert aligner.choice([3, 9, 3, 3]).layout == "padded"
    with pytest.raises(GraftError, match="sliding window of 8 tokens, and a sequence has 9"):
        Aligner(model, "packed").choice([9])


def test_checkpointed_models_are_not_cut_into_chunks() -> None:
    model = build.__wrapped__("Llama")
    aligner = Aligner(model, sizes=(4,), least=0)
    assert "chunked" in aligner.layouts()
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)()
    assert "chunked" not in aligner.layouts()
    assert aligner.choice([4, 4, 9]).layout != "chunked"
    with pytest.raises(GraftError, match="'chunked': a checkpointed module computes its attention"):
        Aligner(model, "chunked", 4).choice([9])


class Windowed(nn.Module):
    """Attention with a mask that holds for whole sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        x = self.table(input_ids)[:, None]
        n = x.shape[2]
        window = torch.ones(n, n, dtype=torch.bool).tril().triu(-2)
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=window)[:, 0]


def test_an_attention_with_a_mask_of_its_own_is_found() -> None:
    aligner = Aligner(Windowed())
    assert "a mask of its own" in aligner.refused["chunked"]
    assert "other answers" in aligner.refused["packed"]
    assert aligner.layouts() == ("padded",)


def test_positions_and_sizes_are_refused() -> None:
    model = build("Llama")
    for chunk in (0, -1, 2.5):
        with pytest.raises(GraftError, match="chunk: a size of"):
            Aligner(model, chunk=chunk)  # type: ignore[arg-type]
    with pytest.raises(GraftError, match="chunk: 129 tokens are above the 128 positions"):
        Aligner(model, "chunked", 129)
    with pytest.raises(GraftError, match="sequence of 130 tokens is above the 128 positions"):
        Aligner(model).choice([130])
    with pytest.raises(GraftError, match="layout: 'tight' is none of"):
        Aligner(model, "tight")
    with pytest.raises(GraftError, match="'chunked' needs a size"):
        waste([3], "chunked")
    with pytest.raises(GraftError, match="layout: 'tight'"):
        waste([3], "tight")
    with pytest.raises(GraftError, match="do not hold a sequence of 5"):
        packed_rows([5, 3], 4)
    with pytest.raises(GraftError, match="none fits into 32 positions"):
        choose_chunk([5], 32)


def test_batches_that_cannot_be_aligned() -> None:
    ids = torch.ones(2, 3, dtype=torch.long)
    left = torch.tensor([[0, 1, 1], [1, 1, 1]])
    with pytest.raises(GraftError, match="'a': attention_mask must be ones and then zeros"):
        batches({"a": {"input_ids": ids, "attention_mask": left}})
    with pytest.raises(GraftError, match="'a': attention_mask is"):
        batches({"a": {"input_ids": ids, "attention_mask": left[:1]}})
    with pytest.raises(GraftError, match="'a': attention_mask must be"):
        batches({"a": {"input_ids": ids, "attention_mask": torch.zeros(2, 3)}})
    with pytest.raises(GraftError, match=r"'a': input_ids must be \(sequences, tokens\)"):
        batches({"a": ids[0]})
    with pytest.raises(GraftError, match="'a': 'pixel_values' cannot be aligned"):
        batches({"a": {"input_ids": ids, "pixel_values": ids}})
    for lengths in ([3], [0, 3], [3, 4]):
        with pytest.raises(GraftError, match="'a': lengths must be one for each of 2 sequences"):
            batches({"a": {"input_ids": ids, "lengths": lengths}})
    (told,) = batches({"a": {"input_ids": ids, "lengths": [1, 3]}})
    assert told.lengths == (1, 3)
    with pytest.raises(GraftError, match="no sequence"):
        batches({})


@given(lengths=st.lists(st.integers(1, 600), min_size=1, max_size=20), chunk=st.integers(1, 512))
def test_counts_of_rows(lengths: list[int], chunk: int) -> None:
    real = sum(lengths)
    for rows in (padded_rows(lengths), chunked_rows(lengths, chunk), packed_rows(lengths)):
        assert rows >= real
    assert (
        chunked_rows([chunk * n for n in lengths], chunk) == chunk * real
    )  # no waste in multiples
    for layout in LAYOUTS:
        assert 0 <= waste(lengths, layout, chunk if layout == "chunked" else None).share < 1
    lines = bins(lengths, max(lengths))
    assert sorted(i for line in lines for i in line) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in line) <= max(lengths) for line in lines)


@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=20),
    limit=st.integers(64, 700),
    least=st.sampled_from([0, 1000, 4096]),
)
def test_the_chosen_chunk_wastes_least(lengths: list[int], limit: int, least: int) -> None:
    chosen = choose_chunk(lengths, limit, least=least)
    assert chosen <= limit
    good = [c for c in (64, 128, 256, 512) if c <= limit]
    filled = [c for c in good if chunked_rows(lengths, c) >= least] or good
    assert chunked_rows(lengths, chosen) == min(chunked_rows(lengths, c) for c in filled)
    assert chosen == max(
        c for c in filled if chunked_rows(lengths, c) == chunked_rows(lengths, chosen)
    )


def test_passes_are_laid_out_as_they_are_picked() -> None:
    aligner = Aligner(build("Llama"), sizes=(4, 8, 256), least=0, check=False)
    lengths = [16, 5, 3, 4]
    ids = {"a": {"input_ids": torch.ones(4, 16, dtype=torch.long), "lengths": lengths}}
    # as long as nothing was timed: the fewest rows, of one chunk size
    untimed = aligner.candidates(lengths)
    assert [(s.layout, s.chunk) for s in untimed] == [
        ("padded", None),
        ("chunked", 4),
        ("packed", None),
    ]
    assert aligner.choice(lengths) == min(untimed, key=lambda s: s.rows)
    assert aligner.shapes([TaskLoad("a", tuple(lengths))]) == [aligner.choice(lengths)]
    aligned = aligner.align(ids)
    assert (aligned.layout, aligned.waste.rows) == ("chunked", aligner.choice(lengths).rows)
    for s in untimed:
        with aligner.only(s):
            assert aligner.align(ids).layout == s.layout
    with pytest.raises(ZeroDivisionError), aligner.only(untimed[0]):
        raise ZeroDivisionError
    assert aligner.pick is None
    # then every size that the positions leave
    own = {"padded": Own(1.0), "chunked": Own(1.0), "packed": Own(1.0)}
    aligner.pick = CostModel(per_row=1e-3, own=own).least
    assert [s.chunk for s in aligner.candidates(lengths)] == [None, 4, 8, None]
    assert aligner.align(ids).layout == "padded"  # it has no pieces
    assert aligner.shapes([TaskLoad("a", tuple(lengths))]) == aligner.candidates(lengths)


def test_shapes_count_what_attention_does() -> None:
    lengths = [9, 4, 5, 2]
    assert shape(lengths, "padded") == Shape(36, "padded", None, 4 * 9**2, 0)
    assert shape(lengths, "packed") == Shape(27, "packed", None, 3 * 9**2, 4)
    # 3, 1, 2 and 1 chunks of 4
    assert shape(lengths, "chunked", 4) == Shape(28, "chunked", 4, 12**2 + 4**2 + 8**2 + 4**2, 3)
    assert shape(lengths, "chunked", 16) == Shape(64, "chunked", 16, 4 * 16**2, 0)


def test_the_last_chunk_may_reach_beyond_the_positions() -> None:
    for name in ("GPT2", "Llama"):
        model = build(name)
        ids = torch.randint(1, 32, (2, 128))
        aligner = Aligner(model, "chunked", 50)
        mask = torch.arange(128) < torch.tensor([[128], [70]])
        aligned = aligner.align({"a": {"input_ids": ids, "attention_mask": mask}})
        assert int(aligned.inputs["position_ids"].max()) == 127
        found = aligned.own(aligner.run(aligned), "a")
        torch.testing.assert_close(found[0], model(ids[:1]).logits[0], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(
            found[1, :70], model(ids[1:, :70]).logits[0], rtol=1e-8, atol=1e-9
        )


def test_gradients_reach_earlier_chunks() -> None:
    # a token of the last chunk depends on the first: an embedding that only the first chunk has gets a gradient
    model = build("Llama")
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    aligner = Aligner(model, "chunked", 2, check=False)
    aligned = aligner.align({"a": ids})
    assert aligned.inputs["input_ids"].shape == (4, 2)
    loss = aligned.own(aligner.run(aligned), "a")[0, -1].square().sum()
    (grad,) = torch.autograd.grad(loss, model.get_input_embeddings().weight)
    assert float(grad[5].abs().max()) > 0
