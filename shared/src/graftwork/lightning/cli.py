"""The command line every app shares: LightningCLI plus grafts, an allow-list, run folders and verbs.

An app writes one class and one light declaration (see `graftwork.lightning.app`):

    # graftwork_medseg/cli.py
    from graftwork.lightning.cli import AppCLI
    from graftwork.lightning.verbs import verb

    class MedsegCLI(AppCLI):
        module = Segmenter                  # a LightningModule; its attribute `network` is what is grafted
        data = VolumeData                   # a LightningDataModule, or the base of several ...
        data_subclasses = True              # ... then the config says which: data.class_path
        allow = (FolderData, SimulatedData, "monai.networks.nets")   # what configs may name beside the common list

        @verb
        def demo(self, seeds: int = 3) -> None:
            '''A complete example on the embedded data.

            Args:
                seeds: how many times to repeat the training.
            '''
            self.fit(); self.test()

The config of each verb has the fields: seed_everything, trainer, model, data, graft, sites,
also_train, any_rank, adapter, optimizer, lr_scheduler, graphs, run_dir, resume, dry_run, and the verb's own.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import MethodType
from typing import Any, ClassVar

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.lightning import allow, processes, run_folder, starting
from graftwork.lightning.app import App
from graftwork.lightning.blame import blame
from graftwork.lightning.curve import CurveLogger
from graftwork.lightning.dry_run import check_round_trip
from graftwork.lightning.export import export_merged
from graftwork.lightning.fields import ALWAYS_SKIPPED, DRY_RUN, SKIPPED, add_fields
from graftwork.lightning.optimizers import configured
from graftwork.lightning.output import settle_output
from graftwork.lightning.primary import primary
from graftwork.lightning.recorded import Recorded
from graftwork.lightning.resume import ExactResume
from graftwork.lightning.staying import staying
from graftwork.lightning.step_checkpoint import StepCheckpoint
from graftwork.lightning.verbs import trainer_with, verb, verbs_of, with_flags

#: verbs that use an adapter and never start a new graft
_MEASURING = {"validate", "test", "predict", "export"}


class AppCLI(LightningCLI):
    """Base class of an app's command line.

    Subclasses set the class attributes and add or replace verbs. Inside a verb: `self.app`, `self.verb`,
    `self.model`, `self.datamodule`, `self.trainer`, `self.graft`, `self.run_dir`, `self.dry_run`,
    `self.quiet`, `self.verbose`.

    Attributes:
        module: the LightningModule class; its attribute `network` is what is grafted.
        data: the LightningDataModule class, or `None`.
        module_subclasses, data_subclasses: the config chooses a subclass by `class_path`.
        allow: classes, or dotted paths, that a config may name beside the common ones.
        trainer_settings: defaults of `trainer.*`.
        graft_default: the graft when the config names none; `None` for no graft.
        checkpoint_every: optimizer steps between two checkpoints.
    """

    module: ClassVar[type[LightningModule]]
    data: ClassVar[type[LightningDataModule] | None] = None
    module_subclasses: ClassVar[bool] = False
    data_subclasses: ClassVar[bool] = False
    allow: ClassVar[Sequence[type | str]] = ()
    trainer_settings: ClassVar[dict[str, Any]] = {}
    graft_default: ClassVar[dict[str, Any] | None] = {
        "class_path": "graftwork.LoRA",
        "init_args": {"rank": 8},
    }
    checkpoint_every: ClassVar[int] = 100

    def __init__(self, app: App, args: list[str] | None, verb: str | None = None) -> None:
        self.app, self._args = app, args
        self._asked = verb if args is None else args[0]  # other verbs' parsers are not made
        self.graft: gw.Graft | None = None
        allow.allow_only([*allow.common(), *self._own_classes()])
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        defaults = {
            v: {"default_config_files": [app.default_config(v)], "exit_on_error": False}
            for v in self.subcommands()
        }
        try:
            super().__init__(
                model_class=self.module,
                datamodule_class=self.data,
                subclass_mode_model=self.module_subclasses,
                subclass_mode_data=self.data_subclasses,
                trainer_class=trainer_with(verbs_of(type(self))),
                trainer_defaults={"enable_model_summary": False, **self.trainer_settings},
                seed_everything_default=0,
                save_config_callback=None,
                auto_configure_optimizers=False,
                parser_kwargs={"prog": app.name, "exit_on_error": False, **defaults},
            )
        finally:
            if self._scratch is not None:
                self._scratch.cleanup()

    # -- what apps may replace --------------------------------------------------------------------

    def graft_target(self) -> nn.Module:
        """The module that is grafted: the LightningModule's `network`, or itself if it has none."""
        network = getattr(self.model, "network", self.model)
        assert isinstance(network, nn.Module)
        return network

    def built(self) -> None:
        """Called when data and module are built, before anything is grafted or written.

        An app checks here that they fit each other.
        """

    def adapter_folder(self, name: str) -> str | Path:
        """The folder that `--adapter` names; an app gives the folders of adapters that it ships here."""
        return name

    def passport(self) -> dict[str, Any]:
        """Further arguments of `graftwork.save` for every adapter that this app writes."""
        return {}

    def keeps_files(self) -> bool:
        """Whether this run has a run folder; one without has a temporary folder as `run_dir`."""
        return not self.dry_run

    def resumes_from(self) -> Sequence[Path]:
        """Files of a run folder, one of which must be there for `--resume`."""
        return (run_folder.CHECKPOINT,)

    def finished(self, verb: str) -> None:
        """Called after a verb succeeded; an app writes its record and report here."""

    def fit(self, **_: Any) -> None:
        """Train, then write the graft to `<run_dir>/graft`."""
        checkpoint = self.run_dir / run_folder.CHECKPOINT
        again = checkpoint if self.resume and checkpoint.exists() else None
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=again)
        self.save_graft()
        if self.dry_run and self.graft is not None and primary():
            check_round_trip(self.graft, checkpoint, self.run_dir / "graft")

    def validate(self, **_: Any) -> None:
        """Measure on the validation set."""
        self.trainer.validate(self.model, datamodule=self.datamodule, verbose=not self.quiet)

    def test(self, **_: Any) -> None:
        """Measure on the test set."""
        self.trainer.test(self.model, datamodule=self.datamodule, verbose=not self.quiet)

    def predict(self, **_: Any) -> None:
        """Predict; writing is the module's or a callback's part."""
        self.trainer.predict(self.model, datamodule=self.datamodule, return_predictions=False)

    @verb
    def adapt(self) -> None:
        """Few-shot: train on a handful of examples, write the adapter, measure it."""
        self.fit()
        self.validate()

    @verb
    def export(self, output: str | None = None, merged: bool = False) -> None:
        """Write the adapter folder, or the base's weights with the graft merged in.

        Args:
            output: a new folder (or, merged, a safetensors file); `null` puts it into the run folder.
            merged: write the whole network's weights.
        """
        if self.graft is None:
            raise GraftError("export: nothing to export; name an adapter folder with --adapter")
        if merged:
            target = Path(output) if output else self.run_dir / "merged.safetensors"
            export_merged(self.graft, target)
        else:
            target = Path(output) if output else self.run_dir / "graft"
            gw.save(self.graft, target, **self.passport())
        self.say(f"exported: {target}")

    @verb
    def demo(self) -> None:
        """A complete example on the embedded data: train, then measure."""
        self.fit()
        self.test()

    # -- what verbs may use -----------------------------------------------------------------------

    def new_graft(self, target: nn.Module) -> gw.Graft | None:
        """The graft of this run's settings on `target`: read, or new with the run's seed; `None` for none."""
        method, adapter = self._get(self.config_init, "graft"), self._setting("adapter")
        if adapter is not None:
            return gw.load(target, self.adapter_folder(adapter))
        if method is None or self.verb in _MEASURING:
            return None
        places = {field: self._setting(field) for field in ("sites", "also_train", "any_rank")}
        return gw.graft(target, method, **places, seed=int(self._setting("seed_everything")))

    def say(self, line: str) -> None:
        """Print one line for the user, unless `--quiet`; of several processes the first alone does."""
        if not self.quiet and primary():
            print(line, flush=True)

    def new_trainer(self, **overrides: Any) -> Trainer:
        """A further trainer from the same config, for verbs that train more than once.

        Args:
            overrides: of the config's `trainer`; `checkpoints` and `checkpoint_every` say where and how often
                it writes its own checkpoint.
        """
        return self.instantiate_trainer(**overrides)

    def save_graft(self, folder: Path | None = None, **passport: Any) -> Path | None:
        """Write the graft as an adapter folder, by default `<run_dir>/graft`; `None` without a graft.

        Args:
            folder: where.
            passport: further arguments of `graftwork.save`, such as `metrics` and `data_card`.
        """
        if self.graft is None or not primary():  # all processes hold the same
            return None
        folder = folder or self.run_dir / "graft"
        gw.save(self.graft, folder, overwrite=True, **{**self.passport(), **passport})
        self.say(f"adapter: {folder}")
        return folder

    # -- LightningCLI's hooks ---------------------------------------------------------------------

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The verb that was asked for, or all, Lightning's and the app's, with the arguments that are no options."""
        every = [*super().subcommands(), *verbs_of(type(self))]
        verbs = [self._asked] if self._asked else [v for v in every if v not in self.app.without]
        return {v: SKIPPED.get(v, set()) | ALWAYS_SKIPPED for v in verbs}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The config fields that every verb shares."""
        own = self.module.configure_optimizers is not LightningModule.configure_optimizers
        add_fields(parser, self.graft_default, optimizer=not own)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what the light door handed over, or stop here when only the parser is wanted."""
        if self._args is None:
            raise _ParserOnly(self)
        try:
            self.config = parser.parse_args(self._args)
        except ArgumentError as error:
            verb = self._subcommand_parsers[self._args[0]]
            raise GraftError(blame(verb, self._args[1:], error)) from None

    def before_instantiate_classes(self) -> None:
        """Settle the switches and the run folder."""
        self.verb = str(self.subcommand)
        self.dry_run, self.resume = bool(self._setting("dry_run")), bool(self._setting("resume"))
        self.quiet, self.verbose = bool(self._setting("quiet")), bool(self._setting("verbose"))
        if not primary():
            self.run_dir = processes.shared_folder(self._setting("run_dir"))
            return
        if not self.keeps_files():
            self._scratch = tempfile.TemporaryDirectory(prefix=f"{self.app.name}-{self.verb}-")
            self.run_dir = Path(self._scratch.name)
        else:
            wanted, goes_on = self._setting("run_dir"), self.resumes_from()
            self.run_dir = run_folder.choose(wanted, self.app.name, self.verb, self.resume, goes_on)
        processes.share_folder(self.run_dir)

    @starting.paused()
    def instantiate_classes(self) -> None:
        """Build data, module, graft and trainer; only if all fit together is the run folder made."""
        super().instantiate_classes()
        processes.check(self.trainer, self.verb)
        self.built()
        self._attach()
        if not primary():
            return
        run_folder.create(self.run_dir, self._parser(self.verb), self.config[self.verb])
        if self.keeps_files() or self.dry_run:
            self.say(f"run folder: {self.run_dir}")

    def instantiate_trainer(self, **overrides: Any) -> Trainer:
        """A trainer that checkpoints into the run folder and resumes exactly."""
        config = dict(self._get(self.config_init, "trainer"))
        given = config.get("callbacks") or []
        callbacks = [
            *(given if isinstance(given, list) else [given]),
            *overrides.pop("callbacks", []),
            processes.SeveralProcesses(),
            ExactResume(int(self._setting("seed_everything"))),
            *([Recorded(tell=self.say)] if self._setting("graphs") else []),
        ]
        folder = overrides.pop("checkpoints", self.run_dir / run_folder.CHECKPOINT.parent)
        every = overrides.pop("checkpoint_every", self.checkpoint_every)
        if {**config, **overrides}.get("enable_checkpointing") is not False:
            callbacks.append(StepCheckpoint(folder, every=every))
        bar = config.get("enable_progress_bar") is not False and not self.quiet
        settings = {
            "callbacks": callbacks,
            "default_root_dir": self.run_dir,
            "enable_progress_bar": bar and sys.stderr.isatty(),
        }
        if {**config, **overrides}.get("logger") in (None, True):
            settings["logger"] = self._loggers()
        settings |= {**(DRY_RUN if self.dry_run else {}), **overrides}
        try:
            return super().instantiate_trainer(**settings)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise GraftError(f"trainer: {error}") from None

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with staying(self.model):
                super()._run_subcommand(subcommand)
        except BaseException:
            processes.end_others(self.trainer)
            raise
        if not self.dry_run and primary():
            self.finished(subcommand)
        elif self.dry_run:
            self.say("dry run: all right")

    # -- light-door calls -------------------------------------------------------------------------

    @classmethod
    def launch(cls, app: App, args: list[str]) -> AppCLI:
        """Parse, build and run one verb; called by `App.main`."""
        settle_output(quiet="--quiet" in args, verbose="--verbose" in args)
        return cls(app, with_flags(verbs_of(cls).get(args[0]), args))

    @classmethod
    def meta(cls, app: App, action: str, args: list[str]) -> int:
        """`schema`, `completion` and `config validate`: what needs the parser but no run.

        Raises:
            GraftError: bad usage, or a config that does not fit.
        """
        from graftwork.lightning.meta import run_meta

        settle_output(quiet=True, verbose=False)
        return run_meta(cls, app, action, args)

    @classmethod
    def parser_only(cls, app: App, verb: str | None = None) -> AppCLI:
        """The CLI with its parsers (or a verb's) alone: no config, module, data or trainer."""
        try:
            return cls(app, None, verb)
        except _ParserOnly as ready:
            return ready.cli

    # -- inside -----------------------------------------------------------------------------------

    def _own_classes(self) -> list[type | str]:
        return [*self.allow, self.module, *([self.data] if self.data is not None else [])]

    def _setting(self, name: str) -> Any:
        value = self.config[self.verb][name]
        return [value] if name == "also_train" and isinstance(value, str) else value

    def _loggers(self) -> list[Any]:
        from lightning.pytorch.loggers import TensorBoardLogger

        return [
            CurveLogger(self.run_dir),
            TensorBoardLogger(
                self.run_dir, name="", version="tensorboard", default_hp_metric=False
            ),
        ]

    def _attach(self) -> None:
        self.graft = self.new_graft(self.graft_target())
        if self.graft is not None and self.verbose:
            print(self.graft.summary())
        if type(self.model).configure_optimizers is LightningModule.configure_optimizers:
            made = configured(
                self._get(self.config_init, "optimizer"),
                self._get(self.config_init, "lr_scheduler"),
            )
            self.model.configure_optimizers = MethodType(made, self.model)


class _ParserOnly(Exception):
    def __init__(self, cli: AppCLI) -> None:
        self.cli = cli
