"""From jobs to tasks on one backbone: everything that can be refused is refused here, before anything trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.lightning.app import apps
from graftwork.lightning.cli import AppCLI
from graftwork.lightning.data import world
from graftwork.lightning.many import sharing
from graftwork.lightning.many.jobs import Job, Jobs
from graftwork.lightning.many.optimizing import Optimizing
from graftwork.lightning.many.prepared import prepare
from graftwork.lightning.many.steps import Context, Cut, Steps
from graftwork.tenants.align import Aligned, batches, tensor_of
from graftwork.tenants.aligner import Aligner
from graftwork.tenants.batches import Joined, stack
from graftwork.tenants.cost import TaskLoad, real_rows
from graftwork.tenants.layouts import PLANNED, Shape
from graftwork.tenants.measure import model_bytes
from graftwork.tenants.segments import Segments
from graftwork.tenants.task import Task

TOKENS = "tokens"


@dataclass
class Built:
    """One job, ready to train.

    Attributes:
        job, cli: what was asked for, and its app's command line.
        steps: its batches and losses.
        count: optimizer steps until it is done.
        sample: inputs of its first batch.
        lengths: rows of each sequence or sample of that batch; kind: what its rows are.
    """

    job: Job
    cli: AppCLI
    steps: Steps
    count: int
    sample: Any
    lengths: tuple[int, ...]
    kind: str
    logged: dict[str, float] = field(default_factory=dict)

    @property
    def part(self) -> str:
        """The part of the network that its step calls."""
        return self.steps.part or ""

    @property
    def tokens(self) -> bool:
        """Whether its rows are sequences of token ids."""
        return self.kind.startswith(TOKENS)

    def load(self, state: int) -> TaskLoad:
        """What the planner gets to know."""
        return TaskLoad(self.job.name, self.lengths, state, float(self.job.priority), self.kind)


@dataclass
class Shared:
    """The backbone and how the jobs' rows are joined on it."""

    model: nn.Module
    jobs: list[Built]
    aligners: dict[str, Aligner]  # by the part of the model that is called
    backbone: int
    context: Context  # of mixed precision, or none

    def __post_init__(self) -> None:
        self._parts = {b.job.name: b.part for b in self.jobs}

    def body(self, model: nn.Module, inputs: Any) -> Tensor:
        """The shared part of a pass, of inputs that `join` made."""
        part, inputs = inputs
        with self.context():
            if isinstance(inputs, Aligned):
                return self.aligners[part].run(inputs)
            called = model.get_submodule(part)
            return tensor_of(called(**inputs) if isinstance(inputs, dict) else called(inputs))

    def join(self, inputs: Mapping[str, Any]) -> Joined:
        """Several jobs' inputs as one batch."""
        name, first = next(iter(inputs.items()))
        part = self._parts[name]
        if not _tokens(first):
            joined = stack(inputs)
            return Joined((part, joined.inputs), joined.segments, joined.own)
        aligned = self.aligners[part].align(inputs)
        return Joined((part, aligned), Segments(aligned.names, aligned.sizes), aligned.own)

    def aligner(self, group: Sequence[TaskLoad]) -> Aligner | None:
        """Joins a group's sequences; `None` where its rows are none."""
        first = group[0]
        return self.aligners[self._parts[first.name]] if first.kind.startswith(TOKENS) else None

    def shapes(self, group: Sequence[TaskLoad]) -> list[Shape]:
        """Those that a pass of a group may have."""
        aligner = self.aligner(group)
        return real_rows(group) if aligner is None else aligner.shapes(group)


