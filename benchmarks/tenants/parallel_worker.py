"""One process of one row: `python -m benchmarks.tenants.parallel_worker SETTINGS`, started by `benchmarks.tenants`.

SETTINGS is a JSON file; the process's number and how many there are come from the environment, as torchrun sets it. The
first process writes what was measured beside that file.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import graftwork as gw
from benchmarks.speed.llama import LINEARS, decoder
from benchmarks.tenants.training import adamw, hidden_states
from benchmarks.tenants.training import loss as squares
from graftwork.tenants import Runner, Task


class Row:
    """One number of processes, in this one."""

    def __init__(self, settings: dict[str, Any], out: Path) -> None:
        self.settings, self.out = settings, out
        self.rank, self.count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.cuda = settings["device"] == "cuda"
        self.device = torch.device("cuda", self.rank) if self.cuda else torch.device("cpu")
        if self.cuda:
            torch.cuda.set_device(self.device)
        else:
            torch.set_num_threads(1)
        self.hosts: Any = None
        if self.count > 1:
            dist.init_process_group("nccl" if self.cuda else "gloo")
            self.hosts = dist.new_group(backend="gloo")

    def speed(self) -> dict[str, Any]:
        """Seconds of each round, and the bytes at the peak."""
        sizes, rounds = self.settings["sizes"], self.settings["rounds"]
        dtype = getattr(torch, self.settings["dtype"])
        model = self._decoder(sizes, dtype)
        tasks = [
            self._task(i, x, x[:, :1, 0], squares, adamw)
            for i, x in enumerate(self._drawn(sizes, self.count, self.settings["tasks"], dtype))
        ]
        runner = Runner(model, tasks, body=hidden_states, check=False)
        self._say("built")
        for _ in range(self.settings["warm"]):
            _round(runner)
        self._wait()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(rounds):
            begun = self._wait()
            for _ in range(self.settings["burst"]):
                _round(runner)
            seconds.append((self._wait() - begun) / self.settings["burst"])
        self._say(f"{1000 * sorted(seconds)[rounds // 2]:.1f} ms a step")
        peak = torch.cuda.max_memory_allocated() if self.cuda else 0
        return {"seconds": seconds, "peak": max(self._everyones(peak))}

    def equality(self) -> dict[str, Any]:
        """Train in float32 on the same whole batches, and keep the adapters."""
        sizes = self.settings["equality"]
        model = self._decoder(sizes, torch.float32)
        drawn = self._drawn(sizes, sizes["rows"], 8, torch.float32)
        tasks = [
            self._task(i, x, target, _distance, _sgd)
            for i, (x, target) in enumerate(zip(drawn[::2], drawn[1::2], strict=True))
        ]
        runner = Runner(model, tasks, body=hidden_states, check=False)
        start = self._tensors(runner)
        for _ in range(sizes["steps"]):
            _round(runner)
        now = self._tensors(runner)
        if self.rank == 0:
            torch.save(now, self.out.with_name(f"{self.count}.pt"))
        digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in now.values())).hexdigest()
        moved = max(float((now[k] - start[k]).abs().max()) for k in now)
        return {"moved": moved, "agree": len(set(self._everyones(digest))) == 1}

    def _decoder(self, sizes: dict[str, int], dtype: torch.dtype) -> Any:
        return decoder(argparse.Namespace(**sizes, device=str(self.device)), dtype).train()

    def _drawn(
        self, sizes: dict[str, int], rows: int, count: int, dtype: torch.dtype
    ) -> list[Tensor]:
        draw = torch.Generator().manual_seed(0)
        shape = (rows, sizes["tokens"], sizes["hidden"])
        return [torch.randn(shape, generator=draw).to(self.device, dtype) for _ in range(count)]

    def _task(self, number: int, x: Tensor, target: Tensor, loss: Any, optimizer: Any) -> Task:
        return Task(
            f"t{number}",
            itertools.repeat((x, target)),
            loss,
            gw.LoRA(16),
            sites=[f"*.{name}" for name in LINEARS],
            optimizer=optimizer,
            seed=number,
        )

    def _tensors(self, runner: Runner) -> dict[str, Tensor]:
        return {
            f"{name} {key}": t.detach().cpu().clone()
            for name, tenant in runner.tenants.items()
            for key, t in tenant.graft.tensors().items()
        }

    def _everyones(self, value: Any) -> list[Any]:
        out = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(out, value, group=self.hosts)
        return out

    def _wait(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        if self.count > 1:
            dist.barrier(group=self.hosts)
        return time.perf_counter()

    def _say(self, text: str) -> None:
        if self.rank == 0:
            print(f"parallel: {self.count} process(es): {text}", flush=True)


def _round(runner: Runner) -> None:
    faults = {n: o.fault for n, o in runner.round().items() if o.fault}
    if faults:
        raise RuntimeError(f"a task failed: {faults}")


def _distance(hidden: Tensor, target: Tensor) -> Tensor:
    # against a target: the square of a normalised state alone is a constant
    return (hidden.float() - target.float()).square().mean()


def _sgd(graft: gw.Graft) -> torch.optim.Optimizer:
    # Adam divides a gradient that is nothing but rounding by itself
    return torch.optim.SGD(graft.parameters(), lr=50.0, momentum=0.9)


def main(file: Path) -> int:
    """Measure and write."""
    row = Row(json.loads(file.read_text()), file)
    found = row.equality() | row.speed()
    if row.rank == 0:
        file.with_suffix(".result.json").write_text(json.dumps(found))
    if row.count > 1:
        dist.barrier(group=row.hosts)
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
