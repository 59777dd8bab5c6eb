"""The processes of a benchmark's row on several GPUs, forked where their libraries are imported already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from tests.warm import in_child

#: what benchmarks that start processes import for long
LIBRARIES = (
    *("lightning.pytorch.cli", "transformers.trainer", "peft"),
    *("transformers.models.llama.modeling_llama", "torch.distributed.fsdp"),
)


class Forked:
    """A `subprocess.Popen` of `python -m module`, as far as `launch` uses one."""

    def __init__(self, command: list[str], env: dict[str, str], stderr: IO[bytes]) -> None:
        assert command[0] == sys.executable
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            os.dup2(stderr.fileno(), 2)
            in_child("tests.warm:run_python", [command[1:], env])

    def poll(self) -> int | None:
        """Its exit code, if it ended."""
        return self._waited(os.WNOHANG)

    def wait(self) -> int | None:
        """Its exit code, when it has ended."""
        return self._waited(0)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def _waited(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def launch(
    file: str, count: int, limit: float, worker: str = "benchmarks.scale.worker"
) -> str | None:
    """`benchmarks.scale.__main__.launch` with forks."""
    from benchmarks.scale import __main__ as command

    forks: dict[str, Any] = {**vars(subprocess), "Popen": Forked}
    command.subprocess = SimpleNamespace(**forks)  # type: ignore[attr-defined]
    return command.launch(Path(file), count, limit, worker)
