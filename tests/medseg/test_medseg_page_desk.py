"""The desk behind the local page, the graft it takes, and the command that opens it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graftwork as gw
from graftwork import GraftError
from graftwork_medseg.module import Segmenter
from graftwork_medseg.networks.network import NetworkConfig
from graftwork_medseg.page import server
from graftwork_medseg.page.desk import Desk
from graftwork_medseg.page.finished import newest_demo
from graftwork_medseg.prediction import metrics
from graftwork_runs import Record, Row, RunFolder, environment
from tests.medseg.page_session import fetch

COMMAND = "from graftwork_medseg.app import main; import sys; sys.exit(main(sys.argv[1:]))"


def test_classes_that_nobody_named_are_numbered(adapter: Path, tmp_path: Path) -> None:
    model = Segmenter()
    graft = gw.load(model.network, adapter)
    desk = Desk(model, graft, gw.inspect(adapter), tmp_path, base="b")
    assert desk.classes == ("background", "GM", "WM", "class 3")
    # A simulated truth has other classes, so nothing is compared with it.
    assert not desk._dice({"base": np.zeros(1), "adapted": np.zeros(1)})
    renamed = ("background", "lesion", "WM", "CSF")
    other = Desk(model, graft, gw.inspect(adapter), tmp_path, base="b", classes=renamed)
    assert [other.holds("base", k) for k in (1, 2, 3)] == [False, True, False]
    assert all(other.holds("adapted", k) for k in (1, 2, 3))


def test_a_network_of_several_channels_is_refused(tmp_path: Path) -> None:
    args = {"spatial_dims": 3, "in_channels": 2, "out_channels": 3, "init_filters": 8}
    model = Segmenter(NetworkConfig("SegResNet", args))
    graft = gw.graft(model.network, gw.LoRA(rank=1), sites=["conv_final.2.conv"])
    with pytest.raises(GraftError, match="takes 2 channels"):
        Desk(model, graft, {}, tmp_path, base="b")


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_dice_is_symmetric_and_one_only_for_equals(seed: int, a: float, b: float) -> None:
    draw = np.random.default_rng(seed)
    p, r = draw.random((3, 4, 5)) < a, draw.random((3, 4, 5)) < b
    value = metrics.dice(p, r)
    assert value == metrics.dice(r, p) == metrics.score(p, r, [1.0] * 3).dice
    assert 0 <= value <= 1 and (value == 1) == bool((p == r).all())
    assert (value == 0) == bool(not (p & r).any() and (p | r).any())


def finished(root: Path, name: str, record: str, graft: bool = True) -> RunFolder:
    run = RunFolder.create("medseg", name, root)
    if graft:
        run.graft.mkdir()
    rows = [Row(case="mean", variant="graft", metric="dice", value=0.5)]
    made = environment("cpu")
    run.write_record(Record(record=record, claim="c", command="medseg demo", **made, rows=rows))
    return run


def test_the_newest_finished_demo_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GraftError, match="run `medseg demo` first"):
        newest_demo()
    runs = [finished(Path("runs"), "demo", "medseg/demo")]
    runs += [finished(Path("runs"), "fit", "medseg/fit")]
    runs += [finished(Path("runs"), "demo", "medseg/demo", graft=False)]
    RunFolder.create("medseg", "demo", "runs")  # not finished
    assert newest_demo() == runs[0].graft
    newer = finished(Path("runs"), "other", "medseg/demo")
    later = time.time() + 10
    os.utime(newer.path / ".graftwork-run.json", (later, later))
    assert newest_demo() == newer.graft
    newer.record.write_text("{}")
    assert newest_demo() == runs[0].graft
    assert newest_demo(str(newer.path)) == newer.path / "graft"
    with pytest.raises(GraftError, match="name the folder of a finished run"):
        newest_demo("nowhere")


def command(*options: str, cwd: Path) -> subprocess.Popen[str]:
    # A shell that starts jobs in the background lets them ignore Ctrl-C; the command must not inherit that.
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "demo", "--serve", *options],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_the_command_serves_until_ctrl_c(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "temporary"
    kept.mkdir()
    monkeypatch.setenv("TMPDIR", str(kept))
    with command("--adapter", str(adapter), cwd=tmp_path) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "demo:" in first
        line = process.stdout.readline()
        found = re.match(r"page: (http://127\.0\.0\.1:(\d+)/) ", line)
        assert found, line + process.stdout.read()
        status, page, _ = fetch(found[1])
        assert status == 200 and b"GM, WM, CSF" in page
        assert list(kept.iterdir()), "the session has a folder of its own"
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 130, rest
    assert "Traceback" not in rest
    assert not [p for p in kept.iterdir() if p.name.startswith("medseg")]
    assert not (tmp_path / "runs").exists()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(found[2])))


def test_a_polite_kill_ends_it_like_ctrl_c() -> None:
    with pytest.raises(SystemExit) as ended:
        server._ended(signal.SIGTERM, None)
    assert ended.value.code == 143


@pytest.fixture
def inside() -> Callable[..., int]:
    from graftwork_medseg.app import main

    return lambda *options: main(["demo", "--serve", *options])


def test_the_command_names_what_is_missing(
    inside: Callable[..., int],
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert inside() == 2
    assert "run `medseg demo` first" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert inside("--adapter", str(adapter), "--port", str(port)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"port {port}: cannot be opened" in said
    assert inside("--adapter", str(adapter), "--port", "99999") == 2
    assert "port 99999" in capsys.readouterr().err
    assert inside("--adapter", str(adapter), "--dry_run") == 0
    assert not (tmp_path / "runs").exists()
