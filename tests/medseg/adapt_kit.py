"""A tiny base and a tiny site for the tests of `medseg adapt`, and a command that is killed on its way."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graftwork_medseg.images.agree import unstated
from graftwork_medseg.networks.network import NetworkConfig, build, save_weights
from tests.medseg.conftest import ball, write_nifti

NETWORK = NetworkConfig(
    "SegResNet",
    {
        "spatial_dims": 3,
        "init_filters": 8,
        "in_channels": 1,
        "out_channels": 2,
        "blocks_down": [1, 1],
        "blocks_up": [1],
    },
)
#: a run of seconds
TINY = [
    "--data.roi=[16,16,16]",
    "--data.patches_per_epoch=4",
    "--trainer.accelerator=cpu",
    "--search.warm_up=7",
    "--search.steps=8",
    "--search.refine=3",
    "--quiet",
]


def tiny_base(path: Path, classes: Sequence[str] = ("background", "core"), seed: int = 0) -> Path:
    """A random network that claims to know some classes."""
    torch.manual_seed(seed)
    args = {**NETWORK.args, "out_channels": max(2, len(classes))}
    config = NetworkConfig(NETWORK.name, args)
    model = build(config)
    contract = dataclasses.replace(unstated("MR"), classes=tuple(classes))
    return save_weights(model, path, config=config, classes=tuple(classes), contract=contract)


def site(
    folder: Path, lacking: dict[str, int] | None = None, cases: int = 4, labels: Any = None
) -> Path:
    """A folder of labelled cases, each a little different; `lacking`: label value missing in a case."""
    names = [f"case{i}" for i in range(cases)]
    entries = []
    for i, name in enumerate(names):
        image, label = ball((22, 20, 24))
        label = (label > 0).astype(np.uint8) + (np.roll(label, i % 3, 0) == 2)
        if lacking and name in lacking:
            label[label == lacking[name]] = 0
        write_nifti(folder / f"imagesTr/{name}.nii.gz", (image + 0.02 * i).astype(np.float32))
        write_nifti(folder / f"labelsTr/{name}.nii.gz", label.astype(np.uint8))
        entries.append({"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"})
    content = {
        "modality": {"0": "MR"},
        "labels": labels or {"0": "background", "1": "Shell", "2": "Core"},
        "training": entries,
        "test": entries[:1],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def main_killed_at(phase: str, args: list[str]) -> None:
    """Run the command and die by SIGKILL in the middle of `phase`: search, refine or judge."""
    from lightning.pytorch import Callback, Trainer

    from graftwork_medseg.app import main
    from graftwork_medseg.cli import MedsegCLI
    from graftwork_medseg.fewshot import judging

    class Killer(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any, **__: Any) -> None:
            search = "Allocation" in {type(c).__name__ for c in trainer.callbacks}
            now = "search" if search else "judge" if judging_now else "refine"
            if now == phase and trainer.global_step == (11 if search else 2):
                os.kill(os.getpid(), signal.SIGKILL)

    judging_now: list[bool] = []
    real_trainer, real_judge = MedsegCLI.instantiate_trainer, judging.leave_one_out

    def trainer(self: Any, **how: Any) -> Trainer:
        made = real_trainer(self, **how)
        made.callbacks.append(Killer())  # type: ignore[attr-defined]
        return made

    def judge(*args: Any, **how: Any) -> Any:
        judging_now.append(True)
        return real_judge(*args, **how)

    MedsegCLI.instantiate_trainer = trainer  # type: ignore[method-assign]
    judging.leave_one_out = judge
    sys.exit(main(args))


if __name__ == "__main__":
    main_killed_at(sys.argv[1], sys.argv[2:])
