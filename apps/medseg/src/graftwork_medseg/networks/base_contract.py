"""Write the contract of the shipped base checkpoint beside it.

    python -m graftwork_medseg.networks.base_contract

The checkpoint is older than contracts, and records name it by its hash, so it stays as it is; its contract
lies in mni152-sim-base.contract.json. The ranges are those of the 256 simulated subjects of site A that it was
trained on (`train_base.Recipe`), simulated again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ..demo import task
from ..demo.sim import SPACING
from ..demo.train_base import Recipe
from ..files import CHECKPOINT, publish
from ..images.contract import Contract, Intensity, Ranges
from ..images.volume import simulated
from .network import read_weights

FILE = CHECKPOINT.with_suffix(".contract.json")


def measure(subjects: int = Recipe.subjects) -> Contract:
    """The contract, with the ranges of the first `subjects` training subjects."""
    contract = Contract(
        classes=tuple(read_weights(CHECKPOINT)[1]["classes"]),
        channels=("simulated T1",),
        spacing=SPACING,
        intensity=Intensity("volume"),
        patch=task.ROI,
    )
    seen = [simulated("a", i, contract=contract).observed for i in range(subjects)]
    return replace(contract, ranges=Ranges.of([one for one in seen if one is not None]))


def write(contract: Contract, file: Path = FILE) -> Path:
    """Write `contract` as JSON, atomically."""
    with publish(file) as temporary:
        temporary.write_text(json.dumps(contract.to_json(), indent=1) + "\n", encoding="utf8")
    return file


if __name__ == "__main__":
    print(write(measure()))
