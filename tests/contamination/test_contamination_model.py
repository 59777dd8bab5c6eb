"""Log-probabilities and samples of models whose probabilities are known, and of a tiny transformer."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from contamination_kit import LETTERS, Letters, Table, certain, items, tiny, uniform

import graftwork as gw
from graftwork import GraftError
from graftwork_contamination import (
    Item,
    Parameters,
    Score,
    continuations,
    log_probs,
    peakedness,
    perplexity,
    score,
)
from tests.core.core_helpers import stir

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns of itself
PROMPTS = [[5, 3, 9], [1, 2, 3, 4, 5, 6, 7], [8], [2, 2, 20, 4]]
SMALL = Parameters(samples=6, max_new_tokens=12, l_max=12, rows=21)


def test_a_table_of_probabilities_gives_its_logarithms() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 12, generator=draw)
    found = log_probs(Table(logits), [[3, 5, 7, 7]])[0]
    wanted = [math.log(logits.softmax(-1)[a, b]) for a, b in ((3, 5), (5, 7), (7, 7))]
    assert found == pytest.approx(wanted, abs=1e-5)


def test_the_perplexity_of_a_uniform_model_is_its_vocabulary() -> None:
    for lp in log_probs(uniform(37), PROMPTS):
        assert len(lp) == 0 or perplexity(lp) == pytest.approx(37, rel=1e-5)


def test_a_uniform_model_has_no_peak_and_a_certain_one_the_highest() -> None:
    flat = continuations(uniform(), [[1, 2]], samples=50, max_new_tokens=100)
    assert peakedness(flat[0][0], flat[0][1:]).value == 0
    sure = continuations(certain(), [[1, 2]], samples=50, max_new_tokens=100)
    for alpha in (0.0, 0.05, 1.0):
        assert peakedness(sure[0][0], sure[0][1:], alpha).value == 1


def test_samples_have_the_models_probabilities() -> None:
    table = torch.zeros(4, 4)
    table[1] = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    drawn = continuations(
        Table(table), [[1]], samples=8000, max_new_tokens=1, temperature=1.0, rows=8001
    )
    counts = Counter(s[0] for s in drawn[0][1:])
    for token, p in enumerate((0.1, 0.2, 0.3, 0.4)):
        assert abs(counts[token] / 8000 - p) < 5 * math.sqrt(p * (1 - p) / 8000)
    cold = continuations(
        Table(table), [[1]], samples=8000, max_new_tokens=1, temperature=0.5, rows=8001
    )
    counts = Counter(s[0] for s in cold[0][1:])
    assert abs(counts[3] / 8000 - 16 / 30) < 5 * math.sqrt(0.25 / 8000)  # squares, normed


def test_temperature_zero_takes_the_likeliest() -> None:
    found = continuations(tiny(), PROMPTS, samples=3, temperature=0, max_new_tokens=8, end=0)
    for greedy, *samples in found:
        assert samples == [greedy] * 3


@pytest.mark.parametrize(
    "method", [None, gw.LoRA(2), gw.LoReFT(2, first=1, last=2, short="shrink")]
)
def test_batches_give_what_each_gives_alone(method: Any) -> None:
    model = tiny()
    if method is not None:
        sites = None if isinstance(method, gw.LoReFT) else ["*.q_proj", "*.down_proj"]
        stir(gw.graft(model, method, sites=sites), 0.3)
    together = log_probs(model, PROMPTS, rows=4)
    for rows in (1, 2, 3):
        for one, other in zip(together, log_probs(model, PROMPTS, rows=rows), strict=True):
            assert one == pytest.approx(other, abs=1e-5)
    how: dict[str, Any] = {"samples": 4, "max_new_tokens": 10, "end": 0}
    wide = continuations(model, PROMPTS, rows=64, **how)
    assert wide == continuations(model, PROMPTS, rows=1, **how)
    alone = [continuations(model, [p], streams=[i], **how)[0] for i, p in enumerate(PROMPTS)]
    assert wide == alone and len({tuple(s) for found in wide for s in found}) > 8


def test_padding_moves_no_position_of_a_model_that_counts_them() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(LETTERS),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=64,
        initializer_range=0.3,
    )
    model = GPT2LMHeadModel(config).eval()
    how: dict[str, Any] = {"samples": 3, "max_new_tokens": 10}
    together = continuations(model, PROMPTS, rows=64, **how)
    assert together == continuations(model, PROMPTS, rows=1, **how)
    for one, other in zip(
        log_probs(model, PROMPTS), log_probs(model, PROMPTS, rows=1), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-5)


def test_the_greedy_answer_is_the_likeliest_step_by_step_without_a_cache() -> None:
    model = tiny().eval()
    found = continuations(model, PROMPTS, samples=1, max_new_tokens=9, end=None)
    for prompt, (greedy, _) in zip(PROMPTS, found, strict=True):
        text = list(prompt)
        for token in greedy:
            with torch.no_grad():
                assert int(model(torch.tensor([text])).logits[0, -1].argmax()) == token
            text.append(token)
        assert len(greedy) == 9


def test_an_answer_ends_before_the_end_token() -> None:
    logits = torch.full((4, 4), -1e4)
    logits[1, 2] = logits[2, 3] = logits[3, 0] = logits[0, 1] = 0
    found = continuations(Table(logits), [[1], [3]], samples=2, end=0)
    assert found == [[[2, 3]] * 3, [[]] * 3]


def test_a_seed_repeats_the_samples_and_leaves_the_greedy_answer() -> None:
    model = tiny()
    a, b, c = (
        continuations(model, PROMPTS, samples=5, max_new_tokens=10, seed=s) for s in (1, 1, 2)
    )
    assert a == b != c
    assert [x[0] for x in a] == [x[0] for x in c]


def test_dropout_is_off_and_each_module_is_left_as_it_was() -> None:
    model = tiny(dropout=0.5)
    model.model.layers[0].eval()
    before = [m.training for m in model.modules()]
    assert log_probs(model, PROMPTS) == log_probs(model, PROMPTS)
    assert continuations(model, PROMPTS, samples=1) == continuations(model, PROMPTS, samples=1)
    assert [m.training for m in model.modules()] == before and True in before


def test_log_probabilities_are_taken_in_float32() -> None:
    logits = torch.tensor([[0.0, -30.0], [0.0, -30.0]])
    [[lp]] = log_probs(Table(logits, torch.float16), [[0, 0]])
    assert lp == pytest.approx(-math.exp(-30), abs=1e-9)
    wide = torch.zeros(1, 30_000)
    half = log_probs(Table(wide.expand(30_000, -1)[:3].clone(), torch.float16), [[0, 1]])
    assert half[0][0] == pytest.approx(-math.log(30_000), abs=1e-4)  # 1e-2 off in half precision


def test_batches_hold_no_more_tokens_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny(), [[1 + i % 20] * (2 + i % 9) for i in range(30)]
    whole = log_probs(model, prompts)
    sizes: list[int] = []
    model.register_forward_pre_hook(
        lambda _m, _a, given: sizes.append(given["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr("graftwork_contamination.likelihood.TOKENS", 24)
    for one, other in zip(log_probs(model, prompts), whole, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert max(sizes) <= 24 and len(sizes) > 5
    monkeypatch.setattr("graftwork_contamination.likelihood.TOKENS", 1)  # a long prompt has its own
    assert len(log_probs(model, prompts)[8]) == 9


def test_an_adapter_that_changes_nothing_scores_as_its_base() -> None:
    some, tokens = items(3), Letters()
    model = tiny()
    plain = score(model, tokens, some, SMALL)
    graft = gw.graft(model, gw.LoRA(2), sites=["*.q_proj", "*.v_proj"])
    assert score(model, tokens, some, SMALL) == plain
    stir(graft, 1.0)
    assert score(model, tokens, some, SMALL) != plain
    with graft.off():
        assert score(model, tokens, some, SMALL) == plain


def test_short_prompts_and_empty_answers_are_flagged() -> None:
    logits = torch.full((len(LETTERS), len(LETTERS)), -1e4)
    logits[:, 0] = 0
    found = score(
        Table(logits), Letters(), [Item("a", "clean", "1"), Item("ab", "clean", "2")], SMALL
    )
    assert [s.empty for s in found] == [True, True] and [s.short for s in found] == [True, False]
    assert found[0].perplexity == math.inf and found[0].min_k == -math.inf
    assert [found[0].of(d) for d in ("CDD", "perplexity", "Min-K %")] == [None] * 3
    assert [Score.from_dict(s.as_dict()) for s in found] == found


def test_a_prompt_is_cut_for_perplexity() -> None:
    long = [1 + i % 20 for i in range(30)]
    model = tiny()
    assert log_probs(model, [long], max_tokens=8)[0] == pytest.approx(
        log_probs(model, [long[:8]])[0]
    )


def test_what_cannot_be_scored_is_refused_by_name() -> None:
    broken = Table(torch.full((len(LETTERS), len(LETTERS)), float("nan")))
    with pytest.raises(GraftError, match=r"item seven: .*NaN"):
        score(broken, Letters(), [Item("abc", "clean", "seven")], SMALL)
    with pytest.raises(GraftError, match="NaN"):
        continuations(broken, [[1]])
    with pytest.raises(GraftError, match=r"item long: .*positions"):
        score(tiny(positions=16), Letters(), [Item("abcdefgh", "clean", "long")], SMALL)
    with pytest.raises(GraftError, match="no token"):
        continuations(uniform(), [[]])
    with pytest.raises(GraftError, match="no token"):
        log_probs(uniform(), [[1], []])
    with pytest.raises(GraftError, match="samples"):
        continuations(uniform(), [[1]], samples=0)
    with pytest.raises(GraftError, match="temperature"):
        continuations(uniform(), [[1]], temperature=-1)