def build(jobs: Jobs) -> Shared:
    """Prepare all jobs on one backbone.

    Raises:
        GraftError: by the job's name: an app that is not there, a config that does not resolve, another base or
            tokenizer; a chunk above the model's positions; a cap under the backbone's memory.
    """
    found = apps()
    for job in jobs.jobs:
        if job.app not in found:
            raise GraftError(
                f"job {job.name!r}: no app {job.app!r} is installed; there are: {', '.join(found) or 'none'}"
            )
    model: nn.Module | None = None
    first, base, words = "", {}, ""
    clis: list[AppCLI] = []
    for job in jobs.jobs:
        cli = prepare(job, found[job.app])
        mine, token = sharing.prints(cli.graft_target()), sharing.tokenizer_print(cli)
        if model is None:
            model, first, base, words = cli.graft_target(), job.name, mine, token
        else:
            sharing.refuse_other(job.name, first, mine, base)
            sharing.refuse_tokenizer(job.name, first, token, words)
            cli.model.network = model  # the copy is let go
        clis.append(cli)
    assert model is not None
    device = _device(clis, jobs.jobs)
    _refuse_precisions(clis, jobs.jobs)
    for cli in clis:
        cli.model.to(device)
    backbone = model_bytes(model)
    if jobs.memory is not None and jobs.memory < backbone:
        raise GraftError(
            f"memory: {jobs.memory:,} bytes are under the {backbone:,} of the backbone alone; raise it or take a "
            "smaller or quantised base"
        )
    built = [_built(job, cli) for job, cli in zip(jobs.jobs, clis, strict=True)]
    aligners: dict[str, Aligner] = {}
    for b in [b for b in built if b.tokens]:
        if b.part not in aligners:
            aligners[b.part] = aligner = Aligner(
                model.get_submodule(b.part), jobs.layout, jobs.chunk
            )
            if jobs.record and jobs.layout == PLANNED:
                aligner.refused.setdefault("chunked", "passes in chunks are not recorded")
        try:
            aligners[b.part].choice(list(b.lengths))
        except GraftError as error:
            raise GraftError(f"job {b.job.name!r}: {error}") from None
    return Shared(model, built, aligners, backbone, _context(clis[0]))


def task_of(b: Built, model: nn.Module) -> Task:
    """The engine's task of a job.

    Raises:
        GraftError: an adapter that does not load, or nothing that trains.
    """
    cli, name = b.cli, b.job.name
    trainer = cli._get(cli.config_init, "trainer")
    adapter, method = cli._setting("adapter"), cli._get(cli.config_init, "graft")
    if adapter is not None:
        gw.load(model, adapter, name=name)
        method = None
    elif method is None:
        raise GraftError(
            f"job {name!r}: graft: it has none, and nothing else may train on a shared base"
        )
    acts = method if method is not None else gw.get(model, name).method
    if b.tokens and acts.positional:
        raise GraftError(
            f"job {name!r}: graft: {type(acts).__name__} acts on positions of each prompt, which move where sequences "
            "of several jobs are joined; such a job trains alone"
        )
    own = Optimizing(name, cli, model, b.count)

    def loss(output: Tensor, cut: Cut) -> Tensor:
        return b.steps.loss(output, cut)

    clip = trainer.get("gradient_clip_val")
    return Task(
        name,
        b.steps,
        loss,
        method,
        sites=None if adapter is not None else cli._setting("sites"),
        also_train=() if adapter is not None else cli._setting("also_train"),
        any_rank=cli._setting("any_rank"),
        optimizer=own.optimizer,
        schedule=own.schedule,
        clip=float(clip) if clip else None,
        accumulate=int(trainer.get("accumulate_grad_batches") or 1),
        steps=b.count,
        seed=int(cli._setting("seed_everything")),
        own_rows=True,
        weight=lambda cut: cut.weight,
    )


