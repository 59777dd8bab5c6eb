"""The command line `medseg`: the verbs every app has, and what is particular to segmentation."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.lightning.cli import AppCLI
from graftwork.lightning.verbs import verb

from .data import FolderData, ImageFiles, SimulatedData, VolumeData, one_by_one
from .fewshot.verdict import WORSE
from .images.contract import APP, Contract, Intensity, Ranges
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

    def built(self) -> None:
        """The data take on the contract of the graft, or of the base; the model their class names."""
        adapter = self._setting("adapter")
        known, source, stated = self.model.contract, self.model.source, False
        if adapter is not None:
            section = gw.inspect(adapter).get("app", {}).get(APP, {})
            stated = "contract" in section
            if stated:
                known, source = Contract.from_json(section["contract"], adapter), adapter
        self.trains = self.verb in ("fit", "adapt")
        self.earlier = known.ranges if known and adapter is not None else None
        self.datamodule.take_on(known, source, free=adapter is None and self.trains, graft=stated)
        if self.trains and adapter is None:
            self._tell_renamed()
        self.model.contract = self.datamodule.contract
        self.model.classes = tuple(
            self.datamodule.classes or self.model.contract.classes or self.model.classes
        )

    def _tell_renamed(self) -> None:
        pairs = zip(self.datamodule.classes[1:], self.model.base_classes[1:], strict=False)
        renamed = [f"{new} as {old}" for new, old in pairs if new != old]
        if renamed:
            self.say(f"note: classes go by number; outputs of the base begin: {', '.join(renamed)}")

    def passport(self) -> dict[str, Any]:
        """The contract, with what the training cases were like."""
        contract = self.model.contract
        if self.trains:
            seen = Ranges.of(self.datamodule.observed()).union(self.earlier)
            contract = dataclasses.replace(contract, ranges=seen)
        return {"app": {APP: {"contract": contract.to_json()}}}

    def save_graft(self, folder: Path | None = None, **passport: Any) -> Path | None:
        """Write the adapter folder; its data card names data and classes."""
        card = {"data": type(self.datamodule).__name__, "classes": list(self.model.classes)}
        return super().save_graft(folder, **{"data_card": card, **passport})

    def _refuse_worse(self, accept: bool) -> None:
        """Raise GraftError for a graft that `adapt` found worse than its base, unless accepted."""
        adapter = self._setting("adapter")
        metrics = gw.inspect(adapter).get("metrics") if adapter is not None else None
        found = metrics.get("verdict") if isinstance(metrics, dict) else None
        if isinstance(found, dict) and found.get("word") == WORSE and not accept:
            raise GraftError(
                f"{adapter}: on its own site's cases this graft is worse than the base (Dice "
                f"{found.get('base')} to {found.get('graft')}); predict with the base (leave --adapter out), "
                "or say --accept"
            )

    def _warn(self) -> None:
        for name, lines in self.model.warnings.items():
            for line in lines:
                print(f"{self.app.name}: warning: case {name}: {line}", file=sys.stderr, flush=True)

    @verb
    def adapt(self, judge: bool = True) -> None:
        """Few-shot: train on a handful of labelled volumes, measure, and judge whether to use the graft.

        Args:
            judge: leave each labelled case out in turn and train again without it; the time of as many
                trainings as there are cases.
        """
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
        )
        self.save_graft(metrics={"verdict": verdict.to_json()})
        print(verdict.line(), flush=True)

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

        self._refuse_worse(accept)
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
        if format == "onnx":
            from .tasks import export_onnx

            target = Path(output) if output else self.run_dir / "merged.onnx"
            error = export_onnx(self.model, self.datamodule, self.graft, target)
            self.say(
                f"exported: {target}; onnxruntime's scores differ from the graft's by {error:.1e}"
            )
            return
        if not merged:
            super().export(output, False)
            return
        from .tasks import export_merged

        target = Path(output) if output else self.run_dir / "merged.safetensors"
        error = export_merged(self.model, self.graft, target)
        self.say(
            f"exported: {target}; read back, its scores differ from the graft's by {error:.1e}"
        )

    @property
    def serving(self) -> bool:
        """Whether this is `demo --serve`."""
        return self.verb == "demo" and bool(self._setting("serve"))

    def keeps_files(self) -> bool:
        """The page has no run folder: what it is shown is deleted when it ends."""
        return super().keeps_files() and not self.serving

    def before_instantiate_classes(self) -> None:
        """Settle switches and run folder; the page takes the graft of a finished demo."""
        super().before_instantiate_classes()
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
            self._serve(port)
            return
        from .demo import report, run
        from .progress import Progress

        plan = run.DemoPlan()
        if seeds < 1 or (steps is not None and steps < 2):
            raise GraftError("demo: seeds must be at least 1 and steps at least 2")
        plan = dataclasses.replace(plan, seeds=tuple(range(seeds)), steps=steps or plan.steps)
        if self.dry_run:
            plan = run.DemoPlan(seeds=(0,), steps=2, train=1, test=1)
        progress = Progress(run.work(plan), quiet=self.quiet)
        out = run.run(plan, self.run_dir / "graft", progress)
        report.write(out, self.run_dir)
        if not self.dry_run:
            self._list_run()
        for line in report.lines(out, self.run_dir):
            print(line, flush=True)

    def _serve(self, port: int) -> None:
        from .files import CHECKPOINT
        from .page.desk import Desk
        from .page.server import serve

        assert self.graft is not None
        passport = gw.inspect(self._setting("adapter"))
        card = passport["data_card"]
        # The embedded data are a default here, which says nothing about somebody's adapter.
        own = () if isinstance(self.datamodule, SimulatedData) else self.model.classes
        classes = card.get("classes", own) if isinstance(card, dict) else own
        if not (isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes)):
            raise GraftError(f"{passport['folder']}/graft.json: data_card.classes must list names")
        desk = Desk(
            self.model,
            self.graft,
            passport,
            self.run_dir,
            base=Path(self._setting("base") or CHECKPOINT).name,
            classes=tuple(classes),
        )
        serve(desk, port=port, wait=not self.dry_run)

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

        report = write_report(
            self.model, self.datamodule, self.graft, self.run_dir, verb, command=_command()
        )
        self._list_run()
        self.say(f"report: {report}")


def _command() -> str:
    return "medseg " + " ".join(sys.argv[1:])
