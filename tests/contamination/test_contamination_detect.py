"""Two groups against each other: what is memorised is found, what is not is not, and bad items are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contamination_kit import LETTERS, Letters, Table, items, tiny

import graftwork as gw
from graftwork import GraftError
from graftwork_contamination import Item, Parameters, detect
from graftwork_contamination.detection import NOTHING_FOUND, UNREFERENCED, Scored
from graftwork_contamination.items import check_items

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = Parameters(samples=6, max_new_tokens=10, l_max=10, rows=64, resamples=400)


def learnt(model: Any, graft: Any, texts: list[str], steps: int) -> None:
    """Train a graft on texts until it knows them."""
    optimizer = torch.optim.Adam(graft.parameters(), 3e-2)
    rows = [torch.tensor([Letters()(t)["input_ids"]]) for t in texts]
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(model(r, labels=r).loss for r in rows) / len(rows)
        loss.backward()
        optimizer.step()


def test_what_a_graft_has_memorised_is_found_by_comparison_with_its_base() -> None:
    some = items(8)
    model = tiny(seed=3)
    graft = gw.graft(model, gw.LoRA(8), sites=["*_proj"])
    before = detect(model, Letters(), some, SMALL, graft=graft)
    assert before.verdict == NOTHING_FOUND
    assert all(f.auc is not None and f.auc.value == 0.5 for f in before.findings if f.minus_base)
    answers = [f"{i.prompt} {'xyz'[k % 3] * 9}" for k, i in enumerate(some[:8])]
    learnt(model, graft, answers, 30)
    told: list[Scored] = []
    after = detect(model, Letters(), some, SMALL, graft=graft, training=answers, keep=told.append)
    assert after.verdict.startswith("memorisation found by") and "Min-K %" in after.verdict
    for name in ("perplexity", "Min-K %"):
        found = after.find(name, minus_base=True)
        assert found.auc is not None and found.auc.value > 0.95 and found.p is not None
        assert found.p < 0.01 and found.held_out is not None and found.held_out.balanced > 0.8
    assert len(told) == 16 and [Scored.from_dict(t.as_dict()) for t in told] == told
    again = detect(model, Letters(), some, SMALL, graft=graft, training=answers, known=told[:11])
    assert again == after
    assert after.as_dict()["parameters"] == SMALL.as_dict()
    shown = after.table()
    assert "Min-K %, minus base" in shown and "n-gram overlap" in shown and after.verdict in shown


def test_a_reference_model_stands_for_the_base_of_full_fine_tuning() -> None:
    some, model = items(4), tiny()
    found = detect(model, Letters(), some, SMALL, reference=tiny())
    assert found.verdict == NOTHING_FOUND and found.find("perplexity", True).p == 1
    bare = detect(model, Letters(), some, SMALL)
    assert UNREFERENCED in bare.notes and len(bare.findings) == 3
    graft = gw.graft(model, gw.LoRA(2), sites=["*.q_proj"])
    with pytest.raises(GraftError, match="reference"):
        detect(model, Letters(), some, SMALL, graft=graft, reference=tiny())


def test_exchangeable_groups_are_accepted_at_the_level() -> None:
    draw = torch.Generator().manual_seed(0)
    model = Table(torch.randn(len(LETTERS), len(LETTERS), generator=draw))
    told = Parameters(samples=2, max_new_tokens=6, rows=512, resamples=199)
    false = 0
    for _ in range(40):
        ids = torch.randint(1, 27, (20, 12), generator=draw).tolist()
        texts = ["".join(LETTERS[t] for t in row) for row in ids]
        some = [Item(t, "suspected" if i < 10 else "clean", str(i)) for i, t in enumerate(texts)]
        false += detect(model, Letters(), some, told).verdict != NOTHING_FOUND
    # 40 gates at 5 %: 2 expected, standard deviation 1.4
    assert false <= 8


def test_empty_answers_are_no_evidence_for_cdd() -> None:
    logits = torch.zeros(len(LETTERS), len(LETTERS))
    logits[:, 0] = 1e4
    found = detect(Table(logits), Letters(), items(3), SMALL)
    cdd = found.find("CDD")
    assert cdd.auc is None and cdd.left_out == 6 and "no evidence" in cdd.note
    assert found.find("perplexity").auc is not None
    assert any("CDD" in n for n in found.notes) and "all answers are empty" in found.table()


def test_nothing_testable_is_said_so() -> None:
    logits = torch.zeros(len(LETTERS), len(LETTERS))
    logits[:, 0] = 1e4
    some = [Item("a", "suspected", "1"), Item("b", "clean", "2")]
    assert detect(Table(logits), Letters(), some, SMALL).verdict.startswith("not testable")


def test_a_test_that_cannot_reach_its_bar_says_so() -> None:
    told = Parameters(samples=2, max_new_tokens=4, resamples=20)
    assert any("take more" in n for n in detect(tiny(), Letters(), items(2), told).notes)


def pair(**more: Any) -> list[Item]:
    return [Item("what is it?", "suspected", "1", **more), Item("and this one?", "clean", "2")]


@pytest.mark.parametrize(
    ("some", "training", "named"),
    [
        ([], None, "'suspected' is empty"),
        (pair()[:1], None, "'clean' is empty"),
        (pair()[1:], None, "'suspected' is empty"),
        ([*pair(), Item(" ", "clean", "3")], None, "item 3: the prompt is empty"),
        ([*pair(), Item("x", "dirty", "3")], None, "item 3: group 'dirty'"),
        ([*pair(), Item("x", "clean", "1")], None, "item 1: the id is there twice"),
        ([*pair(), Item("What  is it?", "clean", "3")], None, "item 3: has the prompt of item 1"),
        (pair(answer="it?"), None, "item 1: the prompt holds its answer"),
        ([*pair(), Item("so a b c d e", "clean", "3", "b c d")], None, "item 3: the prompt holds"),
        (pair(), ["... And this ONE? yes"], "item 2: is clean, yet"),
    ],
)
def test_items_that_make_scores_meaningless_are_refused(
    some: list[Item], training: list[str] | None, named: str
) -> None:
    with pytest.raises(GraftError, match=named):
        check_items(some, training)
    with pytest.raises(GraftError, match=named):
        detect(tiny(), Letters(), some, SMALL, training=training)


def test_what_only_looks_like_that_is_accepted() -> None:
    check_items([Item("how many are 12 and 3?", "suspected", "1", "12"), pair()[1]], ["this one?"])
