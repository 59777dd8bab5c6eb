"""Loss, batches, answers and every arm's training, on a tiny model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from trees_kit import tiny_model, tokenizer

from benchmarks.trees import arms, decode, training
from benchmarks.trees.arms import ARMS, OURS, PEFT, TWINS
from benchmarks.trees.steps import FLOOR, variants
from benchmarks.trees.text import draws, encode, waste
from benchmarks.trees.training import Plan
from graftwork import GraftError
from graftwork.errors import NotFiniteError
from graftwork_llm.batches import Example, collate
from tests.core.core_helpers import stir

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers and peft warn of themselves

PROMPTS = ("open it", "put the red can on the table and go away", "go", "take the small cup")


@pytest.fixture(name="words", scope="module")
def fixture_words() -> Any:
    return tokenizer()


def adapted(library: str, name: str) -> Any:
    """An arm on the tiny model, away from its start."""
    ready = arms.adapt(tiny_model(), library, name, 1e-3, 0, 4)
    if ready.graft is not None:
        stir(ready.graft, 0.05)
    else:
        with torch.no_grad():
            for p in ready.model.parameters():
                if p.requires_grad:
                    p.add_(0.05 * torch.randn_like(p))
    return ready


def test_the_loss_is_the_models_own_where_answers_are_equally_long(words: Any) -> None:
    examples = [encode(words, p, a) for p, a in zip(PROMPTS, ("GO(ab)",) * 4, strict=True)]
    batch = collate(examples, words.pad_token_id, "cpu")
    net = tiny_model()
    labels = torch.full_like(batch.ids, -100)
    labels.view(-1)[batch.places + 1] = batch.targets
    own = net(input_ids=batch.ids, attention_mask=batch.mask, labels=labels).loss
    torch.testing.assert_close(training.loss_of(net, batch), own)
    alone = [training.loss_of(net, collate([e], words.pad_token_id, "cpu")) for e in examples]
    torch.testing.assert_close(sum(alone) / 4, own)  # padding changes nothing


def test_an_examples_share_in_the_loss_does_not_depend_on_its_length(words: Any) -> None:
    pair = [encode(words, "go", "GO(a)"), encode(words, "go there", "Sequence(GO(there), STOP())")]
    both = collate(pair, words.pad_token_id, "cpu")
    net = tiny_model()
    one, two = (training.loss_of(net, collate([e], words.pad_token_id, "cpu")) for e in pair)
    torch.testing.assert_close(training.loss_of(net, both), (one + two) / 2)


def test_only_the_answers_tokens_are_targets(words: Any) -> None:
    example = encode(words, "go", "GO(a)")
    batch = collate([example, encode(words, "go there", "STOP()")], words.pad_token_id, "cpu")
    kept = batch.targets[batch.rows == 0].tolist()
    assert words.decode(kept) == "GO(a)</s>" and kept == list(example.answer)
    assert batch.places[0] == len(example.prompt) - 1
    assert batch.ends == (len(example.prompt), len(example.prompt) + len(" there"))
    assert words.decode(example.prompt).endswith("user:go</s><s>")


def test_batches_are_full_and_waste_little() -> None:
    lengths = [10 + (7 * i) % 50 for i in range(100)]
    found = list(draws(lengths, 8, 40, seed=0))
    assert all(len(batch) == 8 for batch in found) and found == list(draws(lengths, 8, 40, seed=0))
    assert found != list(draws(lengths, 8, 40, seed=1))
    counts = [sum(i in batch for batch in found) for i in range(100)]
    assert min(counts) >= 2 and max(counts) <= 5
    assert waste(lengths, found) < 0.5 * waste(lengths, [list(range(i, i + 8)) for i in range(90)])


@pytest.mark.parametrize(
    ("library", "name"), [*((OURS, n) for n in ARMS), *((PEFT, n) for n in TWINS)]
)
def test_answers_in_a_batch_are_those_one_by_one(words: Any, library: str, name: str) -> None:
    ready = adapted(library, name)
    examples = [encode(words, p) for p in PROMPTS]
    how: dict[str, Any] = {"most": 12, "device": "cpu"}
    together = decode.answers(ready.model, words, examples, rows=4, **how)
    pairs = decode.answers(ready.model, words, examples, rows=3, **how)
    alone = [decode.answers(ready.model, words, [e], rows=1, **how)[0] for e in examples]
    assert together == alone == pairs
    assert len(set(together)) > 1
    # the adapter acts on what is answered
    assert together != decode.answers(tiny_model(), words, examples, rows=4, **how)
    # without a cache, each token from the whole text again
    text = list(examples[0].prompt)
    net = training.causal(ready.model)
    with torch.no_grad():
        for _ in range(12):
            batch = collate([Example(tuple(text), (0,))], words.pad_token_id, "cpu")
            token = int(training.picked_logits(net, batch).argmax())
            if token == words.eos_token_id:
                break
            text.append(token)
            if name == "LoReFT":
                break  # what follows is an answer, which the prompt's end says
    begun = words.decode(text[len(examples[0].prompt) :])
    assert together[0].startswith(begun) and (name == "LoReFT" or together[0] == begun)


@pytest.mark.parametrize("name", ["LoRA", "LoReFT", "LoRA-SP"])
def test_what_is_forced_is_what_would_be_generated(words: Any, name: str) -> None:
    ready = adapted(OURS, name)
    prompts = [encode(words, p) for p in PROMPTS]
    end = words.eos_token_id
    said = decode.greedy(ready.model, end, prompts, most=6, rows=4, device="cpu")
    own = [
        Example(p.prompt, (*t, *[end] * (len(t) < 6))) for p, t in zip(prompts, said, strict=True)
    ]
    other = [Example(e.prompt, (*e.answer[:-1], (e.answer[-1] + 1) % 258)) for e in own]
    how: dict[str, Any] = {"pad": words.pad_token_id, "rows": 3, "device": "cpu"}
    right, loss = decode.forced(ready.model, own, **how)
    wrong, more = decode.forced(ready.model, other, **how)
    assert (right, wrong) == (1.0, 0.0) and loss < more
    assert decode.forced(ready.model, [*own, *other], **how)[0] == 0.5


@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_learns_and_leaves_the_base(words: Any, name: str) -> None:
    base = tiny_model()
    before = {k: v.clone() for k, v in base.state_dict().items()}
    middle = 1e-2 if name not in ("LoFT", "LoRA+") else 3e-3
    ready = arms.adapt(base, OURS, name, middle, 0, 4)
    examples = [encode(words, p, f"GO({p[:2]})") for p in PROMPTS]
    plan, how = Plan(30, 4, 2), {"pad": words.pad_token_id, "device": "cpu"}
    _, first = decode.forced(ready.model, examples, rows=4, **how)
    trace = training.fit(
        ready.model, ready.optimizer, examples, plan, seed=0, gast=ready.gast, **how
    )
    _, last = decode.forced(ready.model, examples, rows=4, **how)
    assert last < 0.9 * first and len(trace.losses) == 3
    assert ready.trained == sum(p.numel() for p in base.parameters() if p.requires_grad) > 0
    assert ready.file_size() > 3 * ready.trained
    assert ready.graft is not None
    ready.graft.remove()
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())


@pytest.mark.parametrize("name", list(ARMS))
def test_a_base_in_half_precision_gets_float32_factors(words: Any, name: str) -> None:
    base = tiny_model().to(torch.bfloat16)
    ready = arms.adapt(base, OURS, name, 1e-3, 0, 4)
    examples = [encode(words, p, "GO(a)") for p in PROMPTS]
    how: dict[str, Any] = {"pad": words.pad_token_id, "device": "cpu"}
    training.fit(
        ready.model, ready.optimizer, examples, Plan(2, 4, 2), seed=0, gast=ready.gast, **how
    )
    assert ready.graft is not None
    assert {p.dtype for p in ready.graft.parameters()} == {torch.float32}
    assert len(decode.answers(ready.model, words, examples, most=3, rows=4, device="cpu")) == 4
    with ready.graft.off(), torch.no_grad():
        ids = collate(examples, **how).ids
        assert torch.equal(base(ids).logits, tiny_model().to(torch.bfloat16)(ids).logits)


def test_a_training_without_a_finite_loss_is_said(words: Any) -> None:
    ready = arms.adapt(tiny_model(), OURS, "LoRA", 1e30, 0, 2)
    examples = [encode(words, p, "GO(a)") for p in PROMPTS]
    with pytest.raises(NotFiniteError, match="the loss is nan at step"):
        training.fit(
            ready.model, ready.optimizer, examples, Plan(12, 2, 2), seed=0,
            pad=words.pad_token_id, device="cpu",
        )  # fmt: skip


def test_unknown_arms_are_refused() -> None:
    for library, name in ((OURS, "None"), (PEFT, "GOAT")):
        with pytest.raises(GraftError, match=f"{library} {name}: no such arm"):
            arms.adapt(tiny_model(), library, name, 1e-3, 0, 2)


def test_the_floor_and_every_arm_have_a_step(words: Any) -> None:
    batch = collate([encode(words, p, "GO(a)") for p in PROMPTS], words.pad_token_id, "cpu")
    base = tiny_model()
    built = variants(base, batch, batch)
    assert next(iter(built)) == FLOOR and set(ARMS) < set(built) and "DoRA, peft" in built
    for name in (FLOOR, "LoRA", "GAST", "LoRA, peft"):
        step = built[name]()
        step()
        step()
    assert not any(p.requires_grad for p in base.parameters())
