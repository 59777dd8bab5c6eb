"""What is known not to keep rows apart, or to draw random numbers that tasks would share."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from graftwork.attach import CHILD
from graftwork.errors import GraftError

#: attributes of attention modules that hold a probability of dropout
_PROBABILITIES = ("attention_dropout", "dropout_p", "dropout_prob", "attn_drop")


class CannotShareError(GraftError):
    """Tasks that no pass of this model can hold together: the whole run's matter, not one task's."""


def check_rows_apart(model: nn.Module, strict: bool = True) -> None:
    """Refuse models that do not compute each row from that row alone.

    Args:
        model: the base, grafted or not.
        strict: refuse the base's own dropout too: all tasks would draw from one stream, so that none would train as
            it does alone.

    Raises:
        GraftError: all faults, by module name, with what mends them.
    """
    faults = [f"{name or 'the model'}: {why}" for name, why in _faults(model, strict)]
    if faults:
        raise CannotShareError(
            "tenants: tasks cannot share a pass of this model:\n  " + "\n  ".join(faults)
        )


def _faults(model: nn.Module, strict: bool) -> Iterator[tuple[str, str]]:
    for name, module in _own(model, ""):
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            yield (
                name,
                "batch statistics mix the rows; put it into eval mode (it needs running statistics)",
            )
        if getattr(module, "batch_first", True) is False:
            yield name, "its rows come second (batch_first=False); build it with batch_first=True"
        if strict and module.training:
            if isinstance(module, _DropoutNd) and module.p > 0:
                yield (
                    name,
                    "dropout of the frozen base would be drawn for all tasks together; set its p to 0",
                )
            for word in _PROBABILITIES:
                p = getattr(module, word, None)
                if isinstance(p, float) and p > 0:
                    yield (
                        name,
                        f"{word} of the frozen base would be drawn for all tasks together; set it to 0",
                    )
            if isinstance(module, nn.MultiheadAttention) and module.dropout > 0:
                yield (
                    name,
                    "dropout of the frozen base would be drawn for all tasks together; set it to 0",
                )


def _own(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """A module and those in it, without looking through what thousands of grafts hang on them."""
    yield name, module
    for leaf, child in module._modules.items():
        if child is not None and leaf != CHILD:
            yield from _own(child, f"{name}.{leaf}" if name else leaf)
