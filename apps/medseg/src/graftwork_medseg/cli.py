"""The command line `medseg`: the verbs every app has, and what is particular to segmentation."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.lightning import run_folder
from graftwork.lightning.app import App
from graftwork.lightning.cli import AppCLI
from graftwork.lightning.verbs import verb

from . import arguments
from .data import FolderData, ImageFiles, SimulatedData, VolumeData
from .fewshot import adapting, pair
from .fewshot.judging import refuse_worse
from .fewshot.plan import Request, SearchPlan
from .fewshot.searching import Found, Space
from .images.contract import APP, Contract, Intensity, Ranges
from .images.loading import one_by_one
from .module import Segmenter
from .networks.network import NetworkConfig
from .prediction.outputs import Outputs


class MedsegCLI(AppCLI):
    """`fit validate test predict adapt export demo` for 3D segmentation."""

    module = Segmenter
    data = VolumeData
    data_subclasses = True
    allow = (FolderData, SimulatedData, ImageFiles, Intensity, NetworkConfig)

    model: Segmenter
    datamodule: VolumeData
    request = Request()  # what `adapt` was asked for
    space: Space | None = None  # what its search chooses from, where there is a budget
    found: Found | None = None  # what it chose

    @classmethod
    def launch(cls, app: App, args: list[str]) -> AppCLI:
        """Write short forms out, and run; see `arguments`."""
        return super().launch(
            app, arguments.expand(args, [c.__name__ for c in (cls.data, *cls.allow)])
        )

    def _setting(self, name: str) -> Any:
        value = super()._setting(name)
        if name == "also_train" and self.datamodule.classes:
            # A class that the base lacks needs an output row, and that row belongs to the graft. So does
            # a whole last convolution that the base came without.
            rows = self.model.new_rows(self.datamodule.classes)
            value = [*value, *([gw.NewRows(self.model.head, rows)] if rows else [])]
            value += [self.model.head] if self.model.fresh_head else []
        return value

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The shared fields, and `--base`, the one key for whose network is grafted."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--base",
            type=str | None,
            default=None,
            help="whose network is grafted: a shipped checkpoint's name, a weights file, a MONAI bundle or "
            "results of nnU-Net; null: the shipped base, or random weights when model.network is given",
        )
        parser.link_arguments("base", "model.base")
        parser.add_argument(
            "--dual",
            type=str | None,
            default=None,
            help="adapter folder of a shared graft: adapt trains a private pair on its sites, the other verbs "
            "use it together with the private graft that --adapter names",
        )

    def built(self) -> None:
        """The data take on the contract of the graft, or of the base; the model their class names."""
        adapter, dual = self._setting("adapter"), self._setting("dual")
        self.trains = self.verb in ("fit", "adapt")
        if self.verb == "adapt":
            names = ("organ", "shots", "fold", "budget", "dual")
            self.request = Request(**{name: self._setting(name) for name in names})
        adapting.refuse_conflicts(self.verb, self.request, adapter, dual, self._moving)
        start = dual if self.trains and dual is not None else adapter
        known, source, stated = self.model.contract, self.model.source, False
        self.section = adapting.section_of(start, APP) if start is not None else {}
        if "contract" in self.section:
            known, source, stated = Contract.from_json(self.section["contract"], start), start, True
        self.earlier = known.ranges if known and adapter is not None else None
        outputs = known.classes if known and stated else self.model.base_classes
        self.outputs = len(outputs)  # before new rows join
        if not self.trains and stated:
            adapting.measure_by_name(self.model, self.datamodule, self.section)
        lines = adapting.settle(self.model, self.datamodule, self.request, outputs)
        if adapter is not None:
            adapting.refuse_foreign(adapter, outputs, self.model.organs)
        free = adapter is None and self.trains
        self.datamodule.take_on(known, source, free=free, graft=stated and not free)
        if self.request.budget is not None:
            self.space = Space.of(
                self.model,
                self.datamodule,
                self.request.budget,
                self._get(self.config_init, "search"),
                int(self._setting("seed_everything")),
                dry_run=self.dry_run,
            )
        if free and self.model.organs is None:
            lines += adapting.renamed(self.datamodule.classes, self.model.base_classes)
        for line in lines:
            self.say(line)
        self.model.contract = self.datamodule.contract
        self.model.classes = tuple(
            self.datamodule.classes or self.model.contract.classes or self.model.classes
        )

    def resumes_from(self) -> tuple[Path, ...]:
        """A run of `adapt` goes on from wherever it was stopped, before its first checkpoint too."""
        return (run_folder.CHECKPOINT, *([Path(run_folder.CONFIG)] if self.verb == "adapt" else []))

    def new_graft(self, target: nn.Module) -> gw.Graft | None:
        """As for every app; after a search what it chose; with a shared graft, the private one beside it."""
        dual, adapter = self._setting("dual"), self._setting("adapter")
        if self.request.budget is not None:
            return self.found.graft_on(target) if self.found else None
        if dual is None:
            return super().new_graft(target)
        if adapter is not None:
            return pair.load(target, dual, adapter)
        return pair.start(
            target,
            dual,
            self._get(self.config_init, "graft"),
            head=self.model.head,
            rows=len(self.model.classes) - self.outputs,
            moving=self._setting("dual_moving"),
            seed=int(self._setting("seed_everything")),
            any_rank=self._setting("any_rank"),
        )

    def passport(self) -> dict[str, Any]:
        """The contract, with what the training cases were like."""
        contract = self.model.contract
        section = self.section.copy() if self._setting("adapter") is not None else {}
        if self.trains:
            seen = Ranges.of(self.datamodule.observed()).union(self.earlier)
            contract = dataclasses.replace(contract, ranges=seen)
            if self.model.organs is not None:
                section["organs"] = list(self.model.organs.asked)
        if self.found is not None:
            section["allocation"] = self.found.passport()
        if self.request.dual is not None:
            moved = self.run_dir / "shared"
            section["shared"] = pair.fingerprint(moved if self._moving else self.request.dual)
        return {"app": {APP: {**section, "contract": contract.to_json()}}}

    @property
    def _moving(self) -> bool:
        return self.verb == "adapt" and bool(self._setting("dual_moving"))

    def save_graft(self, folder: Path | None = None, **passport: Any) -> Path | None:
        """Write the adapter folder; its data card names data and classes. A shared graft that moved goes first."""
        if self._moving:
            shared = pair.save_shared(
                self.model.network, self.request.dual, self.run_dir / "shared"
            )
            self.say(f"shared graft: {shared}")
        card = {"data": type(self.datamodule).__name__, "classes": list(self.model.classes)}
        return super().save_graft(folder, **{"data_card": card, **passport})

    def _warn(self) -> None:
        for name, lines in self.model.warnings.items():
            for line in lines:
                print(f"{self.app.name}: warning: case {name}: {line}", file=sys.stderr, flush=True)

    @verb
    def adapt(
        self,
        judge: bool = True,
        organ: str | None = None,
        shots: int | None = None,
        fold: int = 0,
        budget: str | float | None = None,
        search: SearchPlan = SearchPlan(),  # noqa: B008 (frozen; becomes a default in YAML)
        dual_moving: bool = False,
    ) -> None:
        """Few-shot: train on a handful of labelled volumes, measure, and judge whether to use the graft.

        Args:
            judge: leave each labelled case out in turn and train again without it; the time of as many
                trainings as there are cases.
            organ: what to learn, by the names of the site's labels, separated by commas; outputs are found by
                name. null: every class, by number (with budget or dual by name).
            shots: labelled cases to train on; one more is held out. null: all that show the organs but one.
            fold: another draw of the cases.
            budget: cap on trained parameters, 1% of the network, 0.01 or a count; a search then chooses where
                to adapt, and graft, sites and also_train are not used. null: where these say.
            search: how long the search and the training of what it chose take.
            dual_moving: with dual, train the shared graft too; it is written to `shared` in the run folder.
        """
        if self.space is not None:
            self._choose_sites(self.space)
        super().adapt()
        if not judge or self.graft is None:
            return
        if len(self.datamodule.labelled()) < 2:
            self.say("verdict: no evidence; to leave a case out, label at least two")
            return
        from .fewshot.judging import leave_one_out

        def fit(model: Segmenter, data: VolumeData) -> None:
            trainer = self.new_trainer(
                logger=False, enable_checkpointing=False, limit_val_batches=0
            )
            trainer.fit(model, datamodule=data)

        verdict = self.model.verdict = leave_one_out(
            self.model,
            self.datamodule,
            self.new_graft,
            fit,
            self.run_dir,
            self.say,
            limit=2 if self.dry_run else None,
            note="where to adapt was chosen with every case in view" if self.found else "",
            device=self.trainer.strategy.root_device,
        )
        self.save_graft(metrics={"verdict": verdict.to_json()})
        print(verdict.line(), flush=True)

    def _choose_sites(self, space: Space) -> None:
        """Search, or read what an interrupted run found, and put the chosen set on the base."""
        self.found = space.search(
            self.model, self.datamodule, self.new_trainer, self.run_dir, self.say, self.resume
        )
        self.model.chosen = self.found.record
        for line in self.found.lines():
            self.say(line)
        self.graft = self.new_graft(self.graft_target())

    @verb
    def predict(
        self,
        output: str | None = None,
        outputs: list[Literal["nifti", "seg", "rtstruct"]] = ["nifti"],  # noqa: B006 (becomes a default in YAML)
        uncertainty: bool = False,
        probabilities: bool = False,
        flips: bool = False,
        overwrite: bool = False,
        accept: bool = False,
    ) -> None:
        """Predict; each mask lies on its image's own grid. Run again with the same output to go on.

        Args:
            output: folder for the results; null: `predictions` in the run folder. Finished cases are kept.
            outputs: formats of the mask; seg and rtstruct need a DICOM series.
            uncertainty: write the entropy of the class probabilities, 0 to 1.
            probabilities: write all class probabilities.
            flips: average the probabilities over eight mirror images; eight times the time.
            overwrite: replace what other settings or programs wrote.
            accept: use a graft although its own verdict says that it is worse than the base.
        """
        from .prediction.results import one_batch

        refuse_worse(self._setting("adapter"), accept)
        folder = Path(output) if output and not self.dry_run else self.run_dir / "predictions"
        what = Outputs(tuple(outputs), uncertainty, probabilities, flips, overwrite)
        results, todo = one_batch(self.model, self.datamodule, self.graft, folder, what)
        for name in results.kept:
            self.say(f"kept: {name} is finished already")
        if todo:
            loader = one_by_one([results.reader(one) for one in todo])
            # `self.trainer.predict` is this verb's own declaration of options.
            Trainer.predict(self.trainer, self.model, loader, return_predictions=False)
        statistics = results.finish()
        for path in results.written:
            self.say(f"written: {path}")
        if statistics:
            self.say(f"statistics: {statistics}")
        if results.failures:
            if not self.dry_run:
                self.finished("predict")
            raise GraftError(results.failure_table())

    @verb
    def export(
        self,
        output: str | None = None,
        merged: bool = False,
        format: Literal["safetensors", "onnx"] = "safetensors",
    ) -> None:
        """Write the adapter folder, or the whole network with the graft merged in.

        Args:
            output: a new folder (or, merged, a file); `null` puts it into the run folder.
            merged: write the whole network; as safetensors it loads again as --base.
            format: of the whole network; onnx is always merged, and takes windows of model.roi.
        """
        if self.graft is None:
            raise GraftError("export: nothing to export; name an adapter folder with --adapter")
        if format == "safetensors" and not merged:
            super().export(output, False)
            return
        from .tasks import export_whole

        file = "merged.onnx" if format == "onnx" else "merged.safetensors"
        target = Path(output) if output else self.run_dir / file
        self.say(export_whole(self.model, self.datamodule, self.graft, target, format))

    @property
    def serving(self) -> bool:
        """Whether this is `demo --serve`."""
        return self.verb == "demo" and bool(self._setting("serve"))

    def keeps_files(self) -> bool:
        """The page has no run folder: what it is shown is deleted when it ends."""
        return super().keeps_files() and not self.serving

    def before_instantiate_classes(self) -> None:
        """Settle switches and run folder; the page takes the graft of a finished demo, a search its own length."""
        super().before_instantiate_classes()
        if self.verb == "adapt" and self._setting("budget") is not None:
            refine = self._setting("search")["refine"]
            length = {"max_steps": refine, "max_epochs": -1, "check_val_every_n_epoch": refine}
            for name, value in length.items():
                self.config[self.verb]["trainer"][name] = value
        if self.serving and self._setting("adapter") is None:
            from .page.finished import newest_demo

            self.config[self.verb]["adapter"] = str(newest_demo(self._setting("run_dir")))

    @verb
    def demo(
        self, seeds: int = 3, steps: int | None = None, serve: bool = False, port: int = 0
    ) -> None:
        """A new tissue on a new scanner from five volumes; see the report it names.

        Args:
            seeds: how many times each arm is trained.
            steps: training steps of each arm; null: the demo's own number.
            serve: train nothing, but open a local page to try the graft of a finished demo, of the run in
                `run_dir` or of `adapter`.
            port: of the page; 0: any that is free.
        """
        if serve:
            from .page.opened import open_page

            assert self.graft is not None
            # The embedded data are a default here, which says nothing about somebody's adapter.
            own = () if isinstance(self.datamodule, SimulatedData) else self.model.classes
            base, adapter = self._setting("base"), self._setting("adapter")
            open_page(
                self.model,
                self.graft,
                adapter,
                self.run_dir,
                base,
                own,
                port,
                wait=not self.dry_run,
            )
            return
        from .demo.command import train_and_report

        lines = train_and_report(self.run_dir, seeds, steps, dry_run=self.dry_run, quiet=self.quiet)
        if not self.dry_run:
            self._list_run()
        for line in lines:
            print(line, flush=True)

    def _list_run(self) -> None:
        """Let the local page and other readers of run folders find this run."""
        from graftwork_runs import RunFolder

        RunFolder.adopt(self.run_dir)

    def finished(self, verb: str) -> None:
        """Write record.json and report.html of a verb that trained or measured."""
        self._warn()
        if verb == "demo" or not (self.model.scores or verb in ("fit", "adapt", "predict")):
            return
        from .tasks import write_report

        command = "medseg " + " ".join(sys.argv[1:])
        report = write_report(
            self.model, self.datamodule, self.graft, self.run_dir, verb, command=command
        )
        self._list_run()
        self.say(f"report: {report}")
