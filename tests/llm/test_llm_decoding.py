"""Decoding: greedy answers are transformers' own, draws follow the distribution, rows do not see each other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_llm.decoding import Kept, Sampling, choose, complete
from graftwork_llm.lookup import GRAM, MOST, Lookup
from graftwork_llm.tiny import tiny

PROMPTS = ["Mayday", "Pan-pan, pan-pan, this is", "S"]


def rows(words: object, prompts: list[str]) -> list[list[int]]:
    return [words(p, add_special_tokens=False)["input_ids"] for p in prompts]  # type: ignore[operator]


def test_greedy_answers_are_those_of_transformers() -> None:
    model, words = tiny()
    found = complete(model, rows(words, PROMPTS), [0, 0, 0], end=0, sampling=Sampling(0, most=12))
    for prompt, answer in zip(PROMPTS, found, strict=True):
        ids = words(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        whole = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
            pad_token_id=0, eos_token_id=0,
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        assert answer == (whole[: whole.index(0)] if 0 in whole else whole)


def test_an_answer_does_not_depend_on_its_batch() -> None:
    model, words = tiny()
    gw.graft(model, gw.LoRA(rank=2))
    sampling, prompts = Sampling(1.0, 0.95, 50, 16), rows(words, PROMPTS)
    together = complete(model, prompts, [5, 6, 7], end=0, sampling=sampling)
    alone = [
        complete(model, [p], [s], end=0, sampling=sampling)[0]
        for p, s in zip(prompts, (5, 6, 7), strict=True)
    ]
    assert together == alone
    assert complete(model, prompts, [5, 6, 8], end=0, sampling=sampling)[2] != together[2]


def fine(token: int) -> bool:
    return token % 5 not in (0, 1)


class Guiding:
    """A guide that lets some tokens pass, and all once it has taken `most`."""

    def __init__(self, most: int = 99) -> None:
        self.most, self.taken = most, list[int]()

    def accepts(self, token: int) -> bool:
        return fine(token) or len(self.taken) >= self.most

    def instead(self, likely: Sequence[int]) -> Sequence[int]:
        return [t for t in likely if fine(t)]

    def take(self, token: int) -> None:
        self.taken.append(token)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_guide_changes_what_it_refuses_alone(temperature: float) -> None:
    model, words = tiny()
    sampling = Sampling(temperature, most=12)
    asked = rows(words, PROMPTS)
    free = complete(model, asked, [4, 5, 6], end=0, sampling=sampling)
    guides = [Guiding() for _ in asked]
    held = complete(model, asked, [4, 5, 6], end=0, sampling=sampling, guides=guides)
    for a, b, guide in zip(free, held, guides, strict=True):
        first = next((n for n, token in enumerate(a) if not fine(token)), len(a))
        assert a[:first] == b[:first] and (first == len(a)) == (a == b)
        assert all(map(fine, b)) and guide.taken == b
    assert held != free
    alone = [
        complete(model, [a], [s], end=0, sampling=sampling, guides=[Guiding()])[0]
        for a, s in zip(asked, (4, 5, 6), strict=True)
    ]
    assert alone == held


def test_a_row_ends_where_its_guide_knows_no_token() -> None:
    class Stuck(Guiding):
        def instead(self, likely: Sequence[int]) -> Sequence[int]:
            return []

        def accepts(self, token: int) -> bool:
            return len(self.taken) < 3

    model, words = tiny()
    guides = [Stuck(), Guiding(0)]
    found = complete(
        model, rows(words, PROMPTS[:2]), [4, 5], end=0, sampling=Sampling(0, most=9), guides=guides
    )
    assert [len(f) for f in found] == [3, 9]
    free = complete(model, rows(words, PROMPTS[:2]), [4, 5], end=0, sampling=Sampling(0, most=9))
    assert found[0] == free[0][:3] and found[1] == free[1]


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, -1.0]])
    noise = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    chosen = choose(logits.expand(len(noise), 4), noise, Sampling(1.0, 1.0, 0))
    share = torch.bincount(chosen, minlength=4) / len(noise)
    assert torch.allclose(share, logits.softmax(-1)[0], atol=0.015)
    few = choose(logits.expand(len(noise), 4), noise, Sampling(1.0, 1.0, 2))
    assert set(few.tolist()) == {1, 2}
    nucleus = choose(logits.expand(len(noise), 4), noise, Sampling(1.0, 0.6, 0))
    assert set(nucleus.tolist()) == {1}  # its probability alone is above 0.6


@given(
    st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=9),
    st.floats(0, 1, exclude_max=True, width=32),
    st.floats(0.1, 2),
    st.floats(0.01, 1),
    st.integers(0, 9),
)
def test_a_chosen_token_is_one_of_the_kept(
    logits: list[float], noise: float, temperature: float, top_p: float, top_k: int
) -> None:
    sampling = Sampling(temperature, top_p, top_k)
    row = torch.tensor([logits])
    token = int(choose(row, torch.tensor([noise]), sampling))
    shares = (row[0] / temperature).softmax(-1)
    share, order = torch.sort(shares, dim=-1, descending=True, stable=True)
    rank = order.tolist().index(token)
    assert rank < (top_k or len(logits))
    assert rank == 0 or float(share[:rank].sum()) < top_p + 1e-5


def test_generation_stops_at_the_end_token_and_at_the_limit() -> None:
    model, words = tiny()
    prompts = rows(words, PROMPTS)
    limited = complete(model, prompts, [0] * 3, end=len(words) - 1, sampling=Sampling(0, most=3))
    assert [len(a) for a in limited] == [3, 3, 3]
    first = complete(model, prompts[:1], [0], end=0, sampling=Sampling(0, most=1))[0][0]
    assert complete(model, prompts[:1], [0], end=first, sampling=Sampling(0, most=9)) == [[]]


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": 0}, {"top_k": -1}, {"most": 0}])
def test_bad_settings(bad: dict[str, float]) -> None:
    with pytest.raises(GraftError, match=next(iter(bad))):
        Sampling(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [None, gw.LoRA(rank=2), gw.LoReFT(rank=2)])
def test_what_is_kept_is_not_read_again_and_changes_nothing(method: gw.Method | None) -> None:
    model, words = tiny(layers=1)
    if method is not None:
        graft = gw.graft(model, method, seed=1)
        with torch.no_grad():
            for p in graft.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    sampling, kept, seen = Sampling(0.9, 0.9, 50, 9), Kept(), list[int]()
    model.register_forward_pre_hook(
        lambda m, args, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    first, last = rows(words, ["A ship. ", "Over. "])
    prompt = [*first]
    for turn in range(3):
        told = len(prompt) - len(first)
        with_kept = complete(
            model, [prompt], [turn], end=0, sampling=sampling, told=told, kept=kept
        )
        read, seen[:] = seen[0], []
        plain = complete(model, [prompt], [turn], end=0, sampling=sampling, told=told)
        assert with_kept == plain
        assert read == (1 + len(last) if turn and not isinstance(method, gw.LoReFT) else seen[0])
        seen[:] = []
        prompt = [*prompt, *plain[0], *last]
    other = [*first[:3], *last]
    found = complete(model, [other], [7], end=0, sampling=sampling, kept=kept)
    assert found == complete(model, [other], [7], end=0, sampling=sampling)
    with pytest.raises(GraftError, match="kept: is for one prompt"):
        complete(model, [first, last], [1, 2], end=0, sampling=sampling, kept=kept)


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 5))
def test_a_draft_is_what_followed_the_same_tokens_before(tokens: list[int], most: int) -> None:
    text = Lookup(tokens[:7])
    for token in tokens[7:]:
        text.add(token)
    last, found = tokens[-GRAM:], text.draft(most)
    before = [n for n in range(GRAM, len(tokens)) if tokens[n - GRAM : n] == last]
    assert found == (tokens[before[-1] :][:most] if before and len(last) == GRAM else [])


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("method", [None, gw.LoRA(rank=2), gw.LoReFT(rank=2)])
def test_drafts_change_no_token_and_need_fewer_passes(
    method: gw.Method | None, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that says its prompt again, so that drafts hold until noise or its end breaks them."""
    model, words = tiny(layers=1)
    if method is not None:
        gw.graft(model, method, seed=1)
    sampling, passes = Sampling(temperature, 1.0, 0, 60), list[int]()
    model.register_forward_pre_hook(
        lambda m, args, given: passes.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    counts = [0, 0]
    for seed in range(6):
        [prompt] = rows(words, ["Mayday, Mayday, Mayday. " * 3 + "x" * seed])
        for stops in ((), (words("x", add_special_tokens=False)["input_ids"][0],)):
            said = []
            for way, most in enumerate((0, MOST)):
                monkeypatch.setattr("graftwork_llm.decoding.MOST", most)
                passes.clear()
                kept = Kept()
                said.append(
                    complete(model, [prompt], [seed], end=0, sampling=sampling, stops=stops, kept=kept)
                )  # fmt: skip
                counts[way] += len(passes)
                read = [*prompt, *said[-1][0]]
                if not isinstance(method, gw.LoReFT):  # under which nothing is kept
                    assert list(kept.tokens) in (read, read[:-1])
                    assert kept.cache.get_seq_length() == len(kept.tokens)
            assert said[0] == said[1]
    if temperature == 0 and not isinstance(method, gw.LoReFT):
        assert counts[1] < counts[0], counts
