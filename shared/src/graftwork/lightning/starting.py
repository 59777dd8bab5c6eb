"""How does a command start without waiting for what it does not use?

Lightning takes two classes of torchmetrics, whose package file imports every metric, and with them scipy, torchvision
and transformers where these are installed. That file waits here until a name is asked that needs it, and runs then, in
full.

The collector of cyclic garbage goes over all objects again and again while libraries load, and once more when the
interpreter ends, and finds next to nothing: what they make stays.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

NAME = "torchmetrics"
#: names that Lightning and its imports take from the package, and the module in which each is defined
_HOMES = {
    "Metric": "torchmetrics.metric",
    "MetricCollection": "torchmetrics.collections",
    "__version__": "torchmetrics.__about__",
}
_running = threading.RLock()


@contextmanager
def paused() -> Iterator[None]:
    """The collector of cyclic garbage waits."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def loading(*, for_good: bool) -> Iterator[None]:
    """Import heavy libraries: torchmetrics' package file waits, and the collector does.

    Args:
        for_good: the process is this command's alone, so that what is there at the end stays until its end; the
            collector passes over it from then on.
    """
    with paused():
        defer_torchmetrics()
        yield
        if for_good:
            gc.freeze()


def defer_torchmetrics() -> bool:
    """Let the package's file wait, if torchmetrics is not loaded yet; whether it does.

    `torchmetrics.Accuracy`, `from torchmetrics import Accuracy` and `import torchmetrics.classification` mean what they
    always mean. Where a version of the package is not made for it, nothing is deferred.
    """
    if NAME in sys.modules:
        return isinstance(sys.modules[NAME], _Waiting)
    spec = find_spec(NAME)
    if spec is None:
        return False
    module = module_from_spec(spec)
    module.__class__ = _Waiting
    vars(module)["_logger"] = logging.getLogger(NAME)  # its handler comes with the file
    sys.modules[NAME] = module
    try:
        import_module(f"{NAME}.utilities")  # first: the two classes' modules ask for it halfway
        for home in _HOMES.values():
            import_module(home)
    except Exception:
        for loaded in [m for m in sys.modules if m == NAME or m.startswith(f"{NAME}.")]:
            del sys.modules[loaded]
        return False
    return True


class _Waiting(ModuleType):
    """The package before its file has run."""

    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        if (
            not name.startswith("__") or name == "__all__"
        ):  # others are what tools ask of every module
            self._run()
        if name not in vars(self):
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
        return vars(self)[name]

    def __dir__(self) -> list[str]:
        self._run()
        return list(vars(self))

    def _run(self) -> None:
        with _running:  # others wait; the file itself asks for names that are not there yet
            if type(self) is not _Waiting or "_begun" in vars(self):
                return
            assert self.__spec__ is not None and self.__spec__.loader is not None
            vars(self)["_begun"] = True
            try:
                self.__spec__.loader.exec_module(self)
                self.__class__ = ModuleType  # type: ignore[assignment]
            finally:
                del vars(self)["_begun"]
