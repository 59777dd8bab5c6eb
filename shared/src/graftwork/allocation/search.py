"""The episode: warm-up, search, candidates, and the set that won (SEA-PEFT, section 3.6).

    search = Search(model, swin_units(model), dice, budget=0.01)
    optimizer = torch.optim.AdamW([*search.groups(1e-3), ...])
    while not search.done:
        search.begin(optimizer)
        ...                      # one optimizer step of yours
        search.end(optimizer)
    graft = search.settle()      # the chosen set as one ordinary graft

Departures: warm-up trains every unit, at all its levels (a LoRA that never trained is worth exactly 0
and could never be chosen), units that do not exclude each other in one step, and goes on while nothing
is chosen and no graft beside the units trains; the loop, the loss and the data are the caller's; rates
have no restarts. Each room's header lists its own.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from graftwork.allocation import pace
from graftwork.allocation.audit import Score, audit, measure
from graftwork.allocation.candidates import candidates, rank
from graftwork.allocation.controller import Controller
from graftwork.allocation.diary import Diary
from graftwork.allocation.export import FORMAT, joint_spec
from graftwork.allocation.knapsack import Item, solve
from graftwork.allocation.plan import Plan, parameter_budget
from graftwork.allocation.sampler import Sampler
from graftwork.allocation.scorer import Scorer
from graftwork.allocation.switchboard import Switchboard, waves
from graftwork.allocation.unit import Unit, largest
from graftwork.errors import GraftError
from graftwork.graft import graft_from_spec
from graftwork.handle import Graft, get, grafts


@dataclass(frozen=True)
class Result:
    """How a search ended.

    Args:
        units: the chosen set.
        cost: its trainable parameters.
        score: its utility on the audit set; it was chosen by that number, so a test set will say less.
        candidates: rows of all that competed, the winner first.
    """

    units: tuple[Unit, ...]
    cost: int
    score: float
    candidates: tuple[dict[str, Any], ...]


class Search:
    """Chooses a set of units under a budget while the caller trains.

    Args:
        model: grafted in place with all units.
        units: see `swin_units`, `conv_units`, `units`.
        score: model -> utility, higher is better, on data that neither train nor test; called often.
        budget: trainable parameters of the set: a float in (0, 1] is a fraction of the model's, an int a count.
        plan: lengths and thresholds.
        beside: names of grafts on the model that are part of every set, such as the head's. They do not count
            towards the budget.
        start: names of units that are on from the first step of the search.
        seed: of start values and audits.

    Raises:
        GraftError: a bad budget, one too small for any unit, a warm-up too short for all units, or
            whatever `Switchboard` refuses.
    """

    def __init__(
        self,
        model: nn.Module,
        units: Sequence[Unit],
        score: Score,
        *,
        budget: float | int,
        plan: Plan | None = None,
        beside: Iterable[str] = (),
        start: Iterable[str] = (),
        seed: int = 0,
    ) -> None:
        self.plan = plan = plan or Plan()
        self.score, self.seed = score, seed
        units = list(units)
        self.budget = parameter_budget(model, budget)
        if units and min(u.cost for u in units) > self.budget:
            least = min(units, key=lambda u: u.cost)
            raise GraftError(
                f"budget: {self.budget} parameters hold no unit; the smallest, {least.name}, has {least.cost}"
            )
        self._waves = waves(units, plan.together)
        if 0 < plan.warm_up < len(self._waves):
            raise GraftError(
                f"Plan.warm_up: {plan.warm_up} steps do not reach all units; they need "
                f"{len(self._waves)}, and some times that to learn (0 leaves warm-up out)"
            )
        self.board = Switchboard(model, units, beside, seed)
        try:
            self.set = self.board.check(start, "start")
            if self.board.cost(self.set) > self.budget:
                raise GraftError(
                    f"start: {self.board.cost(self.set)} parameters, the budget is {self.budget}"
                )
        except GraftError:
            self.board.remove()
            raise
        self.scorer = Scorer(plan.memory, plan.window, plan.caution, plan.optimism)
        self.sampler = Sampler(
            list(self.board.units), plan.share, plan.debt, plan.active_share, plan.uniform, seed
        )
        self.controller = Controller(plan.votes, plan.guard)
        self.diary = Diary()
        self.step = 0
        self.since: dict[str, int] = {}
        self.result: Result | None = None
        self._clock: float | None = None
        self.board.switch(self.set)

    # -- the caller's loop --------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.plan.warm_up + self.plan.steps

    @property
    def warming(self) -> bool:
        """Whether the coming step is one of warm-up."""
        return self.step < self.plan.warm_up

    def groups(self, lr: float, **fields: Any) -> list[dict[str, Any]]:
        """Parameter groups of the units, whose rates the search sets; `lr` is their height."""
        return pace.groups(self.board, lr, **fields)

    def begin(self, optimizer: Optimizer | None = None) -> None:
        """Before each step: switch on what trains in it. Calling it twice changes nothing."""
        # with nothing on there would be nothing to train, so until a unit is chosen they go on taking turns
        turns = self.warming or not (self.set or self.board.beside)
        self.board.switch(self._waves[self.step % len(self._waves)] if turns else self.set)
        if optimizer is not None:
            pace.set_rates(optimizer, self.since, self.step, self.plan.ramp)
        self._clock = time.perf_counter()

    def end(self, optimizer: Optimizer | None = None) -> list[str]:
        """After each step: audit and allocate where due.

        Args:
            optimizer: forgets the units that switch; without it their moments stay.

        Returns:
            One line for each allocation.

        Raises:
            GraftError: the search is over, or the score is no number.
        """
        if self.done:
            raise GraftError("search: all steps are taken; call finish() or settle()")
        start = time.perf_counter()
        if self._clock is not None:
            self.diary.seconds["training"] += start - self._clock
        self.step += 1
        lines = []
        if not self.warming:
            self.board.switch(self.set)
            count = self.step - self.plan.warm_up
            if count == 0 and optimizer is not None:
                for name in self.board.units:
                    pace.forget(optimizer, self.board.parameters(name))
            if count and count % self.plan.audit_every == 0:
                self._audit()
            if count and count % self.plan.allocate_every == 0:
                lines.append(self._allocate(optimizer))
        self.diary.seconds["audits"] += time.perf_counter() - start
        return lines

    def rest(self) -> None:
        """Switch to the set as it stands, for a validation between two steps."""
        self.board.switch(self.set)

    # -- audit and allocation -----------------------------------------------------------------------

    def items(self) -> list[Item]:
        """The units as the allocator sees them now."""
        return [
            Item(u.name, u.cost, self.scorer.value(u.name), u.group)
            for u in self.board.units.values()
        ]

    def _audit(self) -> None:
        names = self.sampler.draw(self.set, {n: self.scorer.unsure(n) for n in self.board.units})
        score, probes = audit(self.board, self.score, names)
        rows = []
        for probe in probes:
            density = probe.gain / self.board.units[probe.unit].cost
            rows.append(
                {
                    "unit": probe.unit,
                    "active": probe.active,
                    "predicted": self.scorer.mean(probe.unit),
                    "density": density,
                    "gain": probe.gain,
                }
            )
            self.scorer.observe(probe.unit, density)
        self.diary.audits.append({"step": self.step, "score": score, "probes": rows})

    def _allocate(self, optimizer: Optimizer | None) -> str:
        items, excludes = self.items(), self.board.excludes
        wanted = solve(
            items,
            self.budget,
            active=self.set,
            locked=self.controller.locked(self.set),
            hysteresis=self.plan.hysteresis,
            excludes=excludes,
        )
        on, up, down = self.controller.decide(items, self.set, wanted, self.budget, excludes)
        self.set = tuple(on)
        self.board.switch(self.set)
        for name in (*up, *down):
            self.since.pop(name, None)
            if optimizer is not None:
                pace.forget(optimizer, self.board.parameters(name))
        self.since.update(dict.fromkeys(up, self.step))
        cost = self.board.cost(on)
        (score,) = measure(self.board, self.score, [on])
        self.diary.allocations.append(
            {
                "step": self.step,
                "set": list(on),
                "cost": cost,
                "score": score,
                "up": up,
                "down": down,
            }
        )
        return (
            f"step {self.step}: {len(on)} units (+{len(up)} -{len(down)}), {cost:,d} of "
            f"{self.budget:,d} parameters, audit score {score:.4f}"
        )

    # -- the end ------------------------------------------------------------------------------------

    def finish(self) -> Result:
        """Let the candidates compete and switch to the winner; once, whenever the search has run enough."""
        if self.result is None:
            start = time.perf_counter()
            history = [tuple(a["set"]) for a in self.diary.allocations] or [self.set]
            items = self.items()
            found = candidates(
                items,
                history,
                self.budget,
                self.board.excludes,
                self.plan.kept,
                self.plan.swaps,
            )
            scores = dict(zip(found, measure(self.board, self.score, found), strict=True))
            rows = rank(scores, items, history)
            for row in rows:
                row["from"] = found[tuple(row["set"])]
            self._conclude(rows)
            self.diary.seconds["audits"] += time.perf_counter() - start
        assert self.result is not None
        self.board.switch(self.set)
        return self.result

    def _conclude(self, rows: list[dict[str, Any]]) -> None:
        best = rows[0]
        self.set = self.board.check(best["set"])
        chosen = tuple(self.board.units[n] for n in self.set)
        self.result = Result(chosen, best["cost"], best["score"], tuple(rows))

    def spec(self) -> dict[str, Any]:
        """The chosen set and the grafts beside it as one graft's spec.

        Raises:
            GraftError: nothing was chosen and nothing is beside.
        """
        chosen = self.finish().units
        return joint_spec(chosen, [get(self.board.model, n).spec() for n in self.board.beside])

    def export(self, model: nn.Module, name: str = "default") -> Graft:
        """The chosen set, as trained so far, as one graft on another copy of the base."""
        return graft_from_spec(model, self.spec(), name, self._tensors())

    def settle(self, name: str = "default") -> Graft:
        """Replace all units, and the grafts beside them, by one graft of the chosen set on the model itself.

        Raises:
            GraftError: another graft has that name; nothing has changed then.
        """
        model, spec = self.board.model, self.spec()
        leaving = {*self.board.units, *self.board.beside}
        if name in grafts(model) and name not in leaving:
            raise GraftError(f"name: the model has another graft {name!r}; choose another name")
        tensors = {k: t.clone() for k, t in self._tensors().items()}
        for part in leaving:
            get(model, part).remove()
        return graft_from_spec(model, spec, name, tensors)

    def _tensors(self) -> dict[str, Tensor]:
        names = (*self.set, *self.board.beside)
        return {k: t for n in names for k, t in get(self.board.model, n).tensors().items()}

    # -- state --------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """The search as plain JSON; see `write_record`."""
        seconds = {k: round(v, 3) for k, v in self.diary.seconds.items()}
        return {
            "format": FORMAT,
            "version": 1,
            "chosen": [u.row() for u in self.result.units] if self.result else [],
            "cost": self.result.cost if self.result else 0,
            "score": self.result.score if self.result else None,
            "budget": self.budget,
            "largest": largest(self.board.units.values()),
            "seed": self.seed,
            "plan": self.plan.row(),
            "steps": self.step,
            "units": len(self.board.units),
            "beside": list(self.board.beside),
            "candidates": list(self.result.candidates) if self.result else [],
            "allocations": list(self.diary.allocations),
            "audits": list(self.diary.audits),
            "foreseen": self.diary.foreseen(),
            "seconds": seconds,
            "share_in_audits": self.diary.share(),
        }

    @property
    def binds(self) -> bool:
        """Whether the budget keeps the search from taking the largest set; else it chooses nothing."""
        return self.budget < largest(self.board.units.values())

    def state_dict(self) -> dict[str, Any]:
        """Everything but tensors, as plain JSON; the units' tensors are saved with the model's grafts."""
        return {
            "units": {n: u.cost for n, u in self.board.units.items()},
            "beside": list(self.board.beside),
            "budget": self.budget,
            "plan": self.plan.row(),
            "seed": self.seed,
            "step": self.step,
            "set": list(self.set),
            "since": dict(self.since),
            "scorer": self.scorer.state_dict(),
            "sampler": self.sampler.state_dict(),
            "controller": self.controller.state_dict(),
            "diary": self.diary.state_dict(),
            "candidates": None if self.result is None else list(self.result.candidates),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, in a search that was built alike.

        Raises:
            GraftError: other units, budget, plan, seed or grafts beside; nothing has changed then.
        """
        mine = self.state_dict()
        for field in ("units", "beside", "budget", "plan", "seed"):
            if state.get(field) != mine[field]:
                raise GraftError(
                    f"search: {_difference(field, state.get(field), mine[field])}; resume with what the "
                    "interrupted search was built with"
                )
        state = copy.deepcopy(state)
        self.set = self.board.check(state["set"])
        self.step, self.since = state["step"], state["since"]
        self.scorer.load_state_dict(state["scorer"])
        self.sampler.load_state_dict(state["sampler"])
        self.controller.load_state_dict(state["controller"])
        self.diary.load_state_dict(state["diary"])
        self.result, self._clock = None, None
        if state["candidates"] is not None:
            self._conclude(state["candidates"])
        self.board.switch(self.set)


def _difference(field: str, saved: Any, mine: Any) -> str:
    if isinstance(saved, dict) and isinstance(mine, dict):
        keys = [k for k in {**mine, **saved} if saved.get(k) != mine.get(k)]
        if keys:
            key = keys[0]
            return f"{field} {key!r} is {saved.get(key)!r} in the state, {mine.get(key)!r} here"
    return f"{field} is {str(saved)[:80]!r} in the state, {str(mine)[:80]!r} here"
