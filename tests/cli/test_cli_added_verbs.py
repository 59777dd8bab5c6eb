"""Verbs that installed packages add to the `graftwork` command."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from graftwork.cli import VERBS, main
from graftwork.cli.verb import added, all_verbs, load
from tests.cli.cli_helpers import refused

MODULE = """
SUMMARY = "Say hello."
def arguments(parser):
    parser.add_argument("--name", required=True)
def run(options):
    print("hello", options.name)
    return 3 if options.name == "three" else None
"""


@pytest.fixture(name="site")
def fixture_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages with one that adds verbs: a good one, a broken one, one of the core's."""
    info = tmp_path / "greeting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[graftwork.verbs]\nhello = greeting_verb\nbroken = greeting_gone\nhalf = greeting_half\n"
        "merge = greeting_verb\n"
    )
    (tmp_path / "greeting_verb.py").write_text(MODULE)
    (tmp_path / "greeting_half.py").write_text("SUMMARY = 'Half.'\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


def test_an_added_verb_is_run_listed_and_completed(site: Path, capsys: Any) -> None:
    assert "hello" in added() and "merge" not in added()
    assert main(["hello", "--name", "you"]) == 0 and capsys.readouterr().out == "hello you\n"
    assert main(["hello", "--name", "three"]) == 3
    capsys.readouterr()
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "Say hello." in shown and all(f"  {verb} " in shown for verb in VERBS)
    assert main(["hello", "--help"]) == 0 and "--name" in capsys.readouterr().out
    assert main(["completion"]) == 0
    shown = capsys.readouterr().out
    assert "hello)" in shown and "--name" in shown and "broken)" not in shown
    assert "did you mean 'hello'?" in refused(capsys, "helo")


def test_the_cores_verbs_are_not_replaced(site: Path) -> None:
    assert load("merge").__name__ == "graftwork.cli.merge"  # type: ignore[attr-defined]
    assert all_verbs()["merge"] == VERBS["merge"]


def test_a_broken_verb_names_itself_and_spoils_no_other(site: Path, capsys: Any) -> None:
    assert "greeting_gone cannot be imported" in refused(capsys, "broken")
    assert "greeting_half has no arguments" in refused(capsys, "half")
    assert "cannot be imported" in all_verbs()["broken"]
    assert main(["hello", "--name", "you"]) == 0
