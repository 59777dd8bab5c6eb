"""Training data: dialogues composed as they are asked for, or the JSONL files of a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from graftwork.errors import GraftError
from graftwork.lightning.data import ResumableLoader
from graftwork_llm.batches import Example, collate, encode

from ..dialogues import Dialogue, Turn, read
from ..scenario import PRESETS, Engine, Scenario
from .prompts import LIVE, SYSTEM, WATCH, answer, prompt

SPLITS = ("train", "val", "test")


class DialogueData(LightningDataModule):
    """Dialogues of scenarios as prompts and answers; subclasses say where they come from.

    Args:
        batch_size: dialogues a step.
        longest: tokens of a prompt with its answer at most.
        seed: of the order.
        num_workers: processes that compose and tokenise.
    """

    def __init__(
        self, batch_size: int = 8, longest: int = 4096, seed: int = 0, num_workers: int = 0
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("longest", longest)):
            if value < 1:
                raise GraftError(f"data.{name} must be at least 1, not {value}")
        self.batch_size, self.longest, self.seed = batch_size, longest, seed
        self.num_workers = num_workers
        self.tokenizer: Any = None
        self.whole_text = False

    def source(self, split: str) -> Source:
        """The dialogues of `train`, `val` or `test`."""
        raise NotImplementedError

    def card(self) -> dict[str, Any]:
        """What the passport of a graft says of them."""
        raise NotImplementedError

    def take(self, tokenizer: Any, *, whole_text: bool) -> None:
        """Be told the model's tokenizer, and whether the prompt counts in the loss."""
        self.tokenizer, self.whole_text = tokenizer, whole_text

    def examples(self, split: str) -> Examples:
        """The tokens of a split; raises GraftError when it is empty."""
        source = self.source(split)
        if not len(source):
            raise GraftError(f"data: the {split} split has no dialogue")
        return Examples(source, self.tokenizer, self.longest, whole_text=self.whole_text)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """The batch's tensors on the device."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in dataclasses.fields(batch)
            if isinstance(value := getattr(batch, f.name), Tensor)
        }
        return dataclasses.replace(batch, **moved)

    def _loader(self, split: str, shuffle: bool = False) -> ResumableLoader:
        return ResumableLoader(
            self.examples(split), batch_size=self.batch_size, seed=self.seed, shuffle=shuffle,
            num_workers=self.num_workers, persistent_workers=self.num_workers > 0,
            collate_fn=partial(collate, pad=self.tokenizer.pad_token_id, device="cpu"),
        )  # fmt: skip

    def train_dataloader(self) -> ResumableLoader:
        """In a new order each epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> ResumableLoader:
        """In the data's own order, as for test and prediction."""
        return self._loader("val")

    def test_dataloader(self) -> ResumableLoader:
        """As `val_dataloader`."""
        return self._loader("test")

    def predict_dataloader(self) -> ResumableLoader:
        """The test dialogues."""
        return self._loader("test")


