"""A job's data and module, built by its own app from its own config, and nothing else done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningCLI

from graftwork.errors import GraftError
from graftwork.lightning import configs
from graftwork.lightning.app import App
from graftwork.lightning.cli import AppCLI
from graftwork.lightning.many.jobs import Job

#: fields of `trainer` that a shared run follows, and those whose default alone it takes
FOLLOWED = ("max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val")
REFUSED: dict[str, Sequence[Any]] = {
    "precision": (None, "32-true", "32", 32, "bf16-mixed"),
    "limit_train_batches": (None, 1.0),
    "overfit_batches": (0, 0.0),
    "fast_dev_run": (False,),
    "callbacks": (None, []),
    "gradient_clip_algorithm": (None, "norm"),
    "num_nodes": (1,),
    "strategy": ("auto", None),
}


def prepare(job: Job, app: App) -> AppCLI:
    """The command line of a job's app with `model`, `datamodule` and `config_init` of its verb `fit`.

    Nothing is grafted, trained or written.

    Raises:
        GraftError: the config does not resolve, or asks for what a shared run does not do; it names the job.
    """
    base: Any = app.load_cli()

    class Prepared(base):  # type: ignore[misc]
        """Stops where data and module are built."""

        def keeps_files(self) -> bool:
            return False

        def instantiate_classes(self) -> None:
            LightningCLI.instantiate_classes(self)
            self.built()

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    try:
        arguments = configs.resolve_names(app, job.arguments())
        cli = Prepared.launch(app, ["fit", *arguments])
        assert isinstance(cli, AppCLI)
        _check(cli)
    except GraftError as error:
        raise GraftError(f"job {job.name!r}: {error}") from None
    return cli


def _check(cli: AppCLI) -> None:
    trainer = cli._get(cli.config_init, "trainer")
    for field, good in REFUSED.items():
        value = trainer.get(field)
        if repr(value) not in map(repr, good):  # one batch, 1, is not all of them, 1.0
            raise GraftError(
                f"trainer.{field}: {value!r} is not followed in a shared run; leave it out, or train this job alone"
            )
    if trainer.get("accumulate_grad_batches") is None or trainer["accumulate_grad_batches"] < 1:
        raise GraftError("trainer.accumulate_grad_batches must be at least 1")
    if cli._setting("resume"):
        raise GraftError("resume: a shared run resumes all its jobs; leave it out of the config")
    if cli.datamodule is None:
        raise GraftError("data: the app has none, so there is nothing to train on")
    network = cli.graft_target()
    if getattr(cli.model, "network", None) is not network:
        raise GraftError(
            f"{type(cli.model).__name__}: the base of a shared run is its attribute `network`; it has another or none"
        )
    inside = {id(p) for p in network.parameters()}
    outside = [n for n, p in cli.model.named_parameters() if id(p) not in inside]
    if outside:
        raise GraftError(
            f"{type(cli.model).__name__} has parameters outside its network ({outside[0]}), which its graft does not "
            "hold; such a job trains alone"
        )
