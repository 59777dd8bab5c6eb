"""The verbs that need a model, through the command line: run folders, generation that goes on, bad bases and data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from graftwork_llm.tiny import tiny
from graftwork_maritime import NOTICE
from graftwork_maritime.app import main
from graftwork_maritime.dialogues import read
from graftwork_runs import validate_record

QUICK = ["--data.train", "2", "--data.val", "1", "--data.test", "2", "--data.batch_size", "2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_graft_is_trained_measured_and_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--run_dir", "a", "--trainer.max_steps", "1", *QUICK]) == 0
    record = validate_record(Path("a/record.json"))
    assert record.details["data"]["form"] == "paper" and NOTICE in record.notes
    card = json.loads(Path("a/graft/graft.json").read_text())
    assert card["app"]["maritime"] == {"base": "tiny", "form": "paper", "notice": NOTICE}
    assert main(["predict", "--run_dir", "p", "--adapter", "a/graft", *QUICK]) == 0
    losses = [json.loads(line) for line in Path("p/predictions.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and all(line["loss"] > 0 for line in losses)
    capsys.readouterr()
    args = ["generate", "--adapter", "a/graft", "--count", "3", "--most", "4", "--batch", "2"]
    assert main([*args, "--output", "d.jsonl", "--run_dir", "g"]) == 0
    whole = Path("d.jsonl").read_bytes()
    Path("d.jsonl").write_bytes(whole[:-30])
    assert main([*args, "--output", "d.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "2 of 3 dialogues are there already" in out and NOTICE in out
    assert Path("d.jsonl").read_bytes() == whole
    found = list(read("d.jsonl"))
    assert len(found) == 3 and all(len(str(d.provenance["adapter"])) == 64 for d in found)
    assert main([*args, "--output", "d.jsonl", "--seed", "1"]) == 2
    assert "written with another seed" in capsys.readouterr().err
    assert main(["check", "d.jsonl", "--filters", "paper,house,grammar"]) == 0


def test_a_folder_without_a_tokenizer_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny(width=32, layers=1)[0].save_pretrained(tmp_path / "base")
    capsys.readouterr()
    assert main(["generate", "--model.base", str(tmp_path / "base")]) == 2
    error = capsys.readouterr().err
    assert "holds no tokenizer" in error and "save_pretrained" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["generate", "--preset", "sunday"], "preset 'sunday'"),
        (["generate", "--scenarios", "none.jsonl"], "none.jsonl: No such file"),
        (["generate", "--temperature", "-1"], "temperature -1.0"),
        (["fit", "--config", "folder", "--data.path", "."], "holds no train.jsonl"),
        (["fit", "--data.longest", "9"], "data.longest is 9"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input(args: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    assert reason in capsys.readouterr().err


def test_training_on_a_folder_needs_neither_parser_nor_land_mask() -> None:
    code = (
        "import sys; sys.modules.update(lark=None, global_land_mask=None, searoute=None)\n"
        "import graftwork_maritime.cli, graftwork_maritime.model.generate\n"
        "assert 'graftwork_maritime.grammar' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_verb_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for verb in (
        "fit",
        "generate",
        "bootstrap",
        "scenario",
        "compose",
        "check",
        "stats",
        "serve",
        "demo",
        "say",
    ):
        assert f"\n  {verb} " in said
