"""The self-auditing search as a Lightning callback: one fit, any app.

The callback attaches the units before the optimizers are built, switches them, audits and allocates between
steps, and stops the fit when the search is over. Afterwards `callback.search.settle()` leaves one ordinary graft.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from graftwork.allocation import pace
from graftwork.allocation.plan import Plan
from graftwork.allocation.search import Search
from graftwork.allocation.unit import Unit
from graftwork.errors import GraftError


class Allocation(Callback):
    """Drives a `Search` during a fit. Name it before `ExactResume`, which numbers the optimizer's groups.

    Each unit gets a parameter group of its own, so that it can start afresh when it is promoted. Where a
    scheduler drives the optimizer, the module's `configure_optimizers` must ask for them itself, with
    `search.groups(lr)`; the search then sets their rates, whatever the scheduler does.

    Args:
        units: the units, or network -> units, such as `swin_units` or `conv_units`.
        score: network -> utility on the audit set, higher is better; `None` takes the module's method
            `audit_score`.
        budget: a fraction of the network's parameters (float), or a count (int).
        plan: of the search; the fit must be at least as long.
        beside: names of grafts on the network that are part of every set.
        start: names of units that are on from the first step of the search.
        seed: of start values and audits.
        network: the module's attribute that is grafted.
        say: takes one line for each allocation.

    Attributes:
        search: from the start of the fit on.
    """

    def __init__(
        self,
        units: Sequence[Unit] | Callable[[nn.Module], Sequence[Unit]],
        score: Callable[[nn.Module], float | Tensor] | None = None,
        *,
        budget: float | int,
        plan: Plan | None = None,
        beside: Iterable[str] = (),
        start: Iterable[str] = (),
        seed: int = 0,
        network: str = "network",
        say: Callable[[str], None] = print,
    ) -> None:
        self.units, self.score, self.budget, self.plan = units, score, budget, plan or Plan()
        self.beside, self.start, self.seed = list(beside), list(start), seed
        self.network, self.say = network, say
        self.search: Search | None = None
        self._counted = 0

    # -- state --------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The search as plain data; the units' tensors are in the checkpoint as grafts."""
        return {} if self.search is None else {"search": self.search.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written.

        Raises:
            GraftError: the callback was built otherwise than in the interrupted run.
        """
        if self.search is not None and "search" in state_dict:
            self.search.load_state_dict(state_dict["search"])

    # -- hooks --------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach the units.

        Raises:
            GraftError: no such network or score, several processes, or whatever `Search` refuses.
        """
        if stage != "fit" or self.search is not None:
            return
        network = getattr(pl_module, self.network, None)
        if not isinstance(network, nn.Module):
            raise GraftError(
                f"Allocation.network: {type(pl_module).__name__} has no module {self.network!r}"
            )
        if trainer.world_size > 1:
            raise GraftError(
                "Allocation: each process would search on its own data; served in one process, use devices: 1"
            )
        score = self.score or getattr(pl_module, "audit_score", None)
        if score is None:
            raise GraftError(
                f"Allocation.score: pass a function, or give {type(pl_module).__name__} a method "
                "audit_score(network)"
            )
        units = self.units(network) if callable(self.units) else self.units
        self.search = Search(
            network,
            units,
            score,
            budget=self.budget,
            plan=self.plan,
            beside=self.beside,
            start=self.start,
            seed=self.seed,
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the units parameter groups of their own.

        Raises:
            GraftError: several optimizers, units that no optimizer trains, or a scheduler over units without
                groups of their own.
        """
        search = self._search()
        if len(trainer.optimizers) != 1:
            raise GraftError(f"Allocation: needs one optimizer, not {len(trainer.optimizers)}")
        optimizer = trainer.optimizers[0]
        held = {id(p): pace.UNIT in g for g in optimizer.param_groups for p in g["params"]}
        mine = [held.get(id(p)) for n in search.board.units for p in search.board.parameters(n)]
        if None in mine:
            raise GraftError(
                "Allocation: the optimizer does not hold the units' tensors; build it in "
                "configure_optimizers from the parameters that require gradients"
            )
        if False in mine:
            if trainer.lr_scheduler_configs:
                raise GraftError(
                    "Allocation: a scheduler drives the units' rates; give the optimizer "
                    "search.groups(lr) for them, or drop the scheduler"
                )
            pace.own_groups(optimizer, search.board)
        if not search.binds:
            self.say(
                f"allocation: {search.budget:,d} parameters hold the largest set of units; a budget that "
                "does not bind chooses by sign alone"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count optimizer steps from where the fit starts."""
        self._counted = trainer.global_step
        if self._search().done:
            trainer.should_stop = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Switch on what trains in this step."""
        if not self._search().done:
            self._search().begin(trainer.optimizers[0])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Audit and allocate where due."""
        search = self._search()
        if trainer.global_step == self._counted or search.done:
            return  # gradients are being accumulated, or the last step is taken
        self._counted = trainer.global_step
        for line in search.end(trainer.optimizers[0]):
            self.say(line)
        if search.done:
            trainer.should_stop = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the set as it stands, not the units that a warm-up step happened to train."""
        if self.search is not None and not self.search.done:
            self.search.rest()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the candidates compete, if the search came to its end."""
        search = self._search()
        if search.done:
            result = search.finish()
            self.say(
                f"chosen: {len(result.units)} units, {result.cost:,d} of {search.budget:,d} parameters, "
                f"audit score {result.score:.4f}"
            )

    def _search(self) -> Search:
        assert self.search is not None  # setup came first
        return self.search
