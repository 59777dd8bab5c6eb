"""Two processes train what one process trains on the same global batch; the base may be in shards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from graftwork.cards import cards
from graftwork.errors import GraftError
from graftwork.lightning.primary import primary
from graftwork.lightning.processes import check, shared_folder

SCRIPT = Path(__file__).with_name("two_processes.py")
MODES = ("ddp", "sharded")
STRATEGIES = ("ddp", "fsdp2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("two")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(made)], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return made


@pytest.fixture(scope="module")
def found(folder: Path) -> list[Any]:
    """What each process found."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", [card["id"] for card in cards()])
def test_every_method_trains_as_in_one_process(found: list[Any], method: str, mode: str) -> None:
    for process in found:
        result = process["adapters"][f"{method}, {mode}"]
        assert not isinstance(result, str), result
        apart, moved = result
        assert apart < 1e-12 < 1e-4 < moved


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "variant, limit",
    [
        ("float32", 1e-6),
        ("beside", 1e-12),
        ("recomputed", 1e-12),
        ("recomputed static", 1e-12),
        ("loft", 1e-10),  # it divides by second moments, which are small at first
    ],
)
def test_variants(found: list[Any], variant: str, limit: float, mode: str) -> None:
    for process in found:
        apart, moved = process["variants"][f"{variant}, {mode}"]
        assert apart < limit < 1e-2 < moved


def test_a_process_holds_its_share_of_the_base_and_all_that_trains(found: list[Any]) -> None:
    for process in found:
        case = process["sharded"]
        assert case["units"] == ["layers.0", "layers.1"]
        assert 0.45 < case["share"] < 0.55  # rows that two do not divide are padded
        assert case["trained whole"] and case["off"] < 1e-14


def test_a_save_asks_no_other_process(found: list[Any]) -> None:
    case = found[1]["sharded"]
    assert case["read back"] and case["one base"]
    assert case["bytes"] < 20_000


