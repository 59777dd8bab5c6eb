"""The config fields that every verb of every app shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LRSchedulerCallable
from torch.optim import Optimizer

from graftwork.methods.base import Method

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]

#: arguments of Lightning's verbs that make no sense in a config
SKIPPED = {
    "fit": {"train_dataloaders", "val_dataloaders"},
    "validate": {"dataloaders", "verbose"},
    "test": {"dataloaders", "verbose"},
    "predict": {"dataloaders", "return_predictions"},
}
ALWAYS_SKIPPED = {"model", "datamodule", "ckpt_path", "weights_only"}
#: what one batch of everything means to the trainer
DRY_RUN: dict[str, Any] = {
    "max_epochs": 1,
    "max_steps": 1,
    "accumulate_grad_batches": 1,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": 1,
    "val_check_interval": 1.0,
    "limit_train_batches": 1,
    "limit_val_batches": 1,
    "limit_test_batches": 1,
    "limit_predict_batches": 1,
}


def add_fields(
    parser: LightningArgumentParser, graft: dict[str, Any] | None, *, optimizer: bool = True
) -> None:
    """Add the fields to a verb's parser.

    Args:
        parser: the verb's.
        graft: the default of `graft`.
        optimizer: offer `optimizer` and `lr_scheduler`; not for a module that configures its own,
            where they would be read and have no effect.
    """
    parser.add_argument("--graft", type=Method | None, default=graft, help="Method and settings.")
    parser.add_argument(
        "--sites",
        type=str | list[str] | None,
        default=None,
        help='Globs or "type:Name"; null: the default sites.',
    )
    parser.add_argument(
        "--also_train",
        type=str | list[str],
        default=[],
        help="Globs of whole modules that train beside the graft.",
    )
    parser.add_argument(
        "--any_rank",
        type=bool,
        default=False,
        help="Let LoRA and DoRA have ranks above those of layers that `sites` names.",
    )
    parser.add_argument(
        "--adapter",
        type=str | None,
        default=None,
        help="Adapter folder to load instead of a new graft.",
    )
    if optimizer:
        parser.add_argument(
            "--optimizer",
            type=OptimizerCallable,
            default={"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
            help="Of everything that trains.",
        )
        parser.add_argument(
            "--lr_scheduler",
            type=LRSchedulerCallable | None,
            default=None,
            help="Stepped per step.",
        )
    parser.add_argument(
        "--graphs",
        type=bool,
        default=False,
        help="Record the network's training passes as CUDA graphs, where shapes stay the same.",
    )
    parser.add_argument(
        "--run_dir", type=str | None, default=None, help="Run folder; null: runs/<app>/<verb>."
    )
    parser.add_argument("--resume", action="store_true", help="Continue the run in the run folder.")
    parser.add_argument(
        "--dry_run", action="store_true", help="One batch of everything, saved and loaded."
    )
    parser.add_argument("--quiet", action="store_true", help="Print results and errors only.")
    parser.add_argument(
        "--verbose", action="store_true", help="Print all messages, and where a run failed."
    )
