"""`graftwork completion`: a script for the shell, built from the verbs' own parsers."""

from __future__ import annotations

import argparse

from graftwork.cli import PROG
from graftwork.cli.verb import all_verbs, load, parser_of
from graftwork.errors import GraftError

_BASH = """\
# {prog} completion; put it in ~/.bashrc:  eval "$({prog} completion bash)"
_{prog}() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}"
    local options choices
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{verbs} --help --version" -- "$word"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    case "$word" in
        -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
        *) COMPREPLY=($(compgen -W "$choices" -- "$word") $(compgen -f -- "$word")) ;;
    esac
}}
complete -o filenames -F _{prog} {prog}
"""
_ZSH = """\
# zsh reads the bash form:  eval "$({prog} completion zsh)"
autoload -U +X bashcompinit && bashcompinit
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"), nargs="?", default="bash")


def run(options: argparse.Namespace) -> int | None:
    cases = []
    verbs = all_verbs()
    for verb in verbs:
        try:
            actions = parser_of(verb, load(verb))._actions
        except GraftError:  # a package's, which is broken; `--help` says why
            continue
        flags = [o for a in actions for o in a.option_strings if o.startswith("--")]
        choices = [str(c) for a in actions for c in a.choices or ()]
        words = f'options="{" ".join(flags)}"; choices="{" ".join(choices)}"'
        cases.append(f"        {verb}) {words} ;;")
    script = _BASH.format(prog=PROG, verbs=" ".join(verbs), cases="\n".join(cases))
    print((_ZSH.format(prog=PROG) if options.shell == "zsh" else "") + script, end="")
    return None
