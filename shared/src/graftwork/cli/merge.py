"""`graftwork merge`: a base's state-dict file with an adapter merged into it, without the model's code."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", required=True, metavar="FILE", help="the base, .safetensors")
    parser.add_argument("--adapter", required=True, metavar="FOLDER", help="adapter folder")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write, .safetensors")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    parser.add_argument(
        "--allow-other-base",
        action="store_true",
        help="merge although the base's fingerprint differs",
    )


def run(options: argparse.Namespace) -> int | None:
    from graftwork.cli.files import check_target

    check_target(options.out, options.force, inputs=[options.base])
    from graftwork.cli.merge_run import merge_files

    print(merge_files(options.base, options.adapter, options.out, options.allow_other_base))
    return None
