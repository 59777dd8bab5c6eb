"""Functions and commands run in forks of one process that has imported what is slow to import.

Each run is a process of its own, as fresh as the imports leave it, with its own folder, exit code and output; only
the interpreter's start and the imports are shared. The warm process itself computes nothing.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).parents[1]
#: processes that a pool keeps running; each holds about half a gigabyte
KEPT = 2


class Done(NamedTuple):
    """What a run left: its exit code (negative: the signal that ended it), output, and what the function returned."""

    returncode: int
    stdout: str
    stderr: str
    value: Any


class Pool:
    """Warm processes by what they import, for all tests of a session; those used last are kept running."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], Warm] = {}

    def __call__(self, *imports: str) -> Warm:
        """The process that imports these modules."""
        warm = self._made.pop(imports, None) or Warm(imports, {"OMP_NUM_THREADS": "1"})
        self._made[imports] = warm  # the last used stands last
        for idle in list(self._made.values())[:-KEPT]:
            idle.close()
        return warm

    def close(self) -> None:
        """End all."""
        for warm in self._made.values():
            warm.close()


class Warm:
    """The warm process; it starts with the first run.

    Args:
        imports: modules to import once; importable from the repository's root.
        env: what its environment has beside this process's.
    """

    def __init__(self, imports: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.imports, self.env = list(imports), dict(env or {})
        self._process: subprocess.Popen[str] | None = None

    def call(self, function: str, *args: Any, cwd: Path = ROOT) -> Done:
        """Run `module:name` on JSON values in a fork, in the folder `cwd`.

        Raises:
            RuntimeError: the warm process ended.
        """
        try:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps([function, args, str(cwd)]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise RuntimeError("the warm process ended; its error is in the captured output")
        except BaseException:
            self.close()  # its next answer would be taken for another's
            raise
        return Done(*json.loads(answer))

    def script(self, name: str, *args: str, cwd: Path) -> Done:
        """Run an installed command."""
        return self.call("tests.warm:run_script", name, *args, cwd=cwd)

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run `python -m module`, `python -c code` or `python script`, as `subprocess.run` does."""
        python, *words = command
        assert python == sys.executable, command
        place = Path.cwd() if cwd is None else cwd
        return self.call("tests.warm:run_python", words, dict(env or os.environ), cwd=place)

    def close(self) -> None:
        """End the process and its runs."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", *self.imports],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, **self.env},
                start_new_session=True,
            )
        return self._process


def run_script(name: str, *args: str) -> None:
    """What the installed command does."""
    [entry] = entry_points(group="console_scripts", name=name)
    sys.argv = [name, *args]
    sys.exit(entry.load()())


def run_python(words: list[str], env: dict[str, str]) -> None:
    """What an interpreter does with these words."""
    os.environ.clear()
    os.environ.update(env)
    paths = env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [p for p in paths if p and p not in sys.path]
    first = words[0]
    if first == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


def _run(function: str, args: list[Any], cwd: str) -> Done:
    """One run in a fork."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.chdir(cwd)
            in_child(function, args, write)
        os.close(write)
        with open(read, encoding="utf8") as answer:
            value = answer.read()
        _, status = os.waitpid(child, 0)
        for file in (out, err):
            file.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return Done(code, out.read(), err.read(), json.loads(value) if value else None)


def in_child(function: str, args: list[Any], write: int | None = None) -> NoReturn:
    """End a forked process with a function's run; what it returns goes to the descriptor `write`."""
    code = 0
    try:
        module, _, name = function.partition(":")
        value = getattr(importlib.import_module(module), name)(*args)
        if write is not None:
            os.write(write, json.dumps(value).encode())
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    if write is not None:
        os.close(write)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _settle() -> None:
    """Make torch's pool of threads anew while there is one thread alone.

    After a fork torch lets the first who asks do it, and of two who ask at once the other finds none ("Invalid thread
    pool!").
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(torch.get_num_threads())


os.register_at_fork(after_in_child=_settle)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)  # nothing but answers on the pipe
    sys.stdout = os.fdopen(1, "w", closefd=False)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child's collections pass over what this process holds
    for line in sys.stdin:
        print(json.dumps(_run(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
