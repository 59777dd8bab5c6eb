"""One process of one row: `python -m benchmarks.scale.worker SETTINGS`, started by `benchmarks.scale`.

SETTINGS is a JSON file; the process's number and how many there are come from the environment, as torchrun sets it.
The first process writes what was measured beside that file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import graftwork as gw
from benchmarks.speed.llama import LINEARS, decoder
from graftwork.sharding import sharded_names
from graftwork_runs.files import write_atomic

ADAPTER = "adapter.safetensors"


class Row:
    """One way to train, in this process."""

    def __init__(self, settings: dict[str, Any], out: Path) -> None:
        self.settings, self.out = settings, out
        self.mode: str = settings["mode"]
        self.rank, self.count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.cuda = settings["device"] == "cuda"
        self.device = torch.device("cuda", self.rank) if self.cuda else torch.device("cpu")
        if self.cuda:
            torch.cuda.set_device(self.device)
        else:
            torch.set_num_threads(1)
        dist.init_process_group("nccl" if self.cuda else "gloo")

    def say(self, line: str) -> None:
        """Progress, from the first process."""
        if self.rank == 0:
            print(f"{self.settings['name']}: {line}", flush=True)

    def build(self, sizes: dict[str, int], dtype: torch.dtype) -> tuple[gw.Graft, nn.Module]:
        """A graft on the decoder without its head, and the module that is called."""
        options = argparse.Namespace(**sizes, device=str(self.device))
        base = decoder(options).model.to(dtype).train()
        graft = gw.graft(base, gw.LoRA(16), sites=[f"*.{name}" for name in LINEARS], seed=0)
        if self.mode == "fsdp2":
            gw.shard_base(base)
            leave_out = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
            leave_out(base, sharded_names(base))
        if self.mode == "one":
            return graft, base
        ids = [self.device.index] if self.cuda else None
        return graft, DistributedDataParallel(base, device_ids=ids)

    def speed(self) -> dict[str, Any]:
        """Seconds of each step on a batch of the process's own, and the bytes at the peak."""
        sizes = self.settings["sizes"]
        graft, model = self.build(sizes, torch.bfloat16)
        draw = torch.Generator().manual_seed(self.rank)
        x, target = (self._drawn(sizes, draw).to(self.device, torch.bfloat16) for _ in range(2))
        optimizer = torch.optim.AdamW(list(graft.parameters()), lr=1e-4, fused=True)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            self._loss(model, x.clone().requires_grad_(), target).backward()
            optimizer.step()

        self.say("built")
        for _ in range(self.settings["warmup"]):
            step()
        self._wait()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(self.settings["rounds"]):
            begun = self._wait()
            for _ in range(self.settings["burst"]):
                step()
            seconds.append((self._wait() - begun) / self.settings["burst"])
        self.say(f"{1000 * sorted(seconds)[len(seconds) // 2]:.1f} ms a step")
        peak = torch.cuda.max_memory_allocated() if self.cuda else 0
        frozen = [p for p in graft.model.parameters() if not p.requires_grad]
        bases = sum(p.numel() * p.element_size() for p in frozen)
        found = {"seconds": seconds, "peak": max(_everyones(peak)), "bytes": self._save(graft)}
        return {**found, "base": bases}

    def equality(self) -> dict[str, Any]:
        """Train on one global batch in float32, and keep the adapter."""
        sizes = self.settings["equality"]
        graft, model = self.build(sizes, torch.float32)
        start = {k: t.clone() for k, t in graft.tensors().items()}
        draw = torch.Generator().manual_seed(7)
        whole = [self._drawn(sizes, draw) for _ in range(2)]
        own, target = (t[self.rank :: self.count].to(self.device) for t in whole)
        # SGD: Adam divides a gradient that is nothing but rounding by itself
        optimizer = torch.optim.SGD(list(graft.parameters()), lr=sizes["rate"], momentum=0.9)
        for _ in range(sizes["steps"]):
            optimizer.zero_grad()
            self._loss(model, own.clone().requires_grad_(), target).backward()
            optimizer.step()
        self._save(graft, "equality")
        now = graft.tensors()
        print_of = hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in now.values()))
        moved = max(float((now[k] - start[k]).abs().max()) for k in now)
        same = len(set(_everyones(print_of.hexdigest()))) == 1
        self.say(f"trained for the comparison; the processes agree: {same}")
        return {"moved": moved, "agree": same}

    def _save(self, graft: gw.Graft, folder: str = "speed") -> int:
        size = 0
        if self.rank == 0:  # no other process takes part
            made = gw.save(graft, self.out.parent / self.settings["name"] / folder, overwrite=True)
            size = (made / ADAPTER).stat().st_size
        dist.barrier()
        return size

    def _drawn(self, sizes: dict[str, int], draw: torch.Generator) -> Tensor:
        return torch.randn(sizes["batch"], sizes["tokens"], sizes["hidden"], generator=draw)

    def _loss(self, model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        # against a target: the square of a normalised state alone is a constant
        out: Tensor = model(inputs_embeds=x).last_hidden_state
        return (out.float() - target.float()).square().mean()

    def _wait(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        dist.barrier()
        return time.perf_counter()


def _everyones(value: Any) -> list[Any]:
    out: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(out, value)
    return out


def main(file: Path) -> None:
    settings = json.loads(file.read_text())
    out = file.with_suffix(".result.json")
    row = Row(settings, out)
    found = {"equality": row.equality(), "speed": row.speed()}
    if row.rank == 0:
        write_atomic(out, json.dumps({"settings": settings, **found}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