def test_what_needs_the_whole_base_is_refused(found: list[Any]) -> None:
    for process in found:
        refused = process["sharded"]["refused"]
        for verb in ("merge", "remove", "base_tensors", "graft"):
            assert "shared out among processes; save the graft and load it" in refused[verb]
        assert "sharded already" in refused["again"]
        assert "carries no graft" in refused["bare"]
        assert "near misses: layers.0" in refused["unit"]
        assert "processes 0 and 1 hold different bases" in refused["other"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_fit_in_two_processes_is_that_in_one(
    found: list[Any], folder: Path, strategy: str
) -> None:
    for process in found:
        case = process["lightning"]
        assert case["moved"] > 0.01
        assert case[f"{strategy} from one"] < 1e-12
        assert case[f"{strategy} ranks"] == 0  # bit for bit
        assert (
            case[f"{strategy} unused"] == 0
        )  # a graft that is off trains nothing and stops nothing
    calls = [process["lightning"][f"{strategy} calls"] for process in found]
    assert calls[1] == 2 * calls[0] > 0  # unequal forward passes in validation
    lines = (folder / strategy / "metrics.csv").read_text().splitlines()
    assert len(lines) == len(set(lines)) > 6  # each line once


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_fit_goes_on_in_two_processes_or_in_one(
    found: list[Any], folder: Path, strategy: str
) -> None:
    stops = {process["lightning"][f"{strategy} stopped at"] for process in found}
    assert stops == {6}  # the same batch in both, one after the signal
    for process in found:
        assert process["lightning"][f"{strategy} resumed"] < 1e-12
        assert process["lightning"][f"{strategy} resumed in one"] < 1e-12
        assert process["lightning"]["one resumed in two"] < 1e-12
    whole, stopped = ((folder / f"{strategy}{end}" / "metrics.csv") for end in ("", "-stopped"))
    rows = [
        [line.rsplit(",", 1) for line in f.read_text().splitlines()[1:]] for f in (whole, stopped)
    ]
    assert [name for name, _ in rows[0]] == [name for name, _ in rows[1]]
    for (_, a), (_, b) in zip(*rows, strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-12)
    assert not list(stopped.parent.glob(".*.part"))


def test_a_strategy_for_grafts_refuses_a_module_without(found: list[Any]) -> None:
    assert "there is none" in found[0]["lightning"]["no graft"]


def test_processes_share_an_order(found: list[Any]) -> None:
    (first, n), (second, m) = (process["orders"]["drop True"] for process in found)
    assert n == m == 3 and len({*first, *second}) == 4  # 6 of 7 samples, 2 of them behind us
    (first, n), (second, m) = (process["orders"]["drop False"] for process in found)
    assert n == m == 4 and len(first) == len(second) == 3
    assert len({*first, *second}) == 6  # all that is left and one again


def test_the_first_process_is_told_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert primary()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not primary()
    monkeypatch.setenv("RANK", "0")
    assert primary()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tinyapp.app", "fit", "--data.batch_size", "2", *arguments]


TWO = ("--trainer.devices", "2", "--trainer.strategy")


def environment() -> dict[str, str]:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def test_the_command_line_starts_two_and_writes_once(tmp_path: Path) -> None:
    done = subprocess.run(
        command(*TWO, "fsdp2"), capture_output=True, text=True, cwd=tmp_path, env=environment()
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and lines[0].startswith("tinyapp") and lines[1].startswith("run folder")
    assert lines[2] == "adapter: runs/tinyapp/fit/graft"
    assert [p.name for p in (tmp_path / "runs" / "tinyapp").iterdir()] == ["fit"]
    run = tmp_path / "runs" / "tinyapp" / "fit"
    assert len(load_file(run / "graft" / "adapter.safetensors")) == 4
    curve = (run / "metrics.csv").read_text().splitlines()
    assert sum("loss" in line and "val" not in line for line in curve) == 16
    assert len(list((run / "tensorboard").glob("events*"))) == 1


def test_ctrl_c_ends_both(tmp_path: Path) -> None:
    running = subprocess.Popen(
        # during validation Ctrl-C ends at once, without a checkpoint
        command(
            *TWO,
            "ddp",
            "--trainer.max_epochs",
            "100000",
            "--trainer.limit_val_batches",
            "0",
            "--run_dir",
            "run",
        ),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    group = running.pid
    try:
        curve, begun = tmp_path / "run" / "metrics.csv", time.monotonic()
        while not (curve.exists() and curve.read_text().count("\n") > 5):
            assert running.poll() is None and time.monotonic() - begun < 200
            time.sleep(0.1)
        os.killpg(group, signal.SIGINT)  # as a terminal does
        _, errors = running.communicate(timeout=60)
        for _ in range(
            100
        ):  # the other is reaped by nobody here, so it may stay a zombie for a moment
            if not _alive(group):
                break
            time.sleep(0.1)
        assert not _alive(group)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    assert running.returncode == 130, errors
    assert errors.count("writing the checkpoint") == errors.count("tinyapp: interrupted") == 1
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def _alive(group: int) -> bool:
    """Whether any process of the group runs."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


def test_several_processes_are_refused_where_they_would_count_twice() -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
    with pytest.raises(GraftError, match="validate runs in one process"):
        check(trainer, "validate")
    with pytest.raises(GraftError, match="several processes start from a command line"):
        check(trainer, "fit")
    spawned = Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", logger=False)
    with pytest.raises(GraftError, match=r"DDPStrategy as it is set up here .* choose ddp"):
        check(spawned, "fit")
    check(Trainer(accelerator="cpu", devices=1, logger=False), "validate")


def test_a_process_from_outside_needs_the_run_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFTWORK_RUN_DIR", raising=False)
    with pytest.raises(GraftError, match="run_dir: name a folder"):
        shared_folder(None)
    assert shared_folder("here") == Path("here")
