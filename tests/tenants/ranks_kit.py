"""What the tests in two processes share: forks in one group, and a look at what one process does alone."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

COUNT = 2


def single(call: Callable[[], Any]) -> Any:
    """`call` as if there were no other process."""
    real = dist.is_initialized
    dist.is_initialized = lambda: False
    try:
        return call()
    finally:
        dist.is_initialized = real


def forked(count: int, work: Callable[[int, int], None]) -> int:
    """Run `work(rank, port)` in forks; 1 as soon as one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        pid = os.fork()
        if not pid:
            try:
                work(rank, port)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        children.append(pid)
    failed = 0
    while children:
        pid, status = os.wait()
        children.remove(pid)
        if status and not failed:  # the other would wait for it
            failed = 1
            for other in children:
                os.kill(other, signal.SIGKILL)
    return failed
