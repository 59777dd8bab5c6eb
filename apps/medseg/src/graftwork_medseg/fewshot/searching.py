"""Where to adapt, under a cap on trained parameters: SEA-PEFT's search in the run of `adapt`.

    space = Space.of(model, data, budget, plan, seed)      # refuses what cannot work; nothing is touched
    found = space.search(model, data, trainer, folder, say)  # trains a copy; writes `search.json`
    graft = found.graft_on(network)                        # the chosen set afresh, as one ordinary graft

The units are those of `swin_units` for a network with Swin blocks, else of `conv_units` without the head. The head's
new rows, or the whole head where no organ is new, train beside them and do not count towards the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch import nn

import graftwork as gw
from graftwork.allocation import (
    Plan,
    Unit,
    conv_units,
    graft_units,
    read_record,
    swin_units,
    write_record,
)
from graftwork.allocation.export import chosen_units
from graftwork.allocation.plan import parameter_budget
from graftwork.errors import GraftError
from graftwork.lightning import Allocation

from ..data import VolumeData
from ..module import Segmenter
from .audit import AuditScore
from .baselines import head_graft
from .judging import bare
from .plan import SearchPlan, budget_of

SEARCHED, FOLDER = (
    "search.json",
    "search",
)  # the record, and the folder of the search's own checkpoint
EVERY = 20  # steps between two checkpoints of the search
_SWIN = "SwinTransformerBlock"


def site_units(network: nn.Module, head: str) -> list[Unit]:
    """The units of a network that carries no graft; see the module's docstring."""
    if any(type(m).__name__ == _SWIN for m in network.modules()):
        return swin_units(network)
    return conv_units(network, leave_out=[head])


@dataclass(frozen=True)
class Found:
    """What a search chose: `units` of the network, the search's `record`, and how the head trains."""

    units: tuple[Unit, ...]
    record: dict[str, Any]
    head: str
    rows: int
    seed: int

    def graft_on(self, network: nn.Module) -> gw.Graft:
        """The chosen set and the head's rows as one new graft on a base."""
        beside = head_graft(network, self.head, self.rows, self.seed)
        spec = beside.spec()
        beside.remove()
        return graft_units(network, self.units, beside=[spec], seed=self.seed)

    def passport(self) -> dict[str, Any]:
        """How the sites were chosen, for the graft's passport."""
        return {
            "units": [u.name for u in self.units],
            "cost": self.record["cost"],
            "budget": self.record["budget"],
            "audit_score": self.record["score"],
            "record": SEARCHED,
        }

    def lines(self) -> list[str]:
        """What was chosen, for a person."""
        r = self.record
        spent = f"{len(self.units)} of {r['units']} units, {r['cost']:,d} of {r['budget']:,d} parameters"
        share = f"{100 * r['share_in_audits']:.0f} % of the search's time went into audits"
        lines = [f"sites: {spent}; {share}"]
        if not self.units:
            lines.append(
                "no unit was worth its parameters to the audit case; the head alone trains"
            )
        if r["budget"] >= r["largest"]:
            lines.append(
                f"the budget does not bind: all units together have {r['largest']:,d} parameters"
            )
        return lines


@dataclass(frozen=True)
class Space:
    """What there is to choose from, and by what: checked, and nothing trained yet."""

    units: tuple[Unit, ...]
    budget: int
    plan: Plan
    score: AuditScore
    rows: int
    seed: int

    @classmethod
    def of(
        cls,
        model: Segmenter,
        data: VolumeData,
        budget: str | float,
        plan: SearchPlan,
        seed: int,
        *,
        dry_run: bool = False,
    ) -> Space:
        """The search space of a model on drawn cases; the model carries no graft and is not touched.

        Raises:
            GraftError: a bad budget, one that holds no unit, no audit case or no organ in its crops, or a
                warm-up that does not reach all units.
        """
        network = model.network
        count = parameter_budget(network, budget_of(budget))
        units = site_units(network, model.head)
        least = min(units, key=lambda u: u.cost)
        if least.cost > count:
            raise GraftError(
                f"budget {budget}: {count} parameters hold no unit, the smallest ({least.name}) has "
                f"{least.cost}; a share is written as 1%"
            )
        audit = data.inputs("validate")
        if not audit:
            raise GraftError(
                "budget: a search needs two labelled cases at least, one to train on and one to audit by"
            )
        assert model.organs is not None
        score = AuditScore(audit[0].read(), model.organs, data.roi, seed=seed)
        steps = plan.plan(len(units), len(score.x), data.batch_size)
        if dry_run:
            steps = Plan(
                warm_up=0, steps=1, audit_every=1, allocate_every=1, share=0.01, swaps=0, votes=1
            )
        elif 0 < plan.warm_up < (turns := _turns(units)):
            raise GraftError(
                f"search.warm_up {plan.warm_up}: {turns} steps are needed to reach every unit, some times "
                "that to learn; 0 leaves the warm-up out"
            )
        return cls(tuple(units), count, steps, score, model.new_rows(model.classes), seed)

    def search(
        self,
        model: Segmenter,
        data: VolumeData,
        trainer: Callable[..., Trainer],
        folder: Path,
        say: Callable[[str], None],
        resume: bool = False,
    ) -> Found:
        """Search, or go on, or read what an earlier run found.

        Args:
            model: a copy of its network is trained; it is left as it is.
            data: to train on.
            trainer: makes one, from overrides.
            folder: the run folder.
            say: prints one line.
            resume: go on from what the folder holds.

        Raises:
            GraftError: what the folder holds is of another search.
        """
        file, checkpoint = folder / SEARCHED, folder / FOLDER / "last.ckpt"
        if resume and file.exists():
            return self._read(model, file)
        copy = bare(model)
        head_graft(copy.network, model.head, self.rows, self.seed, name="head")
        allocation = Allocation(
            self.units,
            self.score,
            budget=self.budget,
            plan=self.plan,
            beside=["head"],
            seed=self.seed,
            say=say,
        )
        steps = self.plan.warm_up + self.plan.steps
        running = trainer(
            callbacks=[allocation],
            checkpoints=folder / FOLDER,
            checkpoint_every=EVERY,
            logger=False,
            max_steps=steps,
            max_epochs=-1,
            limit_val_batches=0,
        )
        again = checkpoint if resume and checkpoint.exists() else None
        running.fit(copy, datamodule=data, ckpt_path=again)
        search = allocation.search
        assert search is not None
        search.finish()  # where the checkpoint was the last one, no hook of the fit does
        costs = {u.name: u.cost for u in self.units}
        write_record(file, {**search.record(), "costs": costs})
        return self._read(model, file)

    def _read(self, model: Segmenter, file: Path) -> Found:
        record = read_record(file)
        for field, mine in (
            ("budget", self.budget),
            ("seed", self.seed),
            ("plan", self.plan.row()),
        ):
            if record.get(field) != mine:
                raise GraftError(
                    f"{file}: written by a search with another {field}; resume with the settings of the "
                    "interrupted run, or start anew in another folder"
                )
        units = tuple(chosen_units(record, self.units))
        return Found(units, record, model.head, self.rows, self.seed)


def _turns(units: list[Unit]) -> int:
    from graftwork.allocation.switchboard import waves

    return len(waves(units))
