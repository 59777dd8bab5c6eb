"""The tables of what belongs to methods without being one: optimizers, and the choice of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.methods.page import verdict_of
from graftwork_runs.tables import markdown


class Beside(NamedTuple):
    """A row: public names, what they belong to or serve, what they do, where it is from.

    `experiments` are the names of those that say whether the paper's effect was there.
    """

    names: tuple[str, ...]
    of: str
    does: str
    paper: str
    experiments: tuple[str, ...]

    def cells(self) -> list[str]:
        names = ", ".join(f"`gw.{name}`" for name in self.names)
        verdicts = ", ".join(f"{verdict_of(name)} (`{name}`)" for name in self.experiments)
        return [names, self.of, self.does, self.paper, verdicts]


OPTIMIZERS = (
    Beside(
        ("LoFT",),
        "LoRA with the scale 1",
        "each step is AdamW's step on the full weight, projected on one factor; the factors take turns",
        "arXiv 2505.21289",
        ("loft", "loft_ranks"),
    ),
    Beside(
        ("LoFTSimple",),
        "LoRA with the scale 1",
        "the same without second-moment cross terms: less memory, no weight-sized scratch",
        "arXiv 2505.21289",
        ("loft",),
    ),
    Beside(
        ("LoRAPlus", "lora_plus"),
        "every method with a B",
        "a higher rate for B",
        "arXiv 2402.12354",
        ("lora_plus",),
    ),
    Beside(
        ("paced",),
        "NOBLE",
        "parameter groups at the rates that the method asks for; a config file's optimizer gets them by itself",
        "arXiv 2603.06492",
        ("noble",),
    ),
)
SELECTORS = (
    Beside(
        ("GAST",),
        "every method that declares low-rank factors",
        "each layer trains on the samples whose gradients agree with that of a support batch",
        "arXiv 2603.09865",
        ("gast",),
    ),
)


def _table(first: str, second: str, rows: Sequence[Beside]) -> str:
    columns = [first, second, "what it does", "paper", "paper's effect here"]
    return markdown(columns, [row.cells() for row in rows])


def optimizers() -> str:
    """Optimizers that belong to a method."""
    return _table("optimizer", "of", OPTIMIZERS)


def selectors() -> str:
    """What chooses the samples that train a layer."""
    return _table("selector", "serves", SELECTORS)


GENERATORS = {"optimizers": optimizers, "selectors": selectors}
