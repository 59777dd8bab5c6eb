"""peft in the Hugging Face Trainer: the other side of the comparison, at a setting of the command line.

    python -m benchmarks.fit.peft_trainer --setting small --tokens ids.safetensors --adapter FOLDER --out FOLDER \
        --result result.json --steps 200

Nothing is logged, evaluated or checked for NaN on the way, and nothing is saved but the adapter at the end.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.fit.setting import RATE, base, read_tokens, setting
from benchmarks.fit.watch import Stopwatch


class Rows(Dataset[dict[str, Tensor]]):
    """Rows of a table of token ids, as the Trainer takes them."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


class Timed(TrainerCallback):
    """The stopwatch in the Trainer."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.begin(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.after(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.end()


class InOrder(Trainer):
    """The Trainer, reading the data in its order and keeping each loss where it is."""

    watch: Stopwatch

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.watch.losses.append(loss)
        return loss


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit.peft_trainer")
    parser.add_argument("--setting", required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True, help="a PEFT folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained adapter")
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--factors", choices=("default", "base"), default="default")
    parser.add_argument("--autocast", action="store_true", help="TrainingArguments(bf16=True)")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args(argv)
    import peft

    cuda = torch.cuda.is_available()
    s = setting(options.setting)
    model = peft.PeftModel.from_pretrained(
        base(s, "cuda" if cuda else "cpu"),
        str(options.adapter),
        is_trainable=True,
        autocast_adapter_dtype=options.factors == "default",
    )
    watch = Stopwatch(options.result)
    arguments = TrainingArguments(
        output_dir=str(options.out),
        max_steps=options.steps,
        per_device_train_batch_size=s.batch,
        learning_rate=RATE,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        max_grad_norm=0.0,
        optim="adamw_torch_fused",
        bf16=options.autocast,
        use_cpu=not cuda,
        dataloader_num_workers=options.workers,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = InOrder(
        model=model, args=arguments, train_dataset=Rows(read_tokens(options.tokens)),
        callbacks=[Timed(watch)],
    )  # fmt: skip
    trainer.watch = watch
    trainer.train()
    trainer.save_model()
    return 0


if __name__ == "__main__":
    sys.exit(main())
