"""The suite's own machinery: runs in forks of a warm process are processes of their own, and hunts tell the truth."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import mutant_hunt
from tests.mutant_hunt import Chosen, Hunter, Mutant, Outcome, survivors
from tests.warm import Pool, Warm


@pytest.fixture(scope="module")
def python() -> Iterator[Warm]:
    made = Warm(["json"])
    yield made
    made.close()


def code(python: Warm, text: str, *words: str, cwd: Path | None = None) -> tuple[int, str, str]:
    done = python.run([sys.executable, "-c", text, *words], cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def test_a_run_has_its_own_output_folder_words_and_exit_code(python: Warm, tmp_path: Path) -> None:
    said = code(python, "import os, sys; print(os.getcwd(), sys.argv)", "a", cwd=tmp_path)
    assert said == (0, f"{tmp_path} ['-c', 'a']\n", "")
    assert code(python, "import sys; sys.exit(3)") == (3, "", "")
    assert code(python, "import sys; sys.exit('why')") == (1, "", "why\n")
    ended, _, errors = code(python, "1 / 0")
    assert ended == 1 and "ZeroDivisionError" in errors
    assert code(python, "import os; os.kill(os.getpid(), 9)")[0] == -signal.SIGKILL
    at_end = "import atexit, os; atexit.register(print, 'end'); os.environ['LEFT'] = 'x'"
    assert code(python, at_end) == (0, "end\n", "")
    assert code(python, "import os; print('LEFT' in os.environ)")[1] == "False\n"


def test_modules_scripts_and_functions_run(python: Warm, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'beside'")
    script = tmp_path / "script.py"
    script.write_text("import sys, beside; print(__name__, beside.NAME, *sys.argv[1:])")
    assert python.run([sys.executable, str(script), "x"]).stdout == "__main__ beside x\n"
    done = python.run([sys.executable, "-m", "platform", "terse"])
    assert done.returncode == 0 and done.stdout.strip()
    assert python.call("os.path:join", "a", "b").value == "a/b"
    assert python.call("os:getppid").value == python.call("os:getppid").value != os.getpid()


def test_one_process_serves_all_who_import_the_same_and_few_are_kept() -> None:
    pool = Pool()
    assert pool("json") is pool("json") is not pool("json", "csv")
    first, second, third = (pool(m).call("os:getppid").value for m in ("json", "csv", "ast"))
    assert pool("csv").call("os:getppid").value == second
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert pool("json").call("os:getppid").value not in (first, second, third)
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


class Told(Hunter):
    """Finds what it is told."""

    def __init__(self, found: dict[str | None, Outcome]) -> None:
        self.found, self.asked = found, list[Chosen]()

    def try_on(self, mutant: Mutant | None, chosen: Chosen) -> Outcome:
        self.asked.append(chosen)
        return self.found[mutant.what if mutant else None]


def test_a_mutant_survives_unless_a_test_fails_that_passes_unchanged() -> None:
    one, two = (Mutant("sign", what, "m", what) for what in ("one", "two"))
    caught, passed = Outcome(mutant_hunt.FAILED, ["t::a"]), Outcome(0, [])
    broken = Outcome(2, [])  # the tests could not be collected
    chosen = Chosen(["t"])
    hunter = Told({"one": caught, "two": caught, None: passed})
    assert survivors(hunter, "m", [one, two], chosen) == []
    assert hunter.asked[1].first == ["t::a"] and list(hunter.asked[2].tests) == ["t::a"]
    for end in (passed, broken):
        left = survivors(Told({"one": caught, "two": end, None: passed}), "m", [one, two], chosen)
        assert left == [f"sign: two: pytest's exit code {end.code}"]
    with pytest.raises(AssertionError, match="fail on the unchanged source"):
        survivors(Told({"one": caught, None: caught}), "m", [one], chosen)
