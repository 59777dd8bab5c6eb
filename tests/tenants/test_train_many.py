"""`graftwork train-many`: many jobs on one backbone, each as if its own app had trained it."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import manyapp.app
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import graftwork as gw
from graftwork.cli import main
from graftwork.lightning.app import App
from graftwork.lightning.many import built, run
from graftwork.tenants.layouts import LAYOUTS
from graftwork_runs.many import report
from tests.train_many_kit import alone

APPS = {"manyapp": manyapp.app.app}


@pytest.fixture(autouse=True)
def in_its_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with alone(monkeypatch, tmp_path, report, APPS):
        yield


def jobs_file(jobs: list[dict[str, Any]], **top: Any) -> str:
    Path("jobs.yaml").write_text(yaml.safe_dump({**top, "jobs": jobs}))
    return "jobs.yaml"


def job(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "app": "manyapp", **({"set": fields} if fields else {})}


THREE = [
    job("short"),
    job(
        "long",
        **{
            "data.longest": 40,
            "data.seed": 3,
            "seed_everything": 5,
            "graft.rank": 3,
            "trainer.accumulate_grad_batches": 2,
            "trainer.gradient_clip_val": 0.1,
            "model.noise": 0.3,
        },
    ),
    job(
        "other",
        **{
            "graft": {"class_path": "graftwork.IA3"},
            "trainer.max_steps": 3,
            "lr_scheduler": {
                "class_path": "torch.optim.lr_scheduler.LinearLR",
                "init_args": {"total_iters": 3},
            },
        },
    ),
]


def tensors(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def refused(text: str, capsys: pytest.CaptureFixture[str], *more: str) -> None:
    assert main(["train-many", "jobs.yaml", *more]) == 2
    assert text in capsys.readouterr().err
    assert not list(Path().glob("runs/many/*/*/graft"))


def said(name: str) -> dict[str, Any]:
    told = json.loads(Path("runs/many/jobs/many.json").read_text())
    return next(j for j in told["jobs"] if j["name"] == name)


@pytest.mark.parametrize("layout", ["padded", "chunked", "packed", "planned"])
def test_each_job_is_what_its_own_app_makes_of_it(layout: str) -> None:
    assert main(["train-many", jobs_file(THREE, layout=layout, chunk=8), "--quiet"]) == 0
    for one in THREE:
        name, settings = one["name"], one.get("set", {})
        words = [
            f"--{k}={json.dumps(v) if not isinstance(v, str) else v}" for k, v in settings.items()
        ]
        assert manyapp.app.main(["fit", "--run_dir", f"solo/{name}", "--quiet", *words]) == 0
        mine = tensors(Path("runs/many/jobs") / name / "graft")
        solo = tensors(Path("solo") / name / "graft")
        assert mine.keys() == solo.keys()
        # the noise is drawn from another place of the global generator than Lightning's
        if "model.noise" in settings:
            continue
        for key, value in solo.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-7, atol=1e-9)
        curve = said(name)["curve"]
        assert [s for s, _ in curve] == list(range(1, settings.get("trainer.max_steps", 4) + 1))


def test_a_run_leaves_folders_a_report_and_what_it_knew(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-many", jobs_file(THREE, memory="1 GiB")]) == 0
    out = capsys.readouterr().out
    assert "plan: " in out
    assert "cost model: time off by" in out
    folder = Path("runs/many/jobs")
    told = json.loads((folder / "many.json").read_text())
    assert sorted(n for g in told["groups"] for n in g) == ["long", "other", "short"]
    assert told["plans"]["planned"]["seconds"] <= told["plans"]["all alone"]["seconds"] * (1 + 1e-9)
    assert {r["layout"] for r in told["runs"]} == {*LAYOUTS} == {*told["cost"]["own"]}
    assert len(told["layouts"]) == len(told["groups"])
    assert told["measured round"] > 0
    assert told["predicted round"] > 0
    assert told["cap"] == 2**30
    assert 0 <= told["waste"]["all together"]["taken"] <= told["waste"]["all together"]["padded"]
    assert told["waste"]["all together"]["padded"] > 0
    html = (folder / "report.html").read_text()
    for word in ("short", "long", "other", "Training loss", "all together", "packed"):
        assert word in html
    for name in ("short", "long", "other"):
        assert said(name)["status"] == "done"
        assert gw.inspect(folder / name / "graft")["graft"]["method"]["id"] in ("lora", "ia3")
        assert "max_steps" in (folder / name / "config.yaml").read_text()
    # and it does not run over it
    assert main(["train-many", "jobs.yaml"]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_a_job_that_fails_leaves_the_others_as_they_were() -> None:
    good = [job("a"), job("b", **{"data.seed": 1})]
    assert main(["train-many", jobs_file(good, run_dir="good", layout="padded"), "--quiet"]) == 0
    bad = [*good, job("nan", **{"model.kind": "nan"}), job("file", **{"data.breaks": 3})]
    assert main(["train-many", jobs_file(bad, run_dir="bad", layout="padded"), "--quiet"]) == 1
    told = json.loads(Path("bad/many.json").read_text())
    status = {j["name"]: j["status"] for j in told["jobs"]}
    assert status == {"a": "done", "b": "done", "nan": "failed", "file": "failed"}
    assert "the file is broken" in told["jobs"][3]["failures"][0]
    assert "loss is nan" in told["jobs"][2]["failures"][0]
    for name in ("a", "b"):
        for key, value in tensors(Path("good") / name / "graft").items():
            torch.testing.assert_close(
                tensors(Path("bad") / name / "graft")[key], value, rtol=1e-7, atol=1e-9
            )


def stopped(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], None]:
    """Press Ctrl-C while round `after` runs."""
    board = run.Board
    show = board.show

    def pressing(self: Any, runner: Any) -> None:
        show(self, runner)
        if runner.rounds == after:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(board, "show", pressing)
    return lambda: monkeypatch.setattr(board, "show", show)


def test_a_killed_run_goes_on_from_its_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    file = jobs_file(THREE, run_dir="parts", layout="padded", checkpoint_every=2)

    class Killed(BaseException):
        pass

    def dying(self: Any, runner: Any) -> None:
        if runner.rounds == 3:
            raise Killed

    show = run.Board.show
    monkeypatch.setattr(run.Board, "show", dying)
    with pytest.raises(Killed):
        main(["train-many", file, "--quiet"])
    monkeypatch.setattr(run.Board, "show", show)
    assert said_in("parts", "short")["status"] == "running"
    assert main(["train-many", file, "--quiet", "--resume"]) == 0
    jobs_file(THREE, run_dir="whole", layout="padded")
    assert main(["train-many", file, "--quiet"]) == 0
    for one in THREE:
        whole, parts = (tensors(Path(f) / one["name"] / "graft") for f in ("whole", "parts"))
        for key, value in whole.items():
            torch.testing.assert_close(parts[key], value, rtol=1e-9, atol=1e-12)


def test_the_table_has_a_row_for_each_job() -> None:
    from rich.console import Console

    from graftwork.lightning.many.table import Board

    class Runner:
        rounds = 7

        def table(self) -> list[dict[str, Any]]:
            row = {"method": "lora", "rows": 9, "failures": 0, "step": 3, "loss": 0.5}
            return [
                {**row, "name": "a", "status": "running"},
                {**row, "name": "b", "status": "failed", "loss": None, "failures": 2},
            ]

    for terminal in (True, False):
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=120)
        with Board({"a": 5, "b": 5}, console=console) as board:
            board._said -= 60
            board.show(Runner())  # type: ignore[arg-type]
        for word in ("a", "3/5", "0.5", "b", "failed", "round 7"):
            assert word in text.getvalue()
    text = io.StringIO()
    with Board({}, quiet=True, console=Console(file=text, force_terminal=True)) as board:
        board.show(Runner())  # type: ignore[arg-type]
    assert text.getvalue() == ""


@pytest.mark.parametrize("after", [1, 3])
def test_after_ctrl_c_all_jobs_go_on_exactly(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    file = jobs_file(THREE, run_dir="whole", layout="padded")
    assert main(["train-many", file, "--quiet"]) == 0
    jobs_file(THREE, run_dir="parts", layout="padded")
    undo = stopped(monkeypatch, after)
    # the same plan, whatever the machine's timings were
    Path("whole/many.json").rename("kept.json")
    assert main(["train-many", file, "--quiet"]) == 130
    undo()
    assert said_in("parts", "short")["step"] == after
    assert main(["train-many", file, "--quiet", "--resume"]) == 0
    for one in THREE:
        whole, parts = (tensors(Path(f) / one["name"] / "graft") for f in ("whole", "parts"))
        for key, value in whole.items():
            torch.testing.assert_close(parts[key], value, rtol=1e-9, atol=1e-12)
        assert said_in("parts", one["name"])["status"] == "done"
    curve = json.loads(Path("kept.json").read_text())["jobs"][1]["curve"]
    found = said_in("parts", "long")["curve"]
    assert [s for s, _ in found] == [s for s, _ in curve]
    torch.testing.assert_close(
        torch.tensor([v for _, v in found]), torch.tensor([v for _, v in curve])
    )


def said_in(folder: str, name: str) -> dict[str, Any]:
    told = json.loads((Path(folder) / "many.json").read_text())
    return next(j for j in told["jobs"] if j["name"] == name)


BAD = {
    "two jobs are called 'a'": [job("a"), job("a")],
    "job 'b': its base is not that of 'a'": [job("a"), job("b", **{"model.base": 1})],
    "job 'b': its tokenizer is not that of 'a'": [job("a"), job("b", **{"data.words": 1})],
    "job 'b': no app 'medseq' is installed": [job("a"), {"name": "b", "app": "medseq"}],
    "job 'b': config nowhere.yaml": [job("a"), {**job("b"), "config": "nowhere.yaml"}],
    "job 'b': data.count must be at least 1": [job("a"), job("b", **{"data.count": 0})],
    "job 'b': ": [job("a"), job("b", **{"data.colour": 3})],
    "job 'b': trainer.precision": [job("a"), job("b", **{"trainer.precision": "bf16-true"})],
    "job 'b': trainer.precision is bf16-mixed, that of 'a' 32-true": [
        job("a"),
        job("b", **{"trainer.precision": "bf16-mixed"}),
    ],
    "job 'b': trainer.limit_train_batches": [
        job("a"),
        job("b", **{"trainer.limit_train_batches": 1}),
    ],
    "job 'b': its network computes the loss": [job("a"), job("b", **{"model.kind": "labels"})],
    "job 'b': its training_step does not call its network": [
        job("a"),
        job("b", **{"model.kind": "never"}),
    ],
    "job 'b': Writer has parameters outside its network": [
        job("a"),
        job("b", **{"model.kind": "outside"}),
    ],
    "job 'b': a sequence of 70 tokens is above the 64 positions": [
        job("a"),
        job("b", **{"data.shortest": 70, "data.longest": 70}),
    ],
    "job 'b': trainer.max_steps or trainer.max_epochs": [
        job("a"),
        job("b", **{"trainer.max_steps": -1}),
    ],
    "job 'b': graft: it has none": [job("a"), job("b", graft=None)],
    "jobs[0]: name is missing": [{"app": "manyapp"}],
    "jobs[0]: unknown field 'colour'": [{**job("a"), "colour": 1}],
    "jobs[0]: priority must be a whole number": [{**job("a"), "priority": 0}],
    "jobs[0]: name 'a/b'": [job("a/b")],
    "jobs[0]: a job is a mapping": ["a"],
    "jobs[0]: set: give": [{**job("a"), "set": [1]}],
    "list one or more jobs": [],
}


@pytest.mark.parametrize("text", BAD)
def test_bad_jobs_are_refused_by_name(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    jobs_file(BAD[text])
    refused(text, capsys)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"memory": "1 KB"}, "memory: 1,000 bytes are under the"),
        ({"memory": "much"}, "memory: 'much' is no size"),
        ({"layout": "chunked", "chunk": 65}, "chunk: 65 tokens are above the 64 positions"),
        ({"chunk": 0}, "chunk must be a whole number"),
        ({"layout": "tight"}, "layout: 'tight' is none of"),
        ({"fairness": 0}, "fairness must lie in"),
        ({"checkpoint_every": 0}, "checkpoint_every must be"),
        ({"record": "yes"}, "record must be true or false, not 'yes'"),
        ({"colour": 1}, "unknown field 'colour'"),
    ],
)
def test_bad_settings_are_refused(
    fields: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs_file([job("a"), job("b")], **fields)
    refused(text, capsys)


def test_a_cap_that_holds_no_job_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    jobs_file([job("a"), job("b")], memory="1 GiB")
    assert main(["train-many", "jobs.yaml", "--check"]) == 0
    assert not Path("runs").exists()
    plan = built.build(run_jobs())
    jobs_file([job("a"), job("b")], memory=plan.backbone + 100)
    refused("'a', 'b' even alone", capsys)


def run_jobs() -> Any:
    from graftwork.lightning.many.jobs import read

    return read("jobs.yaml")


def test_a_step_that_calls_its_network_twice_fails_alone() -> None:
    jobs = [job("a"), job("b", **{"model.kind": "twice"})]
    assert main(["train-many", jobs_file(jobs), "--quiet"]) == 1
    assert said("a")["status"] == "done"
    assert "more than once" in said("b")["failures"][0]


def test_priorities_are_turns() -> None:
    jobs = [{**job("a"), "priority": 2}, job("b")]
    assert main(["train-many", jobs_file(jobs, fairness=1.0), "--quiet"]) == 0
    assert said("a")["status"] == said("b")["status"] == "done"


def test_resume_needs_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    jobs_file([job("a")])
    refused("resume: runs/many/jobs/state.pt does not exist", capsys, "--resume")


def test_the_report_is_an_entry_point_of_its_distribution() -> None:
    file = Path(gw.__file__).parents[3] / "packages/runs/pyproject.toml"
    project = tomllib.loads(file.read_text())["project"]
    assert project["entry-points"][run.REPORTS] == {"many": "graftwork_runs.many:report"}
    assert App is type(manyapp.app.app)


def test_the_file_is_read_without_torch() -> None:
    code = (
        "import sys; from graftwork.cli import main; main(['train-many', 'nowhere.yaml']);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"config nowhere.yaml" in done.stderr
