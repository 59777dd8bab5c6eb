"""Training in two processes of one machine, over gloo: `python two_processes.py FOLDER`.

The mother imports everything once and forks two workers, which form one process group and go through all cases. What
each finds is written to FOLDER/<number>.json; the tests read that. The comparison is always with training in one
process on the same global batch, done in the same worker.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from method_settings import small
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset
from two_networks import Net, batch, sgd, train

import graftwork as gw
from graftwork.cards import cards
from graftwork.errors import GraftError
from graftwork.lightning.curve import CurveLogger
from graftwork.lightning.data import ResumableLoader, ShuffleSampler
from graftwork.lightning.output import settle_output
from graftwork.lightning.processes import SeveralProcesses
from graftwork.lightning.resume import ExactResume
from graftwork.lightning.step_checkpoint import StepCheckpoint
from graftwork.lightning.strategies import IGNORED, ShardedBase
from graftwork.optim.pairs import Trained
from graftwork.sharding import is_shard, shard_base, sharded_names

COUNT = 2


def moved(
    mode: str,
    graft_on: Callable[[Net], gw.Graft],
    optimizer: Callable[[gw.Graft], Any] = sgd,
    dtype: torch.dtype = torch.float64,
    recompute: bool = False,
    **ddp: Any,
) -> tuple[float, float]:
    """(largest difference from one process, largest change by training), over the graft's largest value."""
    rank, (x, y) = dist.get_rank(), batch(dtype)
    one = graft_on(Net(dtype, recompute))
    start = {k: t.clone() for k, t in one.tensors().items()}
    train(one.model, optimizer(one), x, y)
    two = graft_on(Net(dtype, recompute))
    if mode == "sharded":
        shard_base(two.model)
        setattr(two.model, IGNORED, sharded_names(two.model))
    model = DistributedDataParallel(two.model, **ddp)
    train(model, optimizer(two), x[rank::COUNT], y[rank::COUNT])
    want, got = one.tensors(), two.tensors()
    scale = max(float(t.abs().max()) for t in want.values())
    apart = max(float((want[k] - got[k]).abs().max()) for k in want)
    return apart / scale, max(float((want[k] - start[k]).abs().max()) for k in want) / scale


def adapters(folder: Path) -> dict[str, Any]:
    """Every method's training, DDP and over a sharded base."""
    out: dict[str, Any] = {}
    for card in cards():
        for mode in ("ddp", "sharded"):
            name = f"{card['id']}, {mode}"
            try:
                out[name] = moved(mode, lambda n, c=card: gw.graft(n, small(c["id"]), seed=3))
            except Exception as error:
                traceback.print_exc()
                out[name] = f"{type(error).__name__}: {str(error)[:300]}"
    return out


def variants(folder: Path) -> dict[str, Any]:
    """Single precision, copied modules, new rows, recomputation, static graph, LoFT."""

    def plain(n: Net) -> gw.Graft:
        return gw.graft(n, gw.LoRA(2), seed=3)

    def beside(n: Net) -> gw.Graft:
        rows = gw.NewRows("head", 1)
        return gw.graft(n, gw.DoRA(2), sites=["layers.*"], also_train=["stem", rows], seed=3)

    out: dict[str, Any] = {}
    for mode in ("ddp", "sharded"):
        out[f"float32, {mode}"] = moved(mode, plain, dtype=torch.float32)
        out[f"beside, {mode}"] = moved(mode, beside)
        out[f"recomputed, {mode}"] = moved(mode, plain, recompute=True)
        out[f"recomputed static, {mode}"] = moved(mode, plain, recompute=True, static_graph=True)
        out[f"loft, {mode}"] = moved(mode, plain, lambda g: gw.LoFT(g, lr=0.02))
    return out


