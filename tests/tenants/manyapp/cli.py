"""The heavy half: a tiny Llama in float64, sequences of unequal length."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import Dataset

from graftwork.errors import GraftError
from graftwork.lightning.cli import AppCLI
from graftwork.lightning.data import ResumableLoader, sample_generator


class Words:
    """A tokenizer, as far as a run asks for it."""

    def __init__(self, extra: int) -> None:
        self.extra = extra

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(30 + self.extra)}


class Sequences(Dataset[Tensor]):
    def __init__(self, count: int, shortest: int, longest: int, seed: int) -> None:
        self.count, self.shortest, self.longest, self.seed = count, shortest, longest, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        draw = sample_generator(self.seed, *place)
        n = int(torch.randint(self.shortest, self.longest + 1, (), generator=draw))
        return torch.randint(1, 32, (n,), generator=draw)


def padded(samples: list[Tensor]) -> dict[str, Tensor]:
    width = max(map(len, samples))
    ids = torch.stack([nn.functional.pad(s, (0, width - len(s))) for s in samples])
    lengths = torch.tensor([len(s) for s in samples])
    return {"ids": ids, "mask": torch.arange(width) < lengths[:, None]}


class Texts(LightningDataModule):
    """Random sequences.

    Args:
        count: how many.
        batch_size: at once.
        shortest: tokens.
        longest: tokens.
        seed: of the sequences.
        words: further words of the tokenizer.
        breaks: the batch at which the data fail.
        val: sequences to validate with.
    """

    def __init__(
        self,
        count: int = 12,
        batch_size: int = 2,
        shortest: int = 3,
        longest: int = 9,
        seed: int = 0,
        words: int = 0,
        breaks: int = -1,
        val: int = 0,
    ) -> None:
        super().__init__()
        if count < 1:
            raise GraftError(f"data.count must be at least 1, not {count}")
        self.data = Sequences(count, shortest, longest, seed)
        self.val = Sequences(val, shortest, longest, seed + 1000)
        self.batch_size, self.seed, self.breaks = batch_size, seed, breaks
        self.tokenizer = Words(words)

    def train_dataloader(self) -> ResumableLoader:
        calls = 0

        def collate(samples: list[Tensor]) -> dict[str, Tensor]:
            nonlocal calls
            calls += 1
            if calls == self.breaks:
                raise OSError("the file is broken")
            return padded(samples)

        return ResumableLoader(
            self.data, batch_size=self.batch_size, seed=self.seed, collate_fn=collate
        )

    def val_dataloader(self) -> Any:
        if not len(self.val):
            return []
        return ResumableLoader(
            self.val, batch_size=self.batch_size, seed=0, shuffle=False, collate_fn=padded
        )


class Writer(LightningModule):
    """A tiny Llama.

    Args:
        base: seed of its weights.
        kind: how `training_step` goes about it.
        noise: of the embedding's ids, drawn before the network is called.
    """

    def __init__(self, base: int = 0, kind: str = "plain", noise: float = 0.0) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        self.kind, self.noise = kind, noise
        torch.manual_seed(base)
        self.network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=32,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=64,
            )
        ).double()
        if kind == "outside":
            self.head = nn.Linear(2, 2)

    def loss_weight(self, batch: Any) -> float:
        return float(batch["mask"][:, 1:].sum())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        ids, mask = batch["ids"], batch["mask"]
        if self.noise:
            other = torch.rand(ids.shape) < self.noise
            ids = torch.where(other & mask, torch.randint_like(ids, 1, 32), ids)
        if self.kind == "never":
            return sum(p.sum() for p in self.network.parameters() if p.requires_grad)
        if self.kind == "labels":
            return self.network(input_ids=ids, attention_mask=mask, labels=ids).loss
        logits = self.network(input_ids=ids, attention_mask=mask.long()).logits
        if self.kind == "twice":
            logits = logits + self.network(input_ids=ids, attention_mask=mask.long()).logits
        seen = mask[:, 1:]
        loss = nn.functional.cross_entropy(logits[:, :-1][seen], ids[:, 1:][seen])
        if self.kind == "nan":
            loss = loss * float("nan")
        self.log("tokens", mask.sum())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.kind == "deaf":
            raise OSError("the answer is not there")
        ids, mask = batch["ids"], batch["mask"]
        logits = self.network(input_ids=ids, attention_mask=mask.long()).logits
        seen = mask[:, 1:]
        loss = nn.functional.cross_entropy(logits[:, :-1][seen], ids[:, 1:][seen])
        self.log("val_loss", loss, batch_size=int(seen.sum()))

    def on_validation_epoch_end(self) -> None:
        self.log("val_perplexity", self.trainer.callback_metrics["val_loss"].exp(), batch_size=1)


class ManyCLI(AppCLI):
    module = Writer
    data = Texts
    trainer_settings: ClassVar[dict[str, Any]] = {"accelerator": "cpu", "max_epochs": -1}
