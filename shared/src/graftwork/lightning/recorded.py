"""Recorded training passes in a fit: `--graphs true`, or the callback by its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from graftwork.errors import GraftError
from graftwork.recording.recorder import Recorder, recorded


class Recorded(Callback):
    """The network's training passes as CUDA graphs, from the training's start to its end: see `graftwork.recorded`.

    The training step is the module's own; what it computes outside the network (the loss, metrics) runs as it is, and
    so do validation and the optimizer. Accumulation, clipping, precision and an exact resume are as without it.

    Args:
        shapes: kinds of batches that are recorded; others run as they are.
        network: the module's attribute that is recorded; one without it is recorded itself.
        tell: gets a line for each reason why a pass ran as it is, and one at the end.

    Attributes:
        recorder: of the last training; `None` before it.
    """

    def __init__(
        self, shapes: int = 1, network: str = "network", tell: Callable[[str], object] = print
    ) -> None:
        if type(shapes) is not int or shapes < 1:
            raise GraftError(
                f"Recorded.shapes must be a whole number of at least 1, not {shapes!r}"
            )
        self.shapes, self.network, self.tell = shapes, network, tell
        self.recorder: Recorder | None = None
        self._block: contextlib.ExitStack | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin; the module lies on its device by now."""
        found = getattr(pl_module, self.network, pl_module)
        if not isinstance(found, nn.Module):
            raise GraftError(
                f"Recorded.network: {type(pl_module).__name__}.{self.network} is no module"
            )
        self._block = contextlib.ExitStack()
        block = recorded(found, shapes=self.shapes, tell=self.tell)
        self.recorder = self._block.enter_context(block)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End, and say what became of the passes."""
        if self._block is not None and self.recorder is not None:
            self.tell(f"graphs: {self.recorder}")
        self._leave()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the network as it was."""
        self._leave()

    def _leave(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            block.close()
