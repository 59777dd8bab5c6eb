"""Run folders: numbered, never replaced in silence, clear about unwritable places."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from graftwork import GraftError
from graftwork_runs import Record, Report, Row, RunFolder, environment, runs
from graftwork_runs.files import write_atomic


def a_record(**changes: object) -> Record:
    values: dict[str, object] = {
        "record": "demo/medseg",
        "claim": "a graft is small",
        "command": "medseg demo",
        "rows": [Row(case="all", variant="graft", metric="dice", value=0.5)],
        **environment(),
        **changes,
    }
    return Record.model_validate(values)


def test_a_run_folder_has_the_documented_places(tmp_path: Path) -> None:
    run = RunFolder.create("medseg", "site-b", tmp_path)
    run.write_config({"graft": {"rank": 8}})
    run.write_report(Report("Site B"))
    assert not run.finished
    run.write_record(a_record())
    (run.checkpoints / "last.txt").write_text("x")
    (run.predictions / "a.txt").write_text("x")
    assert run.path == tmp_path / "medseg" / "site-b"
    assert {"config.yaml", "report.html", "record.json", "checkpoints", "predictions"} <= set(
        os.listdir(run.path)
    )
    assert run.graft == run.path / "graft"
    again = RunFolder.open(run.path)
    assert again == run and again.finished and (again.app, again.name) == ("medseg", "site-b")
    assert again.read_config() == {"graft": {"rank": 8}}
    assert again.read_record() == a_record(date=again.read_record().date)


def test_an_existing_run_is_never_replaced_in_silence(tmp_path: Path) -> None:
    first = RunFolder.create("medseg", "a", tmp_path)
    first.write_config("x: 1\n")
    second = RunFolder.create("medseg", "a", tmp_path)
    third = RunFolder.create("medseg", "a", tmp_path)
    assert [r.name for r in (first, second, third)] == ["a", "a-2", "a-3"]
    assert first.config.read_text() == "x: 1\n"
    replaced = RunFolder.create("medseg", "a", tmp_path, overwrite=True)
    assert replaced.path == first.path and not replaced.config.exists()
    assert sorted(os.listdir(tmp_path / "medseg")) == ["a", "a-2", "a-3"]


def test_overwrite_spares_what_is_not_a_run(tmp_path: Path) -> None:
    mine = tmp_path / "medseg" / "thesis"
    mine.mkdir(parents=True)
    (mine / "chapter.txt").write_text("years of work")
    with pytest.raises(GraftError, match="is not a run"):
        RunFolder.create("medseg", "thesis", tmp_path, overwrite=True)
    assert (mine / "chapter.txt").read_text() == "years of work"
    elsewhere = RunFolder.create("medseg", "real", tmp_path)
    (tmp_path / "medseg" / "link").symlink_to(elsewhere.path)
    with pytest.raises(GraftError, match="is not a run"):
        RunFolder.create("medseg", "link", tmp_path, overwrite=True)
    assert elsewhere.path.is_dir()


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a..b", "a\nb", "x" * 101, "-rf"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(GraftError, match="letters, digits"):
        RunFolder.create("medseg", name, tmp_path)
    with pytest.raises(GraftError, match="letters, digits"):
        RunFolder.create(name, "a", tmp_path)
    assert not list(tmp_path.iterdir())


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(GraftError, match=r"file.medseg.a: cannot be written .*Choose a folder"):
        RunFolder.create("medseg", "a", blocker)
    with pytest.raises(GraftError, match="cannot be written"):
        Report("x").write(tmp_path / "missing" / "report.html")
    with pytest.raises(GraftError, match="is not a run folder"):
        RunFolder.open(tmp_path)
    run = RunFolder.create("medseg", "a", tmp_path)
    (run.path / "checkpoints").write_text("in the way")
    with pytest.raises(GraftError, match="checkpoints: cannot be written"):
        _ = run.checkpoints


def test_a_full_disk_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_atomic(tmp_path / "record.json", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GraftError, match="no space left"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [\n", "a: !!python/object:os.system x\n"])
def test_a_bad_config_is_named(tmp_path: Path, text: str) -> None:
    run = RunFolder.create("medseg", "a", tmp_path)
    run.config.write_text(text)
    with pytest.raises(GraftError, match=r"config\.yaml: "):
        run.read_config()


def test_a_folder_of_a_command_line_is_adopted(tmp_path: Path) -> None:
    folder = tmp_path / "medseg" / "fit"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("a: 1\n")
    run = RunFolder.adopt(folder)
    assert RunFolder.open(folder) == run and run.read_config() == {"a": 1}
    assert list(runs(tmp_path)) == [run]
    with pytest.raises(GraftError, match="cannot be written"):
        RunFolder.adopt(tmp_path / "missing")


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    for index, name in enumerate(["old", "new"]):
        run = RunFolder.create("medseg", name, tmp_path)
        os.utime(run.path / ".graftwork-run.json", (1000 + index, 1000 + index))
    (tmp_path / "medseg" / "stray").mkdir()
    assert [run.name for run in runs(tmp_path)] == ["new", "old"]
    assert list(runs(tmp_path / "nowhere")) == []
