"""The command line every app shares, on a complete app of a few lines."""

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
import yaml
from lightning.pytorch import Trainer
from safetensors import safe_open
from tinyapp.app import app
from tinyapp.cli import Classifier, PointData

from graftwork.errors import GraftError
from graftwork.lightning import app as light
from graftwork.lightning import configs
from graftwork.lightning.checkpoint_io import load_checkpoint
from graftwork.lightning.staying import staying
from tests.cli.cli_helpers import before_torch, loaded_by

HERE = Path(__file__).parent
ENV = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*args: str) -> int:
    return app.main(list(args))


# -- light verbs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["config", "list"], []])
def test_light_verbs_import_nothing_heavy(args: list[str]) -> None:
    code = "from tinyapp.app import main; assert not main(sys.argv[1:])"
    assert loaded_by(code, *args, env=ENV) == {"tinyapp"}


def test_the_first_line_of_a_verb_comes_before_heavy_imports() -> None:
    first, *_ = before_torch("tinyapp.app", "count", env=ENV)
    assert first.startswith("tinyapp ") and "count: Count to a number." in first


def test_unknown_verbs_have_near_misses(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fti") == 2
    assert capsys.readouterr().err == "tinyapp: error: no verb 'fti'; did you mean 'fit'?\n"


def test_shipped_configs_are_listed_copied_and_found_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("config", "list") == 0
    assert capsys.readouterr().out.split("\n")[0].split(maxsplit=1) == [
        "default",
        "Random points, two epochs",
    ]
    assert call("config", "copy", "short", "mine.yaml") == 0
    assert yaml.safe_load(Path("mine.yaml").read_text()) == {"trainer": {"max_epochs": 1}}
    assert call("config", "copy", "short", "mine.yaml") == 2
    assert "exists already" in capsys.readouterr().err
    assert call("config", "copy", "none") == 2
    assert call("config", "frobnicate") == 2
    (name,) = configs.resolve_names(app, ["--config=short"])
    assert name.endswith("short.yaml")


def test_apps_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = light.metadata.EntryPoint("tinyapp", "tinyapp.app:app", light.GROUP)
    monkeypatch.setattr(light.metadata, "entry_points", lambda group: [entry])
    assert light.apps() == {"tinyapp": app}
    wrong = light.metadata.EntryPoint("x", "tinyapp.app:main", light.GROUP)
    monkeypatch.setattr(light.metadata, "entry_points", lambda group: [wrong])
    with pytest.raises(GraftError, match="is not an App"):
        light.apps()


# -- verbs -------------------------------------------------------------------------------------------


def test_fit_then_each_verb_with_its_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        call(
            "fit",
            "--config",
            "short",
            "--graft",
            "graftwork.DiaBlo",
            "--graft.blocks",
            "2",
            "--sites",
            "0",
        )
        == 0
    )
    folder = Path("runs/tinyapp/fit")
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert (
        saved["graft"]["class_path"] == "graftwork.DiaBlo" and saved["trainer"]["max_epochs"] == 1
    )
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "checkpoints",
        "graft",
        "metrics.csv",
        "tensorboard",
    }
    assert list((folder / "tensorboard").glob("events.*"))
    adapter = str(folder / "graft")
    for verb in ("validate", "test", "predict", "export"):
        assert call(verb, "--adapter", adapter) == 0
    assert (
        call("export", "--adapter", adapter, "--merged", "true", "--output", "whole.safetensors")
        == 0
    )
    with safe_open("whole.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    # the saved config is a config
    assert call("fit", "--config", str(folder / "config.yaml")) == 0
    assert (Path("runs/tinyapp/fit-2") / "metrics.csv").read_text() == (
        folder / "metrics.csv"
    ).read_text()
    out, err = capsys.readouterr()
    assert "run folder: runs/tinyapp/fit-2" in out and err == ""


@pytest.mark.parametrize("verb", ["adapt", "demo"])
def test_no_trainers_end_moves_the_network_off_its_device(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[object] = []
    monkeypatch.setattr(Classifier, "cpu", lambda self: moved.append(self) or self)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.validate(module := Classifier(), datamodule=PointData(), verbose=False)
    assert moved == [module]  # what Lightning alone does
    assert call(verb, "--config", "short") == 0
    assert moved == [module] and "cpu" not in vars(module)
    with pytest.raises(KeyError), staying(module):
        assert module.cpu() is module
        raise KeyError
    assert moved == [module] and "cpu" not in vars(module)


@pytest.mark.parametrize("verb", ["adapt", "demo"])
def test_adapt_and_demo_run_on_their_default(verb: str) -> None:
    assert call(verb, "--config", "short") == 0
    assert (Path("runs/tinyapp") / verb / "graft" / "adapter.safetensors").exists()


def test_own_verbs_have_typed_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("count", "--to", "4") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 2 3 4"
    assert call("count", "--to", "four") == 2


@pytest.mark.parametrize("verb", sorted(app.all_verbs()))
def test_a_dry_run_of_any_verb_leaves_nothing(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(verb, "--dry_run") == (2 if verb == "export" else 0)
    assert not Path("runs").exists()
    if verb != "export":
        assert capsys.readouterr().out.splitlines()[-1] == "dry run: all right"


def test_resume_continues_the_last_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fit", "--resume") == 2
    assert "no run of 'fit'" in capsys.readouterr().err
    assert call("fit", "--trainer.max_epochs", "3", "--run_dir", "whole") == 0
    assert call("fit", "--trainer.max_epochs", "1", "--quiet") == 0
    assert call("fit", "--trainer.max_epochs", "3", "--resume") == 0
    assert Path("whole/metrics.csv").read_text() == Path("runs/tinyapp/fit/metrics.csv").read_text()
    assert call("fit", "--run_dir", "whole") == 2
    assert "whole holds a run already" in capsys.readouterr().err


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fit", "--config", "short", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_print_config_schema_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fit", "--print_config") == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["graft"]["init_args"]["rank"] == 8 and config["data"]["samples"] == 32
    Path("all.yaml").write_text(yaml.safe_dump(config))
    assert call("config", "validate", "all.yaml") == 0
    capsys.readouterr()
    assert call("schema", "count") == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["to"]["type"] == "integer"
    methods = {
        c["properties"]["class_path"]["const"] for c in schema["$defs"]["Method"]["anyOf"][1:]
    }
    assert {"graftwork.LoRA", "graftwork.DiaBlo"} <= methods
    assert "lightning.pytorch.callbacks.LambdaCallback" not in json.dumps(schema)
    assert call("completion", "bash") == 0
    script = capsys.readouterr().out
    assert "--graft" in script and "complete -o" in script and "--no-such" not in script
    assert call("completion", "fish") == 2
    assert call("schema", "none") == 2


# -- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model: {width: wide}",
            "config bad.yaml: Parser key \"model.width\": Expected a <class 'int'>",
        ),
        ("model: {widht: 3}", "config bad.yaml: Group 'model' does not accept option 'widht'"),
        (
            "graft: {class_path: graftwork.LoRA, init_args: {rank: 0}}",
            "LoRA.rank must lie in [1, ...], not 0",
        ),
        ("data: {samples: 0}", "data.samples must be at least 1, not 0"),
        ("trainer: {accelerator: abacus}", "trainer: You selected an invalid accelerator name"),
        ("sites: ['nothing*']", "nothing*"),
        (
            "sites: ['*']\ngraft: {class_path: graftwork.LoRA, init_args: {rank: 4}}",
            "2 (linear, in 8, out 2): LoRA.rank = 4 is a rank above the layer's own, 2",
        ),
        ("- a list", "config bad.yaml: expected `key: value` lines, found list"),
        ("a: [", "config bad.yaml: not plain YAML"),
        ("\x00", "config bad.yaml: not plain YAML"),
        (
            "graft: {class_path: graftwork.LoRA, dict_kwargs: {a: 1}}",
            "config bad.yaml: graft.dict_kwargs",
        ),
    ],
)
def test_bad_configs_name_file_and_field(
    text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text(text)
    assert call("fit", "--config", "bad.yaml") == 2
    err = capsys.readouterr().err
    assert err.startswith("tinyapp: error: ") and message in err
    assert "Traceback" not in err and not Path("runs").exists()


def test_a_config_may_ask_for_any_rank() -> None:
    Path("wide.yaml").write_text(
        "sites: ['*']\nany_rank: true\ngraft: {class_path: graftwork.LoRA, init_args: {rank: 4}}"
    )
    assert call("fit", "--config", "short", "--config", "wide.yaml") == 0
    folder = Path("runs/tinyapp/fit")
    with safe_open(str(folder / "graft" / "adapter.safetensors"), "pt") as file:
        assert file.get_tensor("2.A").shape == (4, 8)
    assert call("validate", "--adapter", str(folder / "graft")) == 0


def test_bad_arguments_are_told_from_bad_files(capsys: pytest.CaptureFixture[str]) -> None:
    Path("good.yaml").write_text("model: {width: 4}")
    assert call("fit", "--config", "good.yaml", "--model.width", "x") == 2
    assert "command line: Parser key" in capsys.readouterr().err
    assert call("fit", "--config", "missing.yaml") == 2
    assert "config missing.yaml: No such file" in capsys.readouterr().err


def test_a_failed_run_exits_1_and_tells_where_only_when_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("fit", "--model.fail", "true") == 1
    err = capsys.readouterr().err
    assert err == "tinyapp: failed: RuntimeError: the step failed (--verbose shows where)\n"
    assert call("fit", "--model.fail", "true", "--verbose") == 1
    assert "Traceback" in capsys.readouterr().err


# -- Ctrl-C ------------------------------------------------------------------------------------------


def test_ctrl_c_exits_130_and_keeps_an_exact_checkpoint() -> None:
    args = [sys.executable, "-m", "tinyapp.app", "fit", "--trainer.max_epochs"]
    process = subprocess.Popen(
        [*args, "100000"], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    curve, path = (
        Path("runs/tinyapp/fit/metrics.csv"),
        Path("runs/tinyapp/fit/checkpoints/last.ckpt"),
    )
    while not (curve.exists() and len(curve.read_text().splitlines()) > 20):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.splitlines()[-1].strip() == "tinyapp: interrupted" and "Traceback" not in err
    epoch = int(load_checkpoint(path)["epoch"])
    assert call("fit", "--resume", "--trainer.max_epochs", str(epoch + 2)) == 0
    assert call("fit", "--run_dir", "whole", "--trainer.max_epochs", str(epoch + 2)) == 0
    assert curve.read_text() == Path("whole/metrics.csv").read_text()


def test_exit_codes_of_odd_ends(capsys: pytest.CaptureFixture[str]) -> None:
    from graftwork.lightning.exits import guarded

    def raising(error: BaseException) -> Any:
        def run() -> int:
            raise error

        return run

    def interrupted() -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    def wrapped() -> int:
        raise RuntimeError("outer") from GraftError("inner")

    cases = [
        (raising(KeyboardInterrupt()), 130), (interrupted, 130), (raising(GraftError("x")), 2), (wrapped, 2),
        (raising(SystemExit(3)), 3), (raising(SystemExit("text")), 1), (raising(SystemExit()), 0),
        (raising(MemoryError()), 1), (raising(ValueError("x")), 1), (lambda: None, 0),
    ]  # fmt: skip
    for run, code in cases:
        assert guarded(run, prog="p") == code
    assert "Traceback" not in capsys.readouterr().err
