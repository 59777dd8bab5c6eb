"""The work of `graftwork convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import nn

from graftwork.cli.bases import from_folder, graft_layers, peft_layers, stand_in
from graftwork.cli.files import read_state
from graftwork.errors import GraftError
from graftwork.handle import Graft
from graftwork.store import from_peft, load, save, to_lora, to_peft
from graftwork.store.hf_config import CONFIG
from graftwork.store.passport import read_passport


def convert(options: argparse.Namespace) -> str:
    """Read the source onto its base, change its form, write the target; returns what was done.

    Raises:
        GraftError: a folder or file that is unsound, a base that does not fit, or a form that cannot
            express the adapter. Nothing is written then.
    """
    foreign = (Path(options.source) / CONFIG).is_file()
    graft = _read(options, foreign)
    lines = []
    if options.rank is not None or options.error is not None:
        conversion = to_lora(graft, rank=options.rank, error=options.error)
        graft = conversion.graft
        lines.append(str(conversion))
    write = to_peft if options.to == "peft" else save
    written = write(graft, options.target, overwrite=options.force)
    if not lines:
        lines.append("exact: the new folder holds the same function, error 0")
    total = sum(f.stat().st_size for f in written.iterdir())
    return "\n".join([*lines, f"{options.target}: {options.to}, {total:,d} bytes"])


def _read(options: argparse.Namespace, foreign: bool) -> Graft:
    base = _base(options, foreign)
    if foreign:
        return from_peft(base, options.source, allow_other_base=options.allow_other_base)
    return load(base, options.source, allow_other_base=options.allow_other_base)


def _base(options: argparse.Namespace, foreign: bool) -> nn.Module:
    if Path(options.base).is_dir():
        return from_folder(Path(options.base))
    if (foreign or options.to == "peft") and not options.plain_layers:
        raise GraftError(
            f"--base {options.base}: a state dict does not tell what PEFT's function depends on (dilation, "
            "padding mode, weights read without a call). If the layers are ordinary add --plain-layers; "
            "else give a Hugging Face model folder, or use graftwork.store in Python with the model"
        )
    state, _ = read_state(options.base)
    if foreign:
        return stand_in(state, peft_layers(Path(options.source), state))
    _, passport = read_passport(options.source)
    return stand_in(state, graft_layers(passport), passport["base"]["class"])