class Source:
    """Dialogues by number: name, prompt and answer."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[str, str, str]:
        raise NotImplementedError


class Examples(Dataset[Example]):
    """Dialogues as tokens, made when they are first asked for; `__getitem__` takes `(epoch, index)`.

    Args:
        source: the dialogues.
        tokenizer: of transformers.
        longest: tokens of one at most.
        whole_text: the prompt counts in the loss too.

    Raises GraftError, when it is asked for, for a dialogue that is longer.
    """

    def __init__(self, source: Source, tokenizer: Any, longest: int, *, whole_text: bool) -> None:
        self.source, self.tokenizer, self.longest = source, tokenizer, longest
        self.whole_text = whole_text
        self._made: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place: tuple[int, int]) -> Example:
        index = place[1]
        if index not in self._made:
            name, asked, told = self.source[index]
            made = encode(self.tokenizer, asked, told, system=SYSTEM)
            if len(made) > self.longest:
                raise GraftError(
                    f"dialogue {name} has {len(made)} tokens, and data.longest is {self.longest}; raise it, or "
                    "leave the dialogue out"
                )
            if self.whole_text:  # the first token has nothing before it
                made = Example(made.prompt[:1], made.prompt[1:] + made.answer)
            self._made[index] = made
        return self._made[index]


def composed(scenario: Scenario, seed: int, form: str) -> tuple[str, Sequence[Turn]]:
    """The form that a dialogue has, and its turns: in the form `live` what no lesson is about is composed in full."""
    from ..grammar import compose
    from ..lessons import LEARNT_KINDS, either

    if form == LIVE and scenario.kind in LEARNT_KINDS:
        return either(scenario, seed)
    form = "full" if form == LIVE else form
    return form, compose(scenario, seed, form)


class _Composed(Source):
    def __init__(self, engine: Engine, seed: int, count: int, form: str) -> None:
        self.engine, self.seed, self.count, self.form = engine, seed, count, form

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[str, str, str]:
        scenario = self.engine.scenario(self.seed, index)
        form, turns = composed(scenario, self.seed, self.form)
        return scenario.id, prompt(scenario, form), answer(turns)


class ComposedData(DialogueData):
    """Dialogues that the grammar composes; scenarios of the three splits have seeds of their own.

    Args:
        train, val, test: how many.
        preset: the distribution of the scenarios.
        form: `full`, `paper` for distress alone, or `live` for exchanges with a scripted station, from which a model
            learns to answer turn by turn as a ship, and in a quarter of them as a coast station.
        seed: of scenarios, wordings and order.
        batch_size, longest, num_workers: as `DialogueData`.
    """

    def __init__(
        self,
        train: int = 2000,
        val: int = 100,
        test: int = 100,
        preset: str = "coastal",
        form: str = "full",
        batch_size: int = 8,
        longest: int = 4096,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        from ..grammar import FORMS  # needs a parser that training on a folder does not

        super().__init__(batch_size, longest, seed, num_workers)
        self.counts = dict(zip(SPLITS, (train, val, test), strict=True))
        for name, value in self.counts.items():
            if value < 1:
                raise GraftError(f"data.{name} must be at least 1, not {value}")
        if preset not in PRESETS:
            raise GraftError(f"data.preset {preset!r}; choose one of {', '.join(PRESETS)}")
        if form not in (*FORMS, LIVE):
            raise GraftError(f"data.form {form!r}; choose one of {', '.join((*FORMS, LIVE))}")
        if form == "paper" and any(kind != "distress" for kind, _ in PRESETS[preset].draws):
            raise GraftError(
                f"data.form paper is for distress alone, and preset {preset} has other kinds"
            )
        self.preset, self.form = preset, form

    def source(self, split: str) -> Source:
        """Composed when they are asked for."""
        engine = Engine(preset=self.preset, exercise=True)
        seed = split_seed(self.seed, split)
        return _Composed(engine, seed, self.counts[split], self.form)

    def card(self) -> dict[str, Any]:
        """Counts and settings."""
        return {
            "data": "composed by the grammar", "counts": self.counts, "preset": self.preset, "form": self.form,
            "seed": self.seed,
        }  # fmt: skip


def split_seed(seed: int, split: str) -> int:
    """The scenarios' seed of a split: those of different splits and seeds are different."""
    return len(SPLITS) * seed + SPLITS.index(split)


class _Read(Source):
    def __init__(self, file: Path, form: str) -> None:
        self.form = form
        self.dialogues: list[tuple[Dialogue, Scenario]] = []
        for one in read(file):
            if one.scenario is None:
                raise GraftError(
                    f"{file}: line {one.line}: dialogue {one.id} has no scenario, which the model is told; "
                    "`maritime compose` writes both"
                )
            try:
                self.dialogues.append((one, Scenario.from_dict(one.scenario)))
            except GraftError as error:
                raise GraftError(f"{file}: line {one.line}: scenario: {error}") from None

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, index: int) -> tuple[str, str, str]:
        dialogue, scenario = self.dialogues[index]
        watches = self.form == LIVE and dialogue.provenance.get("form") == WATCH
        return (
            dialogue.id,
            prompt(scenario, WATCH if watches else self.form),
            answer(dialogue.turns),
        )


class FolderData(DialogueData):
    """The files train.jsonl, val.jsonl and test.jsonl of a folder: dialogues with their scenarios.

    Args:
        path: the folder.
        form: what the prompts call the form of the dialogues; among those of `live` are lessons of a coast station
            (form `watch` in their provenance).
        batch_size, longest, seed, num_workers: as `DialogueData`.
    """

    def __init__(
        self,
        path: str,
        form: str = "full",
        batch_size: int = 8,
        longest: int = 4096,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, longest, seed, num_workers)
        self.path, self.form = Path(path), form
        missing = [s for s in SPLITS if not self._file(s).is_file()]
        if not self._file("train").is_file() and not self._file("test").is_file():
            raise GraftError(
                f"data.path {path}: holds no {', '.join(f'{s}.jsonl' for s in missing)}"
            )

    def _file(self, split: str) -> Path:
        return self.path / f"{split}.jsonl"

    def source(self, split: str) -> Source:
        """Read in full; raises GraftError with file and line."""
        return _Read(self._file(split), self.form)

    def card(self) -> dict[str, Any]:
        """The folder's name and files."""
        files = [s for s in SPLITS if self._file(s).is_file()]
        return {"data": self.path.name, "files": files, "form": self.form}
