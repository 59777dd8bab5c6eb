"""The `graftwork` command from outside: what it prints, what it loads, how fast and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.cli import VERBS, apps, main
from graftwork.cli.table import size, table
from graftwork.lightning.exits import guarded
from tests.cli.cli_helpers import COMMAND, loaded_by, own_process, refused


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "adapter"
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    graft = gw.graft(model, gw.LoRA(2), sites=["0"], also_train=["2"])
    return gw.save(graft, folder, metrics={"dice": 0.8})


LIGHT = [
    "",
    "--help",
    "--version",
    "methods",
    "methods --json",
    "apps",
    "apps --json",
    "inspect FOLDER",
]
LIGHT += ["inspect FOLDER --json", "completion bash", "merge --help", "demo --help"]


@pytest.mark.parametrize("line", LIGHT)
def test_light_verbs_load_nothing_heavy(line: str, adapter: Path) -> None:
    args = line.replace("FOLDER", str(adapter)).split()
    code = "from graftwork.cli import main; assert not main(sys.argv[1:])"
    assert loaded_by(code, *args) == set()


def test_methods_as_json_are_the_cards(capsys: Any) -> None:
    assert main(["methods", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    keys = ["id", "kind", "changes", "mergeable", "layer_kinds", "parameters", "paper"]
    keys.append("choose")
    assert [list(m) for m in found] == [keys] * len(gw.cards())
    assert {m["id"] for m in found} >= {"lora", "dora", "diablo", "ia3", "bitfit", "norm_affine"}


def test_methods_as_a_table_show_each_once(capsys: Any) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(gw.cards())]] == [
        c["id"] for c in gw.cards()
    ]
    lora = next(line for line in lines if line.startswith("lora "))
    assert " layers " in lora and " yes " in lora
    when = [c["choose"] for c in gw.cards()]
    assert all(when) and len(set(when)) == len(when)
    assert [line.endswith(w) for line, w in zip(lines[1:], when, strict=False)] == [True] * len(
        when
    )


def test_apps_lists_what_is_installed(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["apps", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [a["name"] for a in found] == list(apps.installed())
    assert "medseg" in [a["name"] for a in found]
    assert all({"fit", "demo", "adapt"} <= set(a["verbs"]) for a in found)
    monkeypatch.setattr(apps.metadata, "entry_points", lambda group: ())
    assert main(["apps"]) == 0
    assert "no application is installed" in capsys.readouterr().out


def test_inspect_tells_what_is_in_a_folder(adapter: Path, capsys: Any) -> None:
    assert main(["inspect", str(adapter)]) == 0
    shown = capsys.readouterr().out
    assert "lora (rank=2" in shown and "dice: 0.8" in shown
    assert main(["inspect", str(adapter / "graft.json"), "--json", "--verify"]) == 0
    passport = json.loads(capsys.readouterr().out)
    assert passport["graft"]["also_train"] == [{"name": "2", "kind": "module"}]


def test_inspect_refuses_what_is_no_adapter(tmp_path: Path, adapter: Path, capsys: Any) -> None:
    assert "no such folder" in refused(capsys, "inspect", str(tmp_path / "none"))
    assert "graft.json" in refused(capsys, "inspect", str(tmp_path))


def test_doctor_names_what_is_there(capsys: Any) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and found["faults"] == []
    assert {p["name"] for p in found["packages"]} >= {"torch", "numpy", "safetensors", "lightning"}
    versions = {p["name"]: p["version"] for p in found["packages"]}
    assert versions["torch"] == torch.__version__ or versions["torch"] in torch.__version__
    assert found["devices"][0]["device"] == "cpu" and found["memory"]["total"] > 1e8


def test_doctor_tells_the_remedy(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from graftwork.cli import doctor

    real = doctor._version
    versions = {"torch": "2.1.0", "timm": None}
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, real(name)))
    monkeypatch.setattr(doctor, "_ASK_TORCH", "raise OSError('libcudart is broken')")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "torch: pip install 'torch>=2.11'" in shown
    assert "libcudart is broken" in shown
    assert any("pip install timm" in line for line in shown.splitlines() if line.startswith("timm"))
    assert "to mend:" in shown


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        ("pass", None),
        ("import os; os.kill(os.getpid(), 11)", "train in float32"),
        ("import os; assert 'ONEDNN_MAX_CPU_ISA' in os.environ", "set ONEDNN_MAX_CPU_ISA="),
    ],
    ids=["sound", "crashes", "sound with other kernels"],
)
def test_doctor_tries_convolutions_in_half_precision(
    monkeypatch: pytest.MonkeyPatch, trial: str, said: str | None
) -> None:
    from graftwork.cli import doctor

    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(doctor, "_CONVOLVE", trial)
    advice = doctor.examine()["advice"]
    assert len(advice) == (said is not None)
    assert said is None or said in advice[0]


def test_doctor_in_its_own_process_keeps_torch_out() -> None:
    code = "import sys; from graftwork.cli import main; main(['doctor']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_unknown_verbs_name_the_near_one(capsys: Any) -> None:
    assert "did you mean 'merge'?" in refused(capsys, "merg")
    assert "there are: demo" in refused(capsys, "xyzzy")


@pytest.mark.parametrize(
    "args", [["methods", "--jsn"], ["merge"], ["convert", "a", "b", "--to", "x"]]
)
def test_wrong_options_exit_with_2(args: list[str], capsys: Any) -> None:
    assert main(args) == 2
    shown = capsys.readouterr().err
    assert "usage: graftwork" in shown and "Traceback" not in shown


def test_help_names_every_verb(capsys: Any) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for verb in VERBS:
        assert f"\n  {verb} " in shown
        assert main([verb, "--help"]) == 0
        assert f"usage: graftwork {verb}" in capsys.readouterr().out


def test_an_unforeseen_failure_is_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("graftwork.cli.methods.cards", fail)
    assert main(["methods"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("graftwork: failed: RuntimeError: no luck") and shown.count("\n") == 1
    assert main(["methods", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["methods --json", "--help", "completion"])
def test_a_reader_that_goes_away_is_no_failure(line: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as when `head` has read enough
    done = subprocess.run(
        [*COMMAND, *line.split()], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("after", [0.0, 0.25, 0.5])  # in imports, where libraries may swallow it
def test_ctrl_c_ends_with_130(after: float) -> None:
    run = subprocess.Popen(
        [*COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    run.stdout.readline()
    time.sleep(after)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert errors == "graftwork: interrupted\n"


@pytest.mark.parametrize("error", [RecursionError, ImportError, AttributeError])
def test_an_interrupt_that_a_library_turned_into_its_own_error_is_one(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error("half imported") from None
        return 0

    before = signal.getsignal(signal.SIGINT)
    assert guarded(run, prog="graftwork") == 130
    assert capsys.readouterr().err == "graftwork: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is before

    def fail() -> int:
        raise error("its own")

    assert guarded(fail, prog="graftwork") == 1


def test_completion_offers_verbs_options_and_choices(tmp_path: Path) -> None:
    script = own_process("completion", "bash").stdout
    ask = script + (
        'complete_at() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _graftwork; echo "${COMPREPLY[@]}"; }\n'
        "complete_at graftwork me; complete_at graftwork merge --b; complete_at graftwork convert a b --to p"
    )
    done = subprocess.run(
        ["bash", "-c", ask], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines() == ["methods merge", "--base", "peft"]
    assert "bashcompinit" in own_process("completion", "zsh").stdout


def test_tables_and_sizes_read_well() -> None:
    shown = table(["a", "n"], [["long", "1"], ["b", "22"]], right=[1])
    assert shown.splitlines() == ["a      n", "long   1", "b     22"]
    sizes = [size(n) for n in (0, 999, 1000, 14_345, 2_500_000, 16e9)]
    assert sizes == ["0 B", "999 B", "1 kB", "14.3 kB", "2.5 MB", "16 GB"]
