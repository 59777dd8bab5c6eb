"""Do the jobs ask for the same backbone? Then the first one's is shared, and the others' are let go."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.lightning.cli import AppCLI


def prints(network: nn.Module) -> dict[str, str]:
    """Name -> dtype, shape and hash of each tensor of a base."""
    found = {"": type(network).__module__ + "." + type(network).__qualname__}
    for name, t in network.state_dict().items():
        found[name] = f"{t.dtype} {tuple(t.shape)} {_hash(t)}"
    return found


def refuse_other(name: str, first: str, mine: dict[str, str], theirs: dict[str, str]) -> None:
    """Refuse a job whose base is not the first job's.

    Raises:
        GraftError: it names the jobs and the first tensor that differs.
    """
    differ = [k for k in {**theirs, **mine} if mine.get(k) != theirs.get(k)]
    if not differ:
        return
    where = differ[0] or "the class of the network"
    mine_, theirs_ = (
        " ".join(d.get(differ[0], "missing").split(" ")[:-1]) or d.get(differ[0], "missing")
        for d in (mine, theirs)
    )
    raise GraftError(
        f"job {name!r}: its base is not that of {first!r}: {len(differ)} tensors differ, {where} first ({mine_}; "
        f"there {theirs_}); jobs of one run share one base: same weights, dtype and seed of random ones"
    )


def tokenizer_print(cli: AppCLI) -> str:
    """What tells two tokenizers apart; empty where the job has none."""
    for owner in (cli.datamodule, cli.model):
        tokenizer: Any = getattr(owner, "tokenizer", None)
        if tokenizer is None:
            continue
        vocabulary: dict[str, int] = getattr(tokenizer, "get_vocab", dict)()
        special = getattr(tokenizer, "special_tokens_map", {})
        text = json.dumps([sorted(vocabulary.items()), sorted(special.items())], default=str)
        seen = _digest((text if vocabulary else repr(tokenizer)).encode())
        return f"{type(tokenizer).__name__} of {len(vocabulary)} tokens {seen}"
    return ""


def refuse_tokenizer(name: str, first: str, mine: str, theirs: str) -> None:
    """Refuse mixed tokenizers.

    Raises:
        GraftError: it names the jobs and both tokenizers.
    """
    if mine != theirs:
        raise GraftError(
            f"job {name!r}: its tokenizer is not that of {first!r}: {mine or 'none'}; there {theirs or 'none'}; "
            "jobs of one run share one tokenizer"
        )


def _hash(t: Tensor) -> str:
    flat = t.detach().cpu().contiguous()
    return _digest(flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b"")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
