"""`graftwork convert`: an adapter in another form, with what the change of form lost."""

from __future__ import annotations

import argparse

from graftwork.errors import GraftError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="adapter folder, of Graftwork or of Hugging Face PEFT")
    parser.add_argument("target", help="folder to write")
    parser.add_argument(
        "--to",
        required=True,
        choices=("graftwork", "peft", "lora"),
        help="graftwork: an adapter folder; peft: a PEFT folder; lora: an adapter folder of plain LoRA",
    )
    parser.add_argument(
        "--base",
        required=True,
        metavar="BASE",
        help="the base: a local Hugging Face model folder, or the state dict as a .safetensors file",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--rank", type=int, help="approximate by LoRA of this rank")
    how.add_argument(
        "--error",
        type=float,
        help="approximate by the smallest LoRA within this relative error per site",
    )
    parser.add_argument(
        "--plain-layers",
        action="store_true",
        help="vouch, for a base given as a file, that its layers are ordinary: no dilation, no padding "
        "mode, no module that reads an adapted weight without calling its layer",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace an adapter folder that is there"
    )
    parser.add_argument(
        "--allow-other-base",
        action="store_true",
        help="go on although the base's fingerprint differs",
    )


def run(options: argparse.Namespace) -> int | None:
    if options.to == "lora" and options.rank is None and options.error is None:
        raise GraftError("--to lora needs --rank R or --error E")
    if options.to == "graftwork" and (options.rank is not None or options.error is not None):
        raise GraftError("--rank and --error make plain LoRA: use --to lora, or --to peft")
    from graftwork.cli.convert_run import convert

    print(convert(options))
    return None
