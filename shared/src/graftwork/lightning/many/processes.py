"""The processes of a shared run: the same command, once for each device, in one group of torch's.

As in an app's `fit`, the process that was called starts the others, speaks and writes. They end with it, and it with
them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

import torch
import torch.distributed as dist

from graftwork.errors import GraftError
from graftwork.lightning.data import world
from graftwork.lightning.exits import FAILED
from graftwork.lightning.output import settle_output

#: own names: by those of other launchers an app's parts would take this for a process of its own fit's
_PARENT, _RANK, _PORT = (
    "GRAFTWORK_MANY_PARENT",
    "GRAFTWORK_MANY_RANK",
    "GRAFTWORK_MANY_PORT",
)
#: seconds in which the first process notices by itself that another one ended, and those that the others get to end
_GRACE, _END = 10.0, 60.0


def first() -> bool:
    """Whether this process was called, or is the only one; the others were started by it."""
    return _PARENT not in os.environ and world()[0] == 0


@contextlib.contextmanager
def processes(count: int) -> Iterator[None]:
    """Inside, `count` processes that run this command form torch's default group; nothing to do for one.

    Raises:
        GraftError: not on a command line, which alone can be run again.
        RuntimeError: another process ended; it says what that one said last.
    """
    if count == 1 or dist.is_initialized():
        yield
        return
    parent = os.environ.get(_PARENT)
    if parent is not None:
        _orphan_ends(int(parent))
        _join(int(os.environ[_RANK]), count, int(os.environ[_PORT]))
        yield
        dist.destroy_process_group()
        return
    if "train-many" not in sys.argv:
        raise GraftError(
            "devices: several processes start from a command line alone, because each runs it again"
        )
    others = _Others(count)
    try:
        _join(0, count, others.port)
        yield
        dist.destroy_process_group()
        others.end()
    except Exception as error:
        others.explain(error)
        raise
    finally:
        others.close()


def _join(rank: int, count: int, port: int) -> None:
    settle_output(quiet=True, verbose=False)
    both = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if both else "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=count,
    )


def _orphan_ends(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(FAILED)

    threading.Thread(target=watch, daemon=True).start()


class _Others:
    """What the first process started."""

    def __init__(self, count: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._said: list[IO[bytes]] = []
        self._running: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()
        shared = {_PARENT: str(os.getpid()), _PORT: str(self.port)}
        for rank in range(1, count):
            self._said.append(tempfile.TemporaryFile())  # noqa: SIM115
            self._running.append(
                subprocess.Popen(
                    [sys.executable, *sys.orig_argv[1:]],
                    env={**os.environ, **shared, _RANK: str(rank)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._said[-1],
                )
            )
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """Wait for them.

        Raises:
            RuntimeError: one does not end.
        """
        until = time.monotonic() + _END
        for rank, process in enumerate(self._running, 1):
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"process {rank} does not end") from None

    def explain(self, error: Exception) -> None:
        """What failed here may have failed because another process was gone.

        Raises:
            RuntimeError: it was, with its last words.
        """
        if not isinstance(error, GraftError) and (lost := self._lost()):
            raise RuntimeError(lost) from error

    def close(self) -> None:
        """End those that still run."""
        self._over.set()
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        for file in self._said:
            file.close()

    def _lost(self) -> str:
        for rank, (process, file) in enumerate(zip(self._running, self._said, strict=True), 1):
            code: Any = process.poll()
            if code:
                file.seek(0)
                lines = [x for x in file.read().decode(errors="replace").splitlines() if x.strip()]
                return f"process {rank} ended with {code}: {(lines or ['no message'])[-1]}"
        return ""

    def _watch(self) -> None:
        """A process that waits for a lost one on a device never comes back by itself."""
        while not self._over.wait(0.5):
            lost = self._lost()
            if lost and not self._over.wait(_GRACE):
                print(f"graftwork: failed: {lost}", file=sys.stderr, flush=True)
                for process in self._running:
                    process.kill()
                os._exit(FAILED)
