"""`adapt` with a search is killed in each of its three phases and ends with the same graft, bit for bit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import graftwork as gw
from graftwork_medseg.app import main
from tests.medseg.adapt_kit import TINY, site, tiny_base
from tests.warm import Pool

LEFT = {  # what a kill in a phase has left in the run folder
    "search": {"search/last.ckpt"},
    "refine": {"search/last.ckpt", "search.json"},
    "judge": {"search/last.ckpt", "search.json", "checkpoints/last.ckpt", "graft/graft.json"},
}
FILES = {*LEFT["judge"], "judge.json", "report.html"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base, site, and the run that nobody stopped."""
    folder = tmp_path_factory.mktemp("kills")
    tiny_base(folder / "base.safetensors")
    site(folder / "site", cases=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(words("whole")) == 0
    return folder


def words(run: str) -> list[str]:
    asked = ["--organ=core,shell", "--shots=2", "--budget=5%"]
    return ["adapt", "--data=site", "--base=base.safetensors", *asked, *TINY, f"--run_dir={run}"]


@pytest.mark.parametrize("phase", LEFT)
def test_a_kill_leaves_no_trace(
    whole: Path,
    phase: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    warm: Pool,
) -> None:
    monkeypatch.chdir(whole)
    # a checkpoint after every other step of the search, so that the kill falls between two
    code = (
        "import graftwork_medseg.fewshot.searching as s; s.EVERY = 2\n"
        "import sys; from tests.medseg.adapt_kit import main_killed_at\n"
        "main_killed_at(sys.argv[1], sys.argv[2:])"
    )
    killed = warm("graftwork_medseg.cli").run([sys.executable, "-c", code, phase, *words(phase)])
    assert killed.returncode == -9, killed.stderr[-2000:]
    there = {name for name in FILES if (whole / phase / name).exists()}
    assert there == LEFT[phase]
    # the run folder knows its options
    assert main(["adapt", f"--run_dir={phase}", "--resume"]) == 0
    same = [Path(run, "graft/adapter.safetensors").read_bytes() for run in ("whole", phase)]
    assert same[0] == same[1]
    first, second = (json.loads(Path(run, "search.json").read_text()) for run in ("whole", phase))
    for record in (first, second):  # clocks apart
        record.pop("seconds"), record.pop("share_in_audits")
    assert first == second
    scores = [json.loads(Path(run, "judge.json").read_text()) for run in ("whole", phase)]
    assert scores[0] == scores[1] and len(scores[0]) == 3
    stated = [gw.inspect(f"{run}/graft")["metrics"]["verdict"] for run in ("whole", phase)]
    assert stated[0] == stated[1]
    # finished is finished: resuming again changes nothing, and another search is not mixed in
    if phase == "judge":
        assert main(["adapt", f"--run_dir={phase}", "--resume"]) == 0
        assert Path(phase, "graft/adapter.safetensors").read_bytes() == same[0]
        capsys.readouterr()
        assert main(["adapt", f"--run_dir={phase}", "--resume", "--budget=6%"]) == 2
        assert "search.json: written by a search with another budget" in capsys.readouterr().err
