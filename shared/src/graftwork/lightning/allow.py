"""Which classes a config may name. Anything else is refused by name, before it is imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from jsonargparse import _completions, _completions_jsonschema, _typehints, set_parsing_settings
from jsonargparse._common import denying_import_path_entry
from lightning.pytorch import callbacks

from graftwork.cards import cards
from graftwork.errors import GraftError
from graftwork.lightning.curve import CurveLogger
from graftwork.methods import method_class
from graftwork.methods.base import Method
from graftwork.optim.loft import LoFT
from graftwork.optim.loft_simple import LoFTSimple
from graftwork.optim.lora_plus import LoRAPlus


def common() -> list[type]:
    """Classes every app's config may name: methods, optimizers, schedules, loggers, plain callbacks."""
    from lightning.pytorch.loggers import TensorBoardLogger

    optim, schedule = torch.optim, torch.optim.lr_scheduler
    return [
        *(method_class(card["id"]) for card in cards()),
        *(optim.Adam, optim.AdamW, optim.SGD, optim.RMSprop, optim.NAdam, optim.RAdam),
        *(LoFT, LoFTSimple, LoRAPlus),
        *(
            schedule.CosineAnnealingLR,
            schedule.ConstantLR,
            schedule.ExponentialLR,
            schedule.LinearLR,
        ),
        *(schedule.MultiStepLR, schedule.OneCycleLR, schedule.PolynomialLR, schedule.StepLR),
        *(callbacks.EarlyStopping, callbacks.LearningRateMonitor, callbacks.Timer),
        *(CurveLogger, TensorBoardLogger),
    ]


def allow_only(classes: Iterable[type | str]) -> None:
    """Make the config parser refuse every class path but these.

    Args:
        classes: classes, or dotted paths of classes; a path of a package allows all that is defined in it.

    Raises:
        GraftError: a dotted path leads to nothing.
    """
    paths: set[str] = set()
    for item in classes:
        if isinstance(item, str):
            paths.add(item)
        named = _resolve(item) if isinstance(item, str) else item
        if isinstance(named, type):
            paths |= _spellings(named)
    # Method is a dataclass, and the parser takes dataclasses for closed unless told otherwise
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=sorted(paths),
        subclasses_enabled=[Method],
        instantiate_subclass_spec_in_any=False,
        config_read_mode_fsspec_enabled=False,
        config_read_mode_urls_enabled=False,
    )


def _resolve(path: str) -> object:
    module, _, name = path.rpartition(".")
    try:
        found: object = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        try:
            return import_module(path)
        except ImportError as error:
            raise GraftError(f"allow-list: {path!r} leads to nothing: {error}") from None
    return found


def _spellings(cls: type) -> set[str]:
    """Every path that names the class: where it is defined and each parent package that re-exports it."""
    parts = cls.__module__.split(".")
    paths = {f"{cls.__module__}.{cls.__qualname__}"}
    for n in range(1, len(parts)):
        package = ".".join(parts[:n])
        if getattr(import_module(package), cls.__qualname__, None) is cls:
            paths.add(f"{package}.{cls.__qualname__}")
    return paths


@contextmanager
def listing_allowed() -> Iterator[None]:
    """While a schema or a completion script is made, the parser lists only classes that a config may name.

    jsonargparse otherwise describes each subclass that happens to be imported, and stops at the first
    that is refused. It has no setting for this, so its helper is wrapped for the time being.
    """
    every = _typehints.get_all_subclass_paths

    def allowed(*args: Any, **kwargs: Any) -> list[str]:
        return [path for path in every(*args, **kwargs) if denying_import_path_entry(path) is None]

    homes = (_completions, _completions_jsonschema)
    for module in homes:
        setattr(module, every.__name__, allowed)
    try:
        yield
    finally:
        for module in homes:
            setattr(module, every.__name__, every)
