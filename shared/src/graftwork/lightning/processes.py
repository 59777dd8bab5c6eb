"""What a run in several processes needs beyond what one does: who speaks, who writes, and when all stop."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor, nn

from graftwork.attach import CHILD
from graftwork.errors import GraftError
from graftwork.handle import active
from graftwork.lightning.data import world
from graftwork.lightning.graft_state import handles
from graftwork.lightning.strategies import leave_out

_FOLDER = "GRAFTWORK_RUN_DIR"  # tells the processes that a run starts where the run is


def everyones(value: Any) -> list[Any]:
    """What each process has, in the order of their numbers, as plain picklable values; every process must call this."""
    _, count = world()
    if count == 1:
        return [value]
    out: list[Any] = [None] * count
    dist.all_gather_object(out, value)
    return out


def mean(tensor: Tensor) -> Tensor:
    """The mean of a tensor over the processes, anew; every process must call this."""
    _, count = world()
    total = tensor.detach().clone()
    if count > 1:
        dist.all_reduce(total)
        total /= count
    return total


def count_of(trainer: Trainer) -> int:
    """How many processes a trainer has or will have."""
    return trainer.num_devices * trainer.num_nodes


def check(trainer: Trainer, verb: str) -> None:
    """Refuse what several processes cannot do.

    Raises:
        GraftError: names the setting and the remedy.
    """
    if count_of(trainer) == 1:
        return
    if verb != "fit":
        raise GraftError(
            f"trainer.devices: {verb} runs in one process, so that each case counts once; set devices: 1 (fit "
            "takes several)"
        )
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy) or not isinstance(
        strategy.launcher, _SubprocessScriptLauncher | None
    ):
        raise GraftError(
            f"trainer.strategy: {type(strategy).__name__} as it is set up here cannot carry grafts; choose ddp, "
            "ddp_find_unused_parameters_true, fsdp2 or fsdp2_validate_sharded"
        )
    if verb not in sys.argv:
        raise GraftError(
            "trainer.devices: several processes start from a command line alone, because each runs it again"
        )


def share_folder(folder: Path) -> None:
    """Tell the processes that this one will start where the run's files lie."""
    os.environ[_FOLDER] = str(folder)


def shared_folder(wanted: str | None) -> Path:
    """Where the run's files lie, in a process that is not the first.

    Raises:
        GraftError: a launcher started all processes at once, and none can know what the first one chose.
    """
    folder = os.environ.get(_FOLDER, wanted)
    if folder is None:
        raise GraftError("run_dir: name a folder when the processes are started from outside")
    return Path(folder)


def end_others(trainer: Trainer | None) -> None:
    """End the processes that this one started; for a run that failed, whose others wait for it."""
    launcher = trainer.strategy.launcher if trainer is not None else None
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signal.SIGTERM)


class Agreement:
    """Whether any process wants to stop, known to all at the same batch: an answer is that to the question before.

    Asking takes a message between the hosts, which travels while the batch runs.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo")
        self._asked: tuple[Any, Tensor] | None = None

    def ask(self, mine: bool) -> bool:
        """Whether any process said yes the last time; every process must call this as often as the others."""
        answer = self.close()
        flag = torch.tensor([int(mine)])
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._asked = work, flag
        return answer

    def close(self) -> bool:
        """The answer to the last question."""
        if self._asked is None:
            return False
        work, flag = self._asked
        self._asked = None
        work.wait()
        return bool(flag.item())


class SeveralProcesses(Callback):
    """Lets DDP pass over what does not train: grafts that are switched off, and tensors that never change.

    Which grafts act is settled when a fit begins. A method's frozen tensors and the base's buffers are sent to all
    processes once, then, and not with each forward.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Name them before the module is wrapped."""
        if count_of(trainer) == 1 or stage != "fit":
            return
        idle = {id(p) for p in _idle(pl_module)}
        names = [n for n, p in pl_module.named_parameters() if id(p) in idle]
        leave_out(pl_module, [*names, *dict(_fixed_buffers(pl_module))])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send what is fixed."""
        if count_of(trainer) == 1:
            return
        for _, buffer in _fixed_buffers(pl_module):
            sent = buffer.contiguous()
            dist.broadcast(sent, 0)
            buffer.copy_(sent)


def _idle(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of grafts that are off."""
    used: set[int] = set()
    off: list[nn.Parameter] = []
    for graft in handles(module).values():
        if graft.name in active(graft.model):
            used |= {id(p) for p in graft.parameters()}
        else:
            off += graft.parameters()
    return [p for p in off if id(p) not in used]


def _fixed_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers of grafted networks that no forward changes: all but those of copied modules."""
    roots = [path for path, _ in handles(module)]
    out = []
    for name, buffer in module.named_buffers():
        inside = any(not r or name.startswith(r + ".") for r in roots)
        copied = CHILD in name.split(".") and ".module." in name.partition(CHILD)[2]
        if inside and not copied:
            out.append((name, buffer))
    return out
