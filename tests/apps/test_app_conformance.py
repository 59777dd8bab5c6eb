"""What every registered app must do, on its own default data. An app gets this suite by registering."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from graftwork.lightning.app import App, apps
from graftwork_runs import validate_record
from tests.warm import Done, Pool

APPS = apps()
EVERY_APP = pytest.mark.parametrize("app", APPS.values(), ids=APPS)
DRY = ["fit", "validate", "test", "predict", "adapt", "demo"]


def run(warm: Pool, app: App, folder: Path, *args: str) -> Done:
    """The app's command in a process and a folder of its own; the traceback check holds for every call."""
    done = warm(app.cli.partition(":")[0]).script(app.name, *args, cwd=folder)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def start(app: App, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """The same from the very start, as installed."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / app.name), *args],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


@pytest.fixture(scope="module", params=APPS.values(), ids=APPS)
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two training steps; `request.param` is the app."""
    folder = tmp_path_factory.mktemp(request.param.name)
    done = start(request.param, folder, "fit", "--run_dir", "run", "--trainer.max_steps", "2")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def app_of(fitted: Path) -> App:
    return next(a for n, a in APPS.items() if fitted.parent.name.startswith(n))


def test_the_apps_are_registered() -> None:
    assert {"medseg", "maritime"} <= set(APPS)


@EVERY_APP
def test_an_app_trains_measures_and_exports(app: App) -> None:
    assert {"fit", "validate", "test", "predict", "export"} <= set(app.all_verbs())


@EVERY_APP
@pytest.mark.parametrize("verb", [v for v in DRY if any(v in a.without for a in APPS.values())])
def test_a_verb_that_is_left_out_is_unknown(app: App, verb: str, tmp_path: Path) -> None:
    if verb in app.without:
        done = run(app, tmp_path, verb)
        assert done.returncode == 2 and f"no verb '{verb}'" in done.stderr
        assert f"\n  {verb} " not in run(app, tmp_path, "--help").stdout


@pytest.mark.parametrize(
    ("app", "verb"),
    [(a, v) for a in APPS.values() for v in DRY if v in a.all_verbs()],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_each_verb_runs_dry_on_its_default_and_leaves_nothing(
    app: App, warm: Pool, verb: str, tmp_path: Path
) -> None:
    done = run(warm, app, tmp_path, verb, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(app.name)
    assert not list(tmp_path.iterdir())


@EVERY_APP
def test_the_config_prints_validates_and_has_a_schema(app: App, warm: Pool, tmp_path: Path) -> None:
    printed = run(warm, app, tmp_path, "fit", "--print_config")
    assert printed.returncode == 0, printed.stderr
    config = printed.stdout[printed.stdout.index("seed_everything") :]
    assert {"model", "data", "graft", "trainer"} <= set(yaml.safe_load(config))
    (tmp_path / "config.yaml").write_text(config)
    checked = run(warm, app, tmp_path, "config", "validate", "config.yaml", "--verb", "fit")
    assert checked.returncode == 0, checked.stderr
    schema = run(warm, app, tmp_path, "schema", "fit")
    assert schema.returncode == 0, schema.stderr
    assert json.loads(schema.stdout[schema.stdout.index("{") :])["type"] == "object"


@EVERY_APP
def test_shipped_configs_are_listed_and_copied(app: App, warm: Pool, tmp_path: Path) -> None:
    assert app.default in run(warm, app, tmp_path, "config", "list").stdout
    assert run(warm, app, tmp_path, "config", "copy", app.default, "mine.yaml").returncode == 0
    assert isinstance(yaml.safe_load((tmp_path / "mine.yaml").read_text()), dict)


@EVERY_APP
@pytest.mark.parametrize(
    "args",
    [
        ["no-such-verb"],
        ["fit", "--no_such_option", "1"],
        ["fit", "--graft.rank", "-3"],
        ["fit", "--config", "missing.yaml"],
        ["fit", "--trainer.logger", "evil.Logger"],
        ["predict", "--adapter", "missing-folder"],
    ],
    ids=lambda a: " ".join(a),
)
def test_bad_input_is_one_message_and_exit_code_2(
    app: App, warm: Pool, args: list[str], tmp_path: Path
) -> None:
    # a word that is no verb costs no import, so the exit code of the installed command is seen too
    whole = args == ["no-such-verb"]
    done = start(app, tmp_path, *args) if whole else run(warm, app, tmp_path, *args)
    assert done.returncode == 2, done.stdout
    assert f"{app.name}: error:" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_holds_config_graft_record_and_report(fitted: Path) -> None:
    assert yaml.safe_load((fitted / "config.yaml").read_text())
    assert (fitted / "graft" / "adapter.safetensors").is_file()
    validate_record(fitted / "record.json")
    report = (fitted / "report.html").read_text(encoding="utf8")
    assert "<html" in report and 'src="http' not in report


def test_a_finished_run_is_resumed_not_repeated(fitted: Path, warm: Pool) -> None:
    app = app_of(fitted)
    before = (fitted / "graft" / "adapter.safetensors").read_bytes()
    done = run(
        warm, app, fitted.parent, "fit", "--run_dir", "run", "--resume", "--trainer.max_steps", "2"
    )
    assert done.returncode == 0, done.stderr
    assert (fitted / "graft" / "adapter.safetensors").read_bytes() == before


def test_an_adapter_is_exported(fitted: Path, warm: Pool) -> None:
    app = app_of(fitted)
    done = run(warm, app, fitted.parent, "export", "--adapter", "run/graft", "--output", "exported")
    assert done.returncode == 0, done.stderr
    assert (fitted.parent / "exported" / "graft.json").is_file()
