"""Trainers' ends that leave a module on its device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import MethodType

from lightning.pytorch import LightningModule


@contextlib.contextmanager
def staying(module: LightningModule) -> Iterator[None]:
    """Let no trainer move `module` to the host when it ends.

    Lightning does so after every fit, validation and test (`Strategy.teardown` calls `module.cpu()`), the whole frozen
    base with it: seconds and as much of the host's memory as the base has, before the process ends or the next
    trainer brings it back.
    """
    module.__dict__["cpu"] = MethodType(_itself, module)
    try:
        yield
    finally:
        del module.__dict__["cpu"]


def _itself(module: LightningModule) -> LightningModule:
    return module