def sharded(folder: Path) -> dict[str, Any]:
    """What a sharded base holds, writes and refuses."""
    rank = dist.get_rank()
    net = Net()
    graft = gw.graft(net, gw.LoRA(2), sites=["layers.*"], also_train=["head"], seed=3)
    whole = sum(p.numel() for n, p in net.named_parameters() if not p.requires_grad)
    before = gw.save(graft, folder / f"before-{rank}")
    units = shard_base(net)
    local = sum(p.to_local().numel() for p in net.parameters() if is_shard(p))
    trained = list(graft.parameters())
    out: dict[str, Any] = {
        "units": units,
        "share": local / whole,
        "trained whole": not any(is_shard(p) for p in trained),
    }
    x, y = batch(torch.float64)
    train(net, sgd(graft), x, y)  # the same batch everywhere, so no gradients need averaging
    out["off"] = float((_off(graft, x) - Net()(x)).abs().max())
    if rank == 1:  # a gathering would wait for the other process for ever
        gw.save(graft, folder / "sharded")
        fresh = gw.load(Net(), folder / "sharded")
        same = all(torch.equal(t, fresh.tensors()[k]) for k, t in graft.tensors().items())
        out["read back"] = same
        passports = [
            json.loads((f / "graft.json").read_text()) for f in (before, folder / "sharded")
        ]
        out["one base"] = passports[0]["base"] == passports[1]["base"]
        out["bytes"] = (folder / "sharded" / "adapter.safetensors").stat().st_size
    dist.barrier()
    out["refused"] = {
        "merge": refusal(graft.merge),
        "remove": refusal(graft.remove),
        "base_tensors": refusal(graft.base_tensors),
        "graft": refusal(lambda: gw.graft(net, gw.LoRA(2), name="more")),
        "again": refusal(lambda: shard_base(net)),
        "bare": refusal(lambda: shard_base(Net())),
        "unit": refusal(lambda: shard_base(gw.graft(Net(), gw.LoRA(2)).model, units="leyers.0")),
        "other": refusal(lambda: shard_base(_other(rank))),
    }
    return out


def _off(graft: gw.Graft, x: Tensor) -> Tensor:
    with graft.off(), torch.no_grad():
        return graft.model(x)


def _other(rank: int) -> nn.Module:
    net = Net()
    with torch.no_grad():
        net.layers[0].up.weight += rank
    gw.graft(net, gw.LoRA(2), sites=["layers.*"], seed=3)
    return net


def refusal(call: Callable[[], Any]) -> str:
    try:
        call()
    except GraftError as error:
        return str(error)
    return "not refused"


