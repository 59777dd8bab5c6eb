"""Write this folder anew with nnunetv2 itself, from simulated images: a planned, trained, tiny network.

    python make.py EMPTY_FOLDER

needs nnunetv2 2.8.1 (with dynamic-network-architectures 0.4.4; made with torch 2.14.1 and numpy 2.4.6). No test
runs it, and nothing else needs nnunetv2. The plans are nnU-Net's own but for stages, features, patch and
batch, which are made small. `expected.npz` holds what nnU-Net's code computes: `logits` of its network on
torch.randn(1, 2, 16, 16, 8) of seed 0, and `prepared` and `masked` (use_mask_for_norm of the second channel),
what its preprocessor makes of `ct` and `mr` with `affine`, cropped to `box`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

NAME, CONFIGURATION = "Dataset901_Tiny", "3d_fullres"
SHAPE, SPACING = (20, 36, 32), (3.0, 1.0, 1.2)  # x, y, z of the files
LABELS = {"background": 0, "shell": 1, "core": 2}


def write(path: Path, volume: Any, affine: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, affine), path)


def write_raw(folder: Path, rng: np.random.Generator) -> None:
    """Five cases of two nested balls, as CT and as MR."""
    axes = ((np.arange(n) - n / 2) * s for n, s in zip(SHAPE, SPACING, strict=True))
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    for i in range(5):
        affine = np.diag([*(np.array(SPACING) * (1 + 0.05 * (i - 2) / 2)), 1.0])
        radius = np.linalg.norm(grid + rng.normal(0, 1, 3)[:, None, None, None], axis=0)
        label = (radius < 13).astype(np.float32) + (radius < 7)
        ct = -900 + 950 * (radius < 17) + 60 * label + rng.normal(0, 15, SHAPE)
        mr = np.where(radius < 16, 300 + 80 * label + rng.normal(0, 10, SHAPE), 0)
        for c, volume in enumerate((ct, mr)):
            image = folder / "imagesTr" / f"case{i}_{c:04d}.nii.gz"
            write(image, volume.astype(np.float32), affine)
        write(folder / "labelsTr" / f"case{i}.nii.gz", label.astype(np.uint8), affine)
    meta = {"channel_names": {"0": "CT", "1": "T1"}, "labels": LABELS, "numTraining": 5}
    (folder / "dataset.json").write_text(json.dumps({**meta, "file_ending": ".nii.gz"}))


def write_probe(root: Path, affine: Any, rng: np.random.Generator) -> list[Any]:
    """An image at the plan's own spacing: zero outside, with a hole inside that nnU-Net fills."""
    shape = (12, 18, 16)
    ct = rng.normal(0, 300, shape).round().astype(np.float32)
    mr = np.zeros(shape, np.float32)
    mr[2:10, 3:15, 1:14] = rng.normal(200, 40, (8, 12, 13)).round()
    corner = np.add.outer(np.add.outer(*map(np.arange, shape[:2])), np.arange(shape[2]))
    ct[(corner < 8) | (corner > 36)] = 0
    mr[corner < 8] = 0
    ct[:1] = mr[:1] = ct[6, 9, 8] = mr[6, 9, 8] = 0
    for c, volume in enumerate((ct, mr)):
        write(root / f"probe_{c:04d}.nii.gz", volume, affine)
    return [ct, mr]


def main(root: Path) -> None:
    for variable in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{variable}"] = str(root / variable)
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1", nnUNet_compile="f")
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    write_raw(root / "raw" / NAME, rng)

    # These read the variables when they are imported.
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    api.extract_fingerprints([901], num_processes=1, check_dataset_integrity=False)
    api.plan_experiments([901])
    file = root / "preprocessed" / NAME / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    config = plans["configurations"][CONFIGURATION]
    arch = config["architecture"]["arch_kwargs"]
    arch.update(n_stages=3, features_per_stage=[4, 6, 8])
    arch.update(n_conv_per_stage=[1, 1, 1], n_conv_per_stage_decoder=[1, 1])
    arch.update({name: arch[name][:3] for name in ("kernel_sizes", "strides")})
    config.update(patch_size=[16, 16, 8], batch_size=2)
    file.write_text(json.dumps(plans))
    api.preprocess([901], configurations=(CONFIGURATION,), num_processes=(1,))

    dataset = json.loads((root / "raw" / NAME / "dataset.json").read_text())
    torch.manual_seed(0)
    trainer = nnUNetTrainer(
        {**plans, "continue_training": False}, CONFIGURATION, 0, dataset, device=torch.device("cpu")
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch = 1, 4
    trainer.num_val_iterations_per_epoch = 1
    os.environ.update(nnUNet_n_proc_DA="0")  # batches are made in this process
    trainer.run_training()

    results = root / "results" / NAME / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(str(results), (0,), "checkpoint_final.pth")
    network = predictor.network
    network.load_state_dict(predictor.list_of_parameters[0])
    with torch.no_grad():
        x = torch.randn(1, 2, 16, 16, 8, generator=torch.Generator().manual_seed(0))
        out = network.eval()(x)
    logits = out[0] if isinstance(out, list | tuple) else out

    zyx = dict(zip(plans["transpose_forward"], config["spacing"], strict=True))
    affine = np.diag([zyx[2], zyx[1], zyx[0], 1.0])
    ct, mr = write_probe(root, affine, rng)

    def prepared(mask: bool) -> tuple[Any, Any]:
        changed = json.loads(json.dumps(plans))
        changed["configurations"][CONFIGURATION]["use_mask_for_norm"] = [False, mask]
        manager = PlansManager(changed)
        configuration = manager.get_configuration(CONFIGURATION)
        files = [str(root / f"probe_{c:04d}.nii.gz") for c in range(2)]
        preprocessor = configuration.preprocessor_class(verbose=False)
        data, _, seen = preprocessor.run_case(files, None, manager, configuration, dataset)
        return np.asarray(data, np.float32), np.array(seen["bbox_used_for_cropping"])

    (plain, box), (masked, _) = prepared(False), prepared(True)
    here = Path(__file__).parent
    np.savez_compressed(
        here / "expected.npz", logits=logits.numpy(), prepared=plain, masked=masked, box=box,
        ct=ct.astype(np.int16), mr=mr.astype(np.int16), affine=affine,
    )  # fmt: skip
    for name in ("dataset.json", "dataset_fingerprint.json", "plans.json"):
        shutil.copy(results / name, here)
    (here / "fold_0").mkdir(exist_ok=True)
    shutil.copy(results / "fold_0" / "checkpoint_final.pth", here / "fold_0")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
