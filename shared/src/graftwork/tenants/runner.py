"""Trains many tasks on one frozen model: joint passes, and everything else apart.

    runner = gw.tenants.Runner(model, [Task("a", data_a, loss_a, gw.LoRA(8)), Task("b", data_b, loss_b, gw.IA3())])
    runner.run()

A round draws one batch of every running task, runs each hybrid task of the plan as one pass, and lets the tasks
whose batches fill a step clip, step and schedule on their own. What fails is its task's matter alone: a loss or a
gradient that is not finite, or memory that a task cannot get, costs it that step; data, a loss or an optimizer that
raises costs it its place. An error in a shared pass is looked for by running its tasks one by one.

In several processes of torch's default group each has a runner of the same tasks on the same base, on a device of its
own, and calls the same methods in the same order (`ranks`). The rows of a batch are shared out among them, so tasks
train as in one process; what a task draws at random it draws in each process for its rows there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from graftwork.errors import GraftError
from graftwork.graft import graft
from graftwork.handle import activate, active, get, grafts
from graftwork.tenants import backbone, saving, steps
from graftwork.tenants.backbone import Body, describe
from graftwork.tenants.batches import Join, call, stack
from graftwork.tenants.checks import CannotShareError, check_rows_apart
from graftwork.tenants.interrupts import interrupts
from graftwork.tenants.mix import Mix
from graftwork.tenants.ranks import model_print, ranks, seed_of
from graftwork.tenants.recorded import Recordings
from graftwork.tenants.source import Source
from graftwork.tenants.steps import Outcome
from graftwork.tenants.streams import Stream
from graftwork.tenants.task import Task, Tenant


class Plan(Protocol):
    """Which tasks share a pass; with a method `cycle`, also how often each hybrid task has its turn in a round."""

    @property
    def groups(self) -> Sequence[Sequence[str]]:
        """Hybrid tasks in the order in which they run; each running task is in exactly one."""
        ...


class Runner:
    """Many tasks on one model.

    Args:
        model: the base, with or without grafts; it is frozen by the first graft. Call `model.train()` where adapters
            have dropout.
        tasks: to begin with.
        body: the shared part of the model, from the joined inputs to a tensor whose first axis are the rows (or whose
            leading axes together are, where tasks are packed into sequences).
        join: makes one batch of several tasks' inputs; the default stacks rows of one shape.
        plan: which tasks share a pass; a function is asked again whenever somebody joins or leaves. `None`: all do.
        patience: a task is dropped when it fails so many rounds in a row.
        check: compare the rows of the first shared pass with the same rows alone, which costs one pass more.
        record: replay passes that come again as CUDA graphs; what cannot be recorded runs as it is, with a warning.

    Attributes:
        tenants: by name; rounds: that were run.
        ranks: the processes that share the work; `None` in one.
        recordings: the passes that are replayed; `None` where nothing is recorded.

    Raises:
        GraftError: two tasks of one name, a graft that does not fit, a model that does not keep rows apart, or
            processes with other tasks or another base than the first's.
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Iterable[Task] = (),
        *,
        body: Body = call,
        join: Join = stack,
        plan: Plan | Callable[[list[Tenant]], Plan] | None = None,
        patience: int = 3,
        check: bool = True,
        record: bool | Recordings = False,
    ) -> None:
        if patience < 1:
            raise GraftError(f"Runner.patience must be 1 or more, not {patience!r}")
        self.model, self.body, self.join_batches = model, body, join
        self.plan, self.patience, self._unchecked = plan, patience, check
        self.tenants: dict[str, Tenant] = {}
        self.rounds = 0
        self._streams: dict[str, Stream] = {}
        self._mix: Mix | None = None
        self.recordings = Recordings(tell=self._note) if record is True else record or None
        self._planned: tuple[list[str], Sequence[Sequence[str]]] | None = None
        self._cycle: Sequence[Sequence[str]] = ()
        self._noted: set[str] = set()
        self._asked: Sequence[int] = ()
        self._stopping = False
        self.ranks = ranks()
        if self.ranks is not None:
            self.ranks.check_alike("bases", model_print(model))
        tasks = list(tasks)
        names = [t.name for t in tasks]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise GraftError(f"tenants: two tasks of one name: {twice}")
        for task in tasks:
            self.join(task)

    # -- who takes part ---------------------------------------------------------------------------

    def join(self, task: Task, state: Mapping[str, Any] | None = None) -> Tenant:
        """Take a task in, between two rounds; it starts at its own step 0.

        Args:
            task: the task.
            state: what `state_of` gave of it, to go on from.

        Raises:
            GraftError: the name is taken, the graft does not fit, or the model does not keep rows apart. Nothing has
                changed then.
        """
        if task.name in self.tenants and self.tenants[task.name].status != "left":
            raise GraftError(f"tenants: there is a task {task.name!r} already; choose another name")
        check_rows_apart(self.model)
        on = active(self.model)
        made = task.method is not None
        if task.method is not None:
            handle = graft(
                self.model,
                task.method,
                sites=task.sites,
                overrides=task.overrides,
                also_train=task.also_train,
                name=task.name,
                seed=task.seed,
                any_rank=task.any_rank,
            )
        else:
            handle = get(self.model, task.name)
        try:
            activate(self.model, on or None)
            own = 0 if self.ranks is None else self.ranks.rank
            if self.ranks is not None:
                self.ranks.check_alike("tasks", (task.name, list(handle.tensors())))
                self.ranks.align(handle)
            optimizer = task.optimizer(handle)
            schedule = None if task.schedule is None else task.schedule(optimizer)
            drawn = seed_of(task.seed, own) if task.own_rows else task.seed
            source = Source(task.data, drawn, again=task.steps is not None)
            stream = Stream(seed_of(task.seed, own))
            tenant = Tenant(task, handle, optimizer, schedule, stream, source)
            if state is not None:
                saving.restore(tenant, state, own)
        except BaseException:
            if made:
                handle.remove()
            raise
        self.tenants.pop(task.name, None)
        self.tenants[task.name] = tenant
        self._streams[task.name] = tenant.stream
        return tenant

    def leave(self, name: str, remove: bool = False) -> Tenant:
        """Let a task go, between two rounds; the others' weights and optimizers are not touched.

        Args:
            name: of the task.
            remove: take its graft off the model too.

        Raises:
            GraftError: no such task.
        """
        tenant = self._tenant(name)
        tenant.reset()
        if tenant.status == "running":
            tenant.status = "left"
        if remove:
            tenant.graft.remove()
            del self.tenants[name]
        return tenant

    def _tenant(self, name: str) -> Tenant:
        if name not in self.tenants:
            raise GraftError(f"tenants: no task {name!r}; there are {sorted(self.tenants)}")
        return self.tenants[name]

    @property
    def running(self) -> list[Tenant]:
        """The tasks that go on."""
        return [t for t in self.tenants.values() if t.status == "running"]

    # -- training ---------------------------------------------------------------------------------

    def round(self) -> dict[str, Outcome]:
        """One batch of every running task; where the plan gives some hybrid tasks more turns, one for each turn."""
        out: dict[str, Outcome] = {}
        for turn in self._turns():
            groups = self.groups() if turn is None else [turn]
            asked = [
                t for g in groups for n in g if (t := self.tenants[n]).status == "running"
            ]  # a task may have ended in an earlier turn of this round
            if not asked:
                continue
            results = backbone.Results()
            batches = steps.draw(asked, results, self.ranks)
            kept = {t: t.put_aside() for t in asked}
            try:
                for group in groups:
                    chosen = {self.tenants[n]: batches[n] for n in group if n in batches}
                    if chosen:
                        self._pass(chosen, results)
                if self.ranks is not None:
                    self.ranks.combine(asked, results)
            except BaseException:
                for t, grads in kept.items():
                    t.put_back(grads)
                raise
            for t, grads in kept.items():
                t.add(grads)
            out |= steps.take(asked, results, self.patience)
            self._settle(asked, out)
        self.rounds += bool(out)
        return out

    def _settle(self, tenants: Sequence[Tenant], out: dict[str, Outcome]) -> None:
        """What failed in a step, and whether to stop, is the same everywhere."""
        self._stopping = bool(self._asked)
        if self.ranks is None:
            return
        failed, self._stopping = self.ranks.settle(tenants, self._stopping)
        for t in tenants:
            if t.name in failed:
                if t.status != "failed":
                    steps.drop(t, failed[t.name])
                out[t.name] = Outcome(fault=t.failures[-1])

    def _turns(self) -> Sequence[Sequence[str] | None]:
        """The hybrid tasks that draw and step one after another; `None` is all of them together."""
        self.groups()
        turns = self._cycle
        return turns if len(turns) > len({*map(tuple, turns)}) else [None]

    def groups(self) -> Sequence[Sequence[str]]:
        """The plan's hybrid tasks.

        Raises:
            GraftError: a running task is in none of them, or in two.
        """
        names = [t.name for t in self.running]
        if self._planned is not None and self._planned[0] == names:
            return self._planned[1]
        groups: Sequence[Sequence[str]] = [names]
        self._cycle = ()
        if self.plan is not None and names:
            made = self.plan(self.running) if callable(self.plan) else self.plan
            cycle = getattr(made, "cycle", None)
            groups, self._cycle = made.groups, list(cycle()) if callable(cycle) else []
            if self.ranks is not None:  # one that goes by what each process measures
                groups, self._cycle = self.ranks.firsts((groups, self._cycle))
            found = [n for group in groups for n in group]
            wrong = sorted(n for n in names if found.count(n) != 1)
            if wrong:
                raise GraftError(
                    f"tenants: the plan must hold each task once; it does not hold so: {wrong}"
                )
        self._planned = names, groups
        return groups

    def _pass(self, batches: Mapping[Tenant, Any], results: backbone.Results) -> None:
        """One hybrid task's pass; after an error, its tasks one by one."""
        marks = {t: t.stream.state_dict() for t in batches}
        try:
            if self._mix is None:
                self._mix = Mix(self.model, self._streams)
            if self._unchecked and len(batches) > 1:
                backbone.check_apart(self._mix, self.body, self.join_batches, batches)
                self._unchecked = False
            found = backbone.run(self._mix, self.body, self.join_batches, batches, self.recordings)
        except BaseException as error:
            for t in batches:
                t.stream.load_state_dict(marks[t])
                t.put_aside()
            if not isinstance(error, Exception) or isinstance(error, CannotShareError):
                raise
            fault = describe(error)
            memory = isinstance(error, torch.OutOfMemoryError)
        else:
            results.add(found)
            return
        freed = memory and self.recordings is not None and self.recordings.stop()
        if memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if freed:
            self._pass(batches, results)
        elif len(batches) == 1:
            results.faults[next(iter(batches)).name] = fault
        else:
            self._note(
                f"a shared pass of {[t.name for t in batches]} failed ({fault}); its tasks run one by one"
            )
            for t, batch in batches.items():
                self._pass({t: batch}, results)

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            warnings.warn(f"tenants: {text}", stacklevel=3)

    def run(
        self, rounds: int | None = None, progress: Callable[[Runner], object] | None = None
    ) -> bool:
        """Rounds until no task is running, or so many.

        Ctrl-C ends the round first, so that what is saved then is whole; a second one ends at once.

        Args:
            rounds: at most; `None`: no limit.
            progress: called after each round.

        Returns:
            Whether it came to its end; `False` after Ctrl-C.
        """
        with interrupts() as self._asked:
            done = 0
            while self.running and (rounds is None or done < rounds):
                self.round()
                done += 1
                if progress is not None:
                    progress(self)
                if self._stopping or (self._asked and self.ranks is None):
                    return False
        return True

    def table(self) -> list[dict[str, Any]]:
        """A row for each task, for reports and live tables."""
        return [
            {
                "name": t.name,
                "method": t.graft.method.id if t.name in grafts(self.model) else "",
                "status": t.status,
                "step": t.step,
                "loss": t.curve[-1][1] if t.curve else None,
                "batches": t.drawn,
                "rows": t.rows,
                "failures": len(t.failures),
                "last failure": t.failures[-1] if t.failures else "",
            }
            for t in self.tenants.values()
        ]

    # -- saving -----------------------------------------------------------------------------------

    def state_of(self, name: str) -> dict[str, Any]:
        """All of one task's state, between two rounds; all processes must ask for it."""
        found: dict[str, Any] = self._whole({name: self._tenant(name)})[name]
        return found

    def state_dict(self) -> dict[str, Any]:
        """All tasks' state, between two rounds; training goes on from it exactly. All processes must ask for it."""
        tasks = self._whole(self.tenants)
        return {"format": saving.FORMAT, "rounds": self.rounds, "tasks": tasks}

    def _whole(self, tenants: Mapping[str, Tenant]) -> dict[str, Any]:
        found = {name: saving.state_of(t) for name, t in tenants.items()}
        if self.ranks is not None:
            _, *others = self.ranks.everyones({n: saving.drawn(t) for n, t in tenants.items()})
            for name, state in found.items():
                state["others"] = [theirs[name] for theirs in others]
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another run of the same tasks stood.

        Raises:
            GraftError: other tasks than these, tensors that do not fit, or data that are shorter than they were.
        """
        saving.check(state, self.tenants)
        own = 0 if self.ranks is None else self.ranks.rank
        for name, t in self.tenants.items():
            saving.restore(t, state["tasks"][name], own)
        self.rounds = state["rounds"]

    def save(self, path: str | Path) -> None:
        """Write the state of all tasks to a file, whole or not at all; of several processes the first one writes."""
        state = self.state_dict()
        if self.ranks is None or self.ranks.rank == 0:
            saving.write(state, Path(path))

    def load(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote.

        Raises:
            GraftError: as `load_state_dict`, or the file cannot be read.
        """
        self.load_state_dict(saving.read(Path(path)))
