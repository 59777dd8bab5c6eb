"""The strategy `fsdp2`: the frozen base in shards, what trains whole in every process.

Lightning's ModelParallelStrategy would shard the graft as well, ask each module for its own way to do so, and gather
the whole network for every checkpoint; its FSDPStrategy flattens frozen and trained weights into one tensor. Here DDP
does all that concerns what trains, and `graftwork.shard_base` takes the base out of its hands.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from graftwork.errors import GraftError
from graftwork.ledger import ATTRIBUTE, ledger_of
from graftwork.sharding import gathered, shard_base, sharded_names

IGNORED = "_ddp_params_and_buffers_to_ignore"  # DistributedDataParallel reads it from its module


class ShardedBase(DDPStrategy):
    """DDP over what trains, FSDP2 over the frozen base of every graft in the module.

    Args:
        units: as `graftwork.shard_base` takes them.
        gather_to_validate: keep the base whole in every process while a fit validates, so that processes may call the
            network different numbers of times (windows of images that differ in size). `False` saves that
            memory, and then every process must make as many calls as the others.
        options: of `DDPStrategy`.
    """

    def __init__(
        self,
        units: list[str] | None = None,
        gather_to_validate: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.units, self.gather_to_validate = units, gather_to_validate
        self._fits = False

    def setup(self, trainer: Trainer) -> None:
        """Shard, move and wrap the module.

        Raises:
            GraftError: the module carries no graft, or what `shard_base` refuses.
        """
        self._fits = trainer.state.fn == TrainerFn.FITTING
        super().setup(trainer)

    def model_to_device(self) -> None:
        """Before the module is moved: a base that is larger than one card never is on one."""
        if self._fits:
            module = self.lightning_module
            assert module is not None
            roots = list(_roots(module))
            if not roots:
                raise GraftError(
                    "trainer.strategy fsdp2: it shards the base of a graft, and there is none"
                )
            for root in roots:
                if ledger_of(root).sharded is None:
                    mesh = init_device_mesh(
                        self.root_device.type, (self.num_nodes * self.num_processes,)
                    )
                    shard_base(root, mesh, units=self.units)
            leave_out(module, sharded_names(module))
        super().model_to_device()

    def on_validation_start(self) -> None:
        """Gather, where asked for."""
        self._gather(True)

    def on_validation_end(self) -> None:
        """Back to shards."""
        self._gather(False)

    def _gather(self, whole: bool) -> None:
        if self._fits and self.gather_to_validate:
            assert self.lightning_module is not None
            for root in _roots(self.lightning_module):
                gathered(root, whole)


def leave_out(module: LightningModule, names: list[str]) -> None:
    """Let DistributedDataParallel pass over these parameters and buffers of a module."""
    before = getattr(module, IGNORED, ())
    setattr(module, IGNORED, sorted({*before, *names}))


def _roots(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if ATTRIBUTE in m.__dict__]


StrategyRegistry.register(
    "fsdp2",
    ShardedBase,
    description="DDP over what trains, FSDP2 over the frozen base; whole in validation",
)
StrategyRegistry.register(
    "fsdp2_validate_sharded",
    ShardedBase,
    description="the same, in shards in validation too",
    gather_to_validate=False,
)
