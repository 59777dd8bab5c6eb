"""Publishing is all or nothing: under kills at every step, full disks, missing permissions, live rivals."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import graftwork as gw
from graftwork.store import folders
from tests.store.kit import files, grafted, net

FILES = {"graft.json": b"{}", "adapter.safetensors": b"data"}
NEWER = {"graft.json": b"{ }", "adapter.safetensors": b"newer"}


@pytest.mark.parametrize("first", [False, True])
def test_killed_at_every_step(first: bool, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    tree = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "tests.store.kill_points", str(root), str(int(first))],
        cwd=tree,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert rows[-1]["step"] == "done" and rows[-1]["found"] == "new"
    steps = [r["step"] for r in rows]
    assert any("half of adapter.safetensors" in s for s in steps) and len(rows) > 10
    for row in rows:
        expected = {"new"} | ({"no such folder"} if first else {"old"})
        assert any(e in row["found"] for e in expected), row
        assert row["left"] == ["adapter"], row  # the next save clears what the kill left
    assert {r["found"] for r in rows} & {"old", "new"} == ({"new"} if first else {"old", "new"})
    if not first:
        assert any(
            s.startswith("os.rename") and "graftwork-new" in s for s in steps
        )  # between the two


def test_disk_full_and_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    g = grafted()
    target = gw.save(g, tmp_path / "a")
    before = files(tmp_path)
    for where, name in ((os, "mkdir"), (os, "fsync"), (os, "rename"), (folders, "open")):
        for code, words in (
            (errno.ENOSPC, "No space left"),
            (errno.EROFS, "Read-only"),
            (errno.EACCES, "denied"),
        ):

            def fail(*args: Any, code: int = code, **kwargs: Any) -> Any:
                raise OSError(code, os.strerror(code))

            with monkeypatch.context() as patch:
                patch.setattr(where, name, fail, raising=False)
                with pytest.raises(gw.GraftError, match=words) as e:
                    gw.save(g, target, overwrite=True)
            assert "untouched" in str(e.value) and "\n" not in str(e.value)
            assert files(tmp_path) == before and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "step", range(4)
)  # sync of the files' folder, two renames, sync of the parent
def test_every_failing_step_of_the_swap_is_undone(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = folders.publish(tmp_path / "a", FILES)
    calls = 0

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step + 1:
                raise OSError(errno.EIO, "lost the disk")
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(folders.os, "rename", counted(os.rename))
        patch.setattr(folders, "_sync", counted(folders._sync))
        with pytest.raises(gw.GraftError, match="lost the disk"):
            folders.publish(target, NEWER, overwrite=True)
    assert files(target) == FILES and os.listdir(tmp_path) == ["a"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A file size limit makes the system itself refuse the write half-way."""
    code = (
        "import resource, signal, sys\n"
        "from graftwork.store.folders import publish\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        "publish(sys.argv[1], {'graft.json': b'{}', 'adapter.safetensors': bytes(100000)})\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True
    )
    assert run.returncode == 1 and "GraftError" in run.stderr and "too large" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = folders.publish(tmp_path / "a", FILES)
    monkeypatch.setattr(folders.os, "fsync", lambda fd: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        folders.publish(target, NEWER, overwrite=True)
    assert files(target) == FILES and os.listdir(tmp_path) == ["a"]


def test_repair_of_an_interrupted_swap(tmp_path: Path) -> None:
    target = gw.save(grafted(), tmp_path / "a")
    aside = tmp_path / ".a.graftwork-old"
    target.rename(aside)  # as a kill between the two renames leaves it
    gw.load(net(), target)
    assert target.is_dir() and not aside.exists()
    folders.publish(aside, FILES)  # a kill before the old folder was deleted
    gw.inspect(target)
    assert not aside.exists()
    target.rename(aside)
    (aside / "graft.json").unlink()  # half deleted: never taken for an adapter
    with pytest.raises(gw.GraftError, match="no such folder"):
        gw.load(net(), target)


def test_a_live_writer_is_waited_for_and_a_dead_ones_leftovers_go(tmp_path: Path) -> None:
    target = folders.publish(tmp_path / "a", FILES)
    live, dead = (tmp_path / f".a.graftwork-new-{n}" for n in ("live", "dead"))
    for folder in (live, dead):
        folder.mkdir()
        (folder / "graft.json").write_bytes(b"half")
    target.rename(tmp_path / ".a.graftwork-old")

    def finish() -> None:
        time.sleep(0.2)
        for name, data in NEWER.items():
            (live / name).write_bytes(data)
        live.rename(target)

    with folders._lock(live) as free:
        assert free
        writer = threading.Thread(target=finish)
        writer.start()
        folders.repair(target, "graft.json")  # must not put the old one back under the writer
        writer.join()
        assert files(target) == NEWER
    folders.publish(target, FILES, overwrite=True)
    assert os.listdir(tmp_path) == ["a"] and files(target) == FILES


def test_two_writers_at_once_leave_one_whole_adapter(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom graftwork.errors import GraftError\nfrom graftwork.store.folders import publish\n"
        "data = sys.argv[2].encode() * 1000\n"
        "for _ in range(60):\n"
        "    try: publish(sys.argv[1], {'graft.json': data, 'adapter.safetensors': data}, overwrite=True)\n"
        "    except GraftError: pass\n"
    )
    target = str(tmp_path / "a")
    runs = [subprocess.Popen([sys.executable, "-c", code, target, mark]) for mark in "xy"]
    assert [r.wait() for r in runs] == [0, 0]
    found = files(Path(target))
    assert len(found) == 2 and len(set(found.values())) == 1
    folders.publish(target, FILES, overwrite=True)
    assert os.listdir(tmp_path) == ["a"]
