"""The `graftwork` command: one module per verb, imported when the verb is called; packages add more.

`--help`, `--version`, `methods`, `apps`, `inspect` and `doctor` answer without importing torch.
Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from graftwork import __version__
from graftwork.errors import GraftError
from graftwork.lightning.exits import guarded

PROG = "graftwork"
#: the core's verbs -> their lines in `--help`; the module `graftwork.cli.<verb>` runs each, with `_` for `-`
VERBS = {
    "demo": "Train a small network, graft it, and prove the core's promises in seconds.",
    "methods": "List the methods: what they change, merge, serve and cost.",
    "apps": "List the installed applications.",
    "inspect": "Show an adapter's passport.",
    "merge": "Write a base with an adapter merged into it.",
    "convert": "Translate an adapter: to or from Hugging Face PEFT, or to plain LoRA.",
    "train-many": "Train the jobs of any apps together on one frozen backbone.",
    "doctor": "Say which versions and devices there are, what is missing and how to get it.",
    "completion": "Print a shell completion script (bash or zsh).",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    code = guarded(lambda: _dispatch(args), prog=PROG, verbose="--verbose" in args)
    if sys.stdout is None:
        # the reader went away (`graftwork methods | head -1`): what is buffered has nowhere to go,
        # and the interpreter must not complain about it while it shuts down
        sys.stdout = open(os.devnull, "w", encoding="utf8")  # noqa: SIM115
        os.dup2(sys.stdout.fileno(), 1)
    return code


def _dispatch(args: list[str]) -> int:
    code = _run(args)
    sys.stdout.flush()  # a closed pipe shows here, where it can still be answered
    return code


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0
    if args[0] == "--version":
        print(f"{PROG} {__version__}")
        return 0
    verb, rest = args[0], args[1:]
    from graftwork.cli.verb import all_verbs, load, parser_of

    if verb not in VERBS and verb not in (known := all_verbs()):
        from difflib import get_close_matches

        near = get_close_matches(verb, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        raise GraftError(f"no verb {verb!r}; {hint}")

    module = load(verb)
    return module.run(parser_of(verb, module).parse_args(rest)) or 0


def _help() -> str:
    from graftwork.cli.verb import all_verbs

    verbs = all_verbs()
    width = max(map(len, verbs)) + 2
    return "\n".join(
        [
            f"usage: {PROG} VERB [options]",
            "",
            "Small trained parts grafted onto frozen PyTorch models, exactly.",
            "",
            "verbs:",
            *(f"  {name:<{width}}{text}" for name, text in verbs.items()),
            "",
            f"`{PROG} VERB --help` lists a verb's options; {PROG} --version says which release this is.",
            "exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted",
        ]
    )
