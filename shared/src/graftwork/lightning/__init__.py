"""The Lightning side: adapter-only checkpoints, exact resume, and the command line every app shares.

Names load on first use: `graftwork.lightning.app` and `.exits` must answer before torch is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Allocation": "graftwork.lightning.allocation",
    "App": "graftwork.lightning.app",
    "apps": "graftwork.lightning.app",
    "AppCLI": "graftwork.lightning.cli",
    "verb": "graftwork.lightning.verbs",
    "GraftCheckpointIO": "graftwork.lightning.checkpoint_io",
    "load_checkpoint": "graftwork.lightning.checkpoint_io",
    "DataLayerSelection": "graftwork.lightning.selection",
    "Recorded": "graftwork.lightning.recorded",
    "ExactResume": "graftwork.lightning.resume",
    "restore": "graftwork.lightning.resume",
    "StepCheckpoint": "graftwork.lightning.step_checkpoint",
    "CurveLogger": "graftwork.lightning.curve",
    "ResumableLoader": "graftwork.lightning.data",
    "ShuffleSampler": "graftwork.lightning.data",
    "sample_generator": "graftwork.lightning.data",
}

if TYPE_CHECKING:
    from graftwork.lightning.allocation import Allocation
    from graftwork.lightning.app import App, apps
    from graftwork.lightning.checkpoint_io import GraftCheckpointIO, load_checkpoint
    from graftwork.lightning.cli import AppCLI
    from graftwork.lightning.curve import CurveLogger
    from graftwork.lightning.data import ResumableLoader, ShuffleSampler, sample_generator
    from graftwork.lightning.recorded import Recorded
    from graftwork.lightning.resume import ExactResume, restore
    from graftwork.lightning.selection import DataLayerSelection
    from graftwork.lightning.step_checkpoint import StepCheckpoint
    from graftwork.lightning.verbs import verb

__all__ = [
    "Allocation",
    "App",
    "AppCLI",
    "CurveLogger",
    "DataLayerSelection",
    "ExactResume",
    "GraftCheckpointIO",
    "Recorded",
    "ResumableLoader",
    "ShuffleSampler",
    "StepCheckpoint",
    "apps",
    "load_checkpoint",
    "restore",
    "sample_generator",
    "verb",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graftwork.lightning' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
