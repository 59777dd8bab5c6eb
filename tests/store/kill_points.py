"""Run by test_publish: save over an old adapter again and again, killed one step later each time.

`python kill_points.py ROOT FIRST` prints one JSON line per kill: the step that was next, and what a load
finds afterwards. FIRST is 1 when there is no old adapter.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

import graftwork as gw
from graftwork.store import folders
from tests.store.kit import grafted, net, x

STEPS = ("fsync", "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


def killed_at(n: int, work) -> str:
    """Fork, run `work`, SIGKILL the child just before its n-th step; the step's name, or "done"."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        left = n

        def step(event: str, args: tuple) -> None:
            nonlocal left
            if event in STEPS and not (event == "open" and not inside(args[0])):
                left -= 1
                if left == 0:
                    os.write(write, f"{event} {Path(str(args[0])).name}".encode())
                    os.kill(os.getpid(), signal.SIGKILL)

        real_sync, real_write = os.fsync, folders._write

        def sync(fd: int) -> None:
            step("fsync", ("",))
            real_sync(fd)

        def half(path: Path, data: bytes) -> None:
            nonlocal left
            if left == 1:
                left = 0  # the write below is no step
                path.write_bytes(data[: len(data) // 2])
                os.write(write, f"half of {path.name}".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            real_write(path, data)

        def inside(path: object) -> bool:
            return isinstance(path, str | os.PathLike) and str(path).startswith(str(ROOT))

        os.fsync, folders._write = sync, half
        sys.addaudithook(step)
        work()
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    name = os.read(read, 200).decode()
    os.close(read)
    assert os.WIFEXITED(status) == (name == ""), (status, name)
    if name == "":
        assert os.WEXITSTATUS(status) == 0
        return "done"
    return name


def main() -> None:
    old, new = grafted(1), grafted(1)
    with torch.no_grad():
        for p in new.parameters():
            p.mul_(2)
    outputs = {"old": old.model(x()), "new": new.model(x())}
    n, step, target = 0, "", ROOT / "adapter"
    while step != "done":
        n += 1
        shutil.rmtree(ROOT)
        ROOT.mkdir()
        if not FIRST:
            gw.save(old, target)
        step = killed_at(n, lambda: gw.save(new, target, overwrite=True))
        try:
            model = net(1)
            gw.load(model, target)
            found = next(k for k, y in outputs.items() if torch.equal(model(x()), y))
        except gw.GraftError as e:
            found = str(e)
        gw.save(new, target, overwrite=True)
        left = sorted(os.listdir(ROOT))
        print(json.dumps({"step": step, "found": found, "left": left}), flush=True)


if __name__ == "__main__":
    ROOT, FIRST = Path(sys.argv[1]), sys.argv[2] == "1"
    main()