class Samples(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 26

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        made = torch.Generator().manual_seed(1000 * place[0] + place[1])
        x = torch.randn(1, 6, 6, generator=made, dtype=torch.float64)
        return x, torch.stack([x.mean(), x.max(), x.min()])


class Task(LightningModule):
    """A graft that acts, one that is off, and a parameter of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Net()
        gw.graft(self.network, gw.LoRA(2), sites=["stem"], name="unused", seed=4)
        sites = ["layers.*"]
        gw.graft(self.network, gw.DoRA(2), sites=sites, also_train=["head"], name="acts", seed=3)
        self.shift = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.calls = 0

    def training_step(self, batch: Any, _: int) -> Tensor:
        loss = nn.functional.mse_loss(self.network(batch[0]) + self.shift, batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        rank = dist.get_rank() if dist.is_initialized() else 0
        for _ in range(1 + rank):  # as windows of images that differ in size
            self.calls += 1
            out = self.network(batch[0])
        self.log("val", nn.functional.mse_loss(out, batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(Trained(self), lr=0.02)


class Stop(Callback):
    """Sends Ctrl-C to one process, at one batch."""

    def __init__(self, at: int, rank: int) -> None:
        self.at, self.rank, self.seen = at, rank, 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen += 1
        if self.seen == self.at and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGINT)


def fit(folder: Path, devices: int, strategy: Any, stop: Stop | None = None) -> Task:
    """Start or go on with a fit of two epochs; `devices` 1 takes twice the batch."""
    task, keeper = Task(), StepCheckpoint(folder, every=100)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        accumulate_grad_batches=2,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        logger=CurveLogger(folder),
        callbacks=[*([stop] if stop else []), SeveralProcesses(), ExactResume(7), keeper],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    size = 4 // devices
    train = ResumableLoader(Samples(), batch_size=size, seed=7, drop_last=True)
    valid = ResumableLoader(Samples(), batch_size=size, seed=7, shuffle=False)
    again = keeper.path if keeper.path.exists() else None
    try:
        trainer.fit(task, train, valid, ckpt_path=again)
    except SystemExit:  # Lightning's answer to Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return task


def state(task: Task) -> dict[str, Tensor]:
    trained = {n: p.detach().clone() for n, p in task.named_parameters() if p.requires_grad}
    return {n: t for n, t in trained.items() if "unused" not in n}


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def lightning(folder: Path) -> dict[str, Any]:
    """Fits in two processes, interrupted and resumed there and elsewhere."""
    rank = dist.get_rank()
    out: dict[str, Any] = {}
    alone = folder / f"alone-{rank}"
    reference = _alone(lambda: state(fit(alone, 1, "auto")))
    out["moved"] = apart(reference, state(Task()))
    half = folder / f"half-{rank}"
    _alone(lambda: fit(half, 1, "auto", Stop(6, 0)))
    for strategy in ("ddp", "fsdp2"):
        whole = fit(folder / strategy, COUNT, strategy)
        out[f"{strategy} from one"] = apart(reference, state(whole))
        out[f"{strategy} calls"] = whole.calls
        everyones: list[Any] = [None] * COUNT
        dist.all_gather_object(everyones, state(whole))
        out[f"{strategy} ranks"] = apart(*everyones)
        out[f"{strategy} unused"] = apart(
            {k: p.detach() for k, p in whole.named_parameters() if "unused" in k},
            {k: p.detach() for k, p in Task().named_parameters() if "unused" in k},
        )
        stopped = folder / f"{strategy}-stopped"
        stop = Stop(5, 1)  # before the last batch, in an accumulation, in the second process alone
        fit(stopped, COUNT, strategy, stop)
        out[f"{strategy} stopped at"] = stop.seen
        there = folder / f"{strategy}-elsewhere-{rank}"
        there.mkdir()
        (there / "last.ckpt").write_bytes((stopped / "last.ckpt").read_bytes())
        dist.barrier()
        out[f"{strategy} resumed"] = apart(state(whole), state(fit(stopped, COUNT, strategy)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = _alone(lambda there=there: state(fit(there, 1, "auto")))
        out[f"{strategy} resumed in one"] = apart(reference, one)
        curves = [
            (folder / f / "metrics.csv").read_text() for f in (strategy, f"{strategy}-stopped")
        ]
        out[f"{strategy} curve"] = curves[0] == curves[1]
        dist.barrier()
    theirs = folder / "from-one"
    if rank == 0:
        theirs.mkdir()
        (theirs / "last.ckpt").write_bytes((half / "last.ckpt").read_bytes())
    dist.barrier()
    out["one resumed in two"] = apart(reference, state(fit(theirs, COUNT, "ddp")))
    out["no graft"] = refusal(lambda: _ungrafted())
    return out


def _ungrafted() -> None:
    strategy = ShardedBase()
    task = Task()
    for name in ("unused", "acts"):
        gw.get(task.network, name).remove()
    strategy._fits, strategy._lightning_module = True, task
    strategy.model_to_device()


def _alone(call: Callable[[], Any]) -> Any:
    """`call` as if there were no other process."""
    names = ("LOCAL_RANK", "WORLD_SIZE")  # Lightning takes the second away itself after a fit
    hidden = {k: os.environ.pop(k) for k in names if k in os.environ}
    real, rank = dist.is_initialized, rank_zero_only.rank
    dist.is_initialized, rank_zero_only.rank = (lambda: False), 0
    try:
        return call()
    finally:
        dist.is_initialized, rank_zero_only.rank = real, rank
        os.environ.update(hidden)


def orders(folder: Path) -> dict[str, Any]:
    """What the two samplers hand out."""
    out = {}
    for drop in (True, False):
        sampler = ShuffleSampler(range(7), seed=1, drop_last=drop)
        sampler.start = 2
        out[f"drop {drop}"] = ([i for _, i in sampler], len(sampler))
    return out


CASES = (adapters, variants, sharded, orders, lightning)


def worker(folder: Path, rank: int, port: int) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(COUNT), "NODE_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=COUNT)
    chosen = sys.argv[2:] or [case.__name__ for case in CASES]
    found = {case.__name__: case(folder) for case in CASES if case.__name__ in chosen}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main(folder: Path) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(COUNT):
        pid = os.fork()
        if not pid:
            try:
                worker(folder, rank, port)
            except BaseException:
                traceback.print_exc()
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    settle_output(quiet=True, verbose=False)
    raise SystemExit(main(Path(sys.argv[1])))
