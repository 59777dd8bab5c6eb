"""Every batch of a run is a point from which it can be resumed exactly; no sampling, all of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from resume_run import Counting, final_state, run
from same import differences
from torchmetrics import MeanMetric

from graftwork.lightning.step_checkpoint import StepCheckpoint

EPOCHS = 2


class KeepEach(Callback):
    """Copies the checkpoint and the curve as they would be after a kill just before each batch."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        folder = self.target / f"{trainer.current_epoch}-{batch_idx:02}"
        folder.mkdir(parents=True)
        trainer.save_checkpoint(folder / "last.ckpt")
        if (self.source / "metrics.csv").exists():
            shutil.copy(self.source / "metrics.csv", folder)


@pytest.mark.parametrize(
    "validation",
    [{}, {"val_check_interval": 4}, {"val_check_interval": 5, "check_val_every_n_epoch": None}],
    ids=["each epoch", "each 4 batches", "each 5 batches over all epochs"],
)
def test_any_batch_resumes_exactly(tmp_path: Path, validation: dict[str, Any]) -> None:
    each = tmp_path / "each"
    keep = KeepEach(tmp_path / "whole", each)
    whole = final_state(
        run(tmp_path / "whole", workers=0, epochs=EPOCHS, callbacks=[keep], **validation)
    )
    curve = (tmp_path / "whole" / "metrics.csv").read_text()
    assert "loss_epoch" in curve and "val_loss" in curve
    points = sorted(each.iterdir())
    assert len(points) == 13 * EPOCHS
    for point in points:
        resumed = run(point, workers=0, epochs=EPOCHS, **validation)
        assert differences(whole, final_state(resumed)) == [], point.name
        assert (point / "metrics.csv").read_text() == curve, point.name


@pytest.mark.parametrize("workers", [0, 2])
def test_a_module_that_counts_its_steps_resumes_exactly(tmp_path: Path, workers: int) -> None:
    keep = KeepEach(tmp_path / "whole", tmp_path / "each")
    whole = final_state(
        run(tmp_path / "whole", workers=0, epochs=2, net=Counting, callbacks=[keep])
    )
    curve = (tmp_path / "whole" / "metrics.csv").read_text()
    points = sorted((tmp_path / "each").iterdir())
    for point in points[:: 5 if workers else 1]:
        resumed = run(point, workers=workers, epochs=2, net=Counting)
        assert differences(whole, final_state(resumed)) == [], point.name
        assert (point / "metrics.csv").read_text() == curve, point.name


class Metered(Callback):
    """A torchmetrics metric that belongs to the module, logged as an object."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        pl_module.meter = MeanMetric()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pl_module.meter.update(batch[0].mean())
        pl_module.log("meter", pl_module.meter, on_step=False, on_epoch=True)


def test_a_metric_in_mid_epoch_is_continued(tmp_path: Path) -> None:
    keep = KeepEach(tmp_path / "whole", tmp_path / "each")
    run(tmp_path / "whole", workers=0, epochs=1, callbacks=[Metered(), keep])
    curve = (tmp_path / "whole" / "metrics.csv").read_text()
    assert "meter" in curve
    run(tmp_path / "each" / "0-06", workers=0, epochs=1, callbacks=[Metered()])
    assert (tmp_path / "each" / "0-06" / "metrics.csv").read_text() == curve


def test_a_run_extended_after_its_end_equals_a_longer_run(tmp_path: Path) -> None:
    long = final_state(run(tmp_path / "long", workers=0, epochs=2))
    run(tmp_path / "short", workers=0, epochs=1)
    extended = final_state(run(tmp_path / "short", workers=0, epochs=2))
    assert differences(long["weights"], extended["weights"]) == []
    assert differences(long["optimizer"], extended["optimizer"]) == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    """Dropping a part of the checkpoint shows: this is what keeps the tests above honest."""
    each = tmp_path / "each"
    whole = final_state(
        run(tmp_path / "whole", workers=0, epochs=1, callbacks=[KeepEach(tmp_path / "whole", each)])
    )
    from graftwork.lightning import resume

    for part in ("gradients", "loaders", "optimizer"):
        point = tmp_path / part
        shutil.copytree(each / "0-07", point)

        class Forgetful(resume.ExactResume):
            dropped = part

            def on_load_checkpoint(
                self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]
            ) -> None:
                if self.dropped == "gradients":
                    del checkpoint["gradients"]
                elif self.dropped == "loaders":
                    checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0][
                        "batches"
                    ] = 0
                else:
                    for state in checkpoint["optimizer_states"][0]["state"].values():
                        state["exp_avg"] = torch.zeros_like(state["exp_avg"])
                super().on_load_checkpoint(trainer, pl_module, checkpoint)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("resume_run.ExactResume", Forgetful)
            assert differences(whole, final_state(run(point, workers=0, epochs=1))), part


def test_step_checkpoint_writes_every_so_many_steps(tmp_path: Path) -> None:
    steps: list[int] = []

    class Seen(Callback):
        def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
            steps.append(checkpoint["global_step"])

    run(tmp_path, workers=0, epochs=2, every=3, callbacks=[Seen()])
    assert steps == [3, 6, 9, 12, 14]
    assert StepCheckpoint(tmp_path).path.exists()
