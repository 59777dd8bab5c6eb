"""How an app's own verbs become subcommands of LightningCLI.

LightningCLI reads a subcommand's arguments from the method of that name on its trainer class, so the
verbs of a CLI class are mirrored onto a subclass of `Trainer`; the CLI's own method is what runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

from lightning.pytorch import Trainer


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method of an `AppCLI` subclass a verb; its typed arguments become options.

    The first line of its docstring is its help. When it runs, `self.model`, `self.datamodule`,
    `self.trainer` and `self.graft` are built from the config.
    """

    @functools.wraps(function)
    def run(
        self: Any, *args: Any, model: Any = None, datamodule: Any = None, **options: Any
    ) -> Any:
        # Lightning hands over model and data, which the CLI has as attributes
        return function(self, *args, **options)

    run.is_verb = True  # type: ignore[attr-defined]
    return run


def verbs_of(cls: type) -> dict[str, Callable[..., Any]]:
    """The methods of `cls` and its bases that are marked by `verb`, by name."""
    return {
        name: member for name in dir(cls) if getattr(member := getattr(cls, name), "is_verb", False)
    }


def with_flags(function: Callable[..., Any] | None, args: Sequence[str]) -> list[str]:
    """Arguments in which a verb's bare `--name` of type bool, the next word being no value, is true."""
    hints = get_type_hints(function) if function is not None else {}
    flags = {f"--{name}" for name, hint in hints.items() if hint is bool}
    following = [*args[1:], "--"]
    return [
        f"{word}=true" if word in flags and after.startswith("-") else word
        for word, after in zip(args, following, strict=True)
    ]


def trainer_with(verbs: dict[str, Callable[..., Any]]) -> type[Trainer]:
    """A `Trainer` class that declares the verbs' signatures to the parser."""
    return type("AppTrainer", (Trainer,), {"__doc__": Trainer.__doc__, **verbs})
