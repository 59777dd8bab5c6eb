"""The command line `medseg`: the verbs every app has, and what is particular to segmentation."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.lightning.cli import AppCLI
from graftwork.lightning.verbs import verb

from .data import FolderData, ImageFiles, SimulatedData, VolumeData
from .module import Segmenter


class MedsegCLI(AppCLI):
    """`fit validate test predict adapt export demo` for 3D segmentation."""

    module = Segmenter
    data = VolumeData
    data_subclasses = True
    allow = (FolderData, SimulatedData, ImageFiles)

    model: Segmenter
    datamodule: VolumeData

    def _setting(self, name: str) -> Any:
        value = super()._setting(name)
        if name == "also_train" and self.datamodule.classes:
            # A class that the base lacks needs an output row, and that row belongs to the graft.
            rows = self.model.new_rows(self.datamodule.classes)
            value = [*value, *([gw.NewRows(self.model.head, rows)] if rows else [])]
        return value

    def instantiate_classes(self) -> None:
        """Build everything; the model takes the class names of the data."""
        super().instantiate_classes()
        if self.datamodule.classes:
            self.model.classes = tuple(self.datamodule.classes)
        self.model.output = self.run_dir / "predictions"

    def save_graft(self, folder: Path | None = None, **passport: Any) -> Path | None:
        """Write the adapter folder; its data card names data and classes."""
        card = {"data": type(self.datamodule).__name__, "classes": list(self.model.classes)}
        return super().save_graft(folder, **{"data_card": card, **passport})

    def predict(self, **_: Any) -> None:
        """Predict; each mask lies on its image's own grid."""
        super().predict()
        for path in self.model.written:
            self.say(f"mask: {path}")

    @verb
    def export(self, output: str | None = None, merged: bool = False) -> None:
        """Write the adapter folder, or the whole network's weights with the graft merged in.

        Args:
            output: a new folder (or, merged, a safetensors file); `null` puts it into the run folder.
            merged: write the whole network; it loads again as model.weights.
        """
        if not merged:
            super().export(output, False)
            return
        from .tasks import export_merged

        if self.graft is None:
            raise GraftError("export: nothing to export; name an adapter folder with --adapter")
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
        from . import demo, demo_report
        from .progress import Progress

        plan = demo.DemoPlan()
        if seeds < 1 or (steps is not None and steps < 2):
            raise GraftError("demo: seeds must be at least 1 and steps at least 2")
        plan = dataclasses.replace(plan, seeds=tuple(range(seeds)), steps=steps or plan.steps)
        if self.dry_run:
            plan = demo.DemoPlan(seeds=(0,), steps=2, train=1, test=1)
        progress = Progress(demo.work(plan), quiet=self.quiet)
        out = demo.run(plan, self.run_dir / "graft", progress)
        demo_report.write(out, self.run_dir)
        if not self.dry_run:
            self._list_run()
        for line in demo_report.lines(out, self.run_dir):
            print(line, flush=True)

    def _serve(self, port: int) -> None:
        from .network import CHECKPOINT
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
        weights = self.config[self.verb].model.get("weights")
        desk = Desk(
            self.model,
            self.graft,
            passport,
            self.run_dir,
            base=Path(weights or CHECKPOINT).name,
            classes=tuple(classes),
        )
        serve(desk, port=port, wait=not self.dry_run)

    def _list_run(self) -> None:
        """Let the local page and other readers of run folders find this run."""
        from graftwork_runs import RunFolder

        RunFolder.adopt(self.run_dir)

    def finished(self, verb: str) -> None:
        """Write record.json and report.html of a verb that trained or measured."""
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