def _built(job: Job, cli: AppCLI) -> Built:
    data: Any = cli.datamodule
    logged: dict[str, float] = {}
    try:
        data.prepare_data()
        data.setup("fit")
        # the first is looked at and let go: the one that trains stands at its start
        first, loader = data.train_dataloader(), data.train_dataloader()
        if world()[1] > 1 and not isinstance(getattr(loader, "sampler", None), DistributedSampler):
            raise GraftError(
                "its loader gives every process the same samples; return a ResumableLoader from train_dataloader"
            )
        cli.model.train()
        with torch.random.fork_rng():
            cli.model.on_fit_start()
            look = Steps(job.name, cli.model, first, data=data, context=_context(cli))
            batch = next(iter(look), None)
    except GraftError as error:
        text = str(error)
        named = text if text.startswith(f"job {job.name!r}") else f"job {job.name!r}: {text}"
        raise GraftError(named) from None
    if batch is None:
        raise GraftError(f"job {job.name!r}: its data hold no batch")
    steps = Steps(job.name, cli.model, loader, logged.__setitem__, data, _context(cli))
    steps.part, inputs = look.part, batch[0]
    lengths, kind = _rows_of(job.name, inputs)
    kind += f" of {look.part}" if look.part else ""
    if any(isinstance(item, gw.NewRows) for item in cli._setting("also_train")):
        kind += f"; outputs of {job.name} alone"  # of another width than the others': it has its passes to itself
    return Built(job, cli, steps, _count(job.name, cli, loader), inputs, lengths, kind, logged)


def _context(cli: AppCLI) -> Context:
    """In which the job's own trainer would run a step."""
    return cli.trainer.precision_plugin.forward_context


def _refuse_precisions(clis: Sequence[AppCLI], jobs: Sequence[Job]) -> None:
    found = [str(cli.trainer.precision) for cli in clis]
    for job, mine in zip(jobs, found, strict=True):
        if mine != found[0]:
            raise GraftError(
                f"job {job.name!r}: trainer.precision is {mine}, that of {jobs[0].name!r} {found[0]}; jobs that share "
                "passes have one"
            )


def _count(name: str, cli: AppCLI, loader: Any) -> int:
    trainer = cli._get(cli.config_init, "trainer")
    most, epochs = trainer.get("max_steps", -1), trainer.get("max_epochs")
    accumulate = int(trainer.get("accumulate_grad_batches") or 1)
    counts = [int(most)] if most is not None and most > 0 else []
    if epochs is not None and epochs > 0:
        counts.append(int(epochs) * len(loader) // accumulate)
    if not counts or min(counts) < 1:
        raise GraftError(
            f"job {name!r}: trainer.max_steps or trainer.max_epochs must say when it ends"
        )
    return min(counts)


def _tokens(inputs: Any) -> bool:
    return isinstance(inputs, dict) and "input_ids" in inputs


def _rows_of(name: str, inputs: Any) -> tuple[tuple[int, ...], str]:
    """Rows of each sequence or sample, and of what kind they are."""
    if _tokens(inputs):
        (own,) = batches({name: inputs})
        return own.lengths, TOKENS
    leaves = [inputs] if isinstance(inputs, Tensor) else list(inputs.values())
    shapes = [f"{t.dtype} {tuple(t.shape[1:])}" for t in leaves]
    first = leaves[0]
    each = math.prod(first.shape[2:]) if first.dim() > 2 else 1
    return (each,) * first.shape[0], "; ".join(shapes)


def _device(clis: Sequence[AppCLI], jobs: Sequence[Job]) -> torch.device:
    """The one device that the jobs' trainers chose; in several processes each has a GPU of its own.

    Raises:
        GraftError: they differ, one wants several, or there are fewer GPUs than processes.
    """
    found = [(c.trainer.strategy.root_device, c.trainer.num_devices) for c in clis]
    for job, (device, count) in zip(jobs, found, strict=True):
        if count != 1:
            raise GraftError(
                f"job {job.name!r}: trainer.devices: {count}; the devices of a shared run are those of "
                "`train-many --devices`, so leave it at 1"
            )
        if device != found[0][0]:
            raise GraftError(
                f"job {job.name!r}: its trainer wants {device}, that of {jobs[0].name!r} {found[0][0]}; give all jobs "
                "one accelerator and device"
            )
    device, (rank, several) = found[0][0], world()
    if several == 1 or device.type != "cuda":
        return device
    there = torch.cuda.device_count()
    if there < several:
        raise GraftError(f"devices: {several} were asked for, and this machine has {there}")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device
