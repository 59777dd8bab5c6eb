"""`schema`, `completion` and `config validate`: what an app's parser can tell without a run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentError

from graftwork.errors import GraftError
from graftwork.lightning import configs as shipped
from graftwork.lightning.allow import listing_allowed
from graftwork.lightning.app import App
from graftwork.lightning.blame import readable

if TYPE_CHECKING:
    from graftwork.lightning.cli import AppCLI

_SHELLS = ("bash", "zsh", "tcsh")


def run_meta(cls: type[AppCLI], app: App, action: str, args: list[str]) -> int:
    """Run one of the three.

    Raises:
        GraftError: bad usage, or a config that does not fit.
    """
    if action == "schema":
        verb = _only(args, "schema [VERB]", default="fit")
        with listing_allowed():
            print(_parser(cls, app, verb).get_completion_script("jsonschema"))
    elif action == "completion":
        shell = _only(args, "completion [SHELL]", default="bash")
        if shell not in _SHELLS:
            raise GraftError(f"completion: no shell {shell!r}; there are: {', '.join(_SHELLS)}")
        with listing_allowed():
            print(cls.parser_only(app).parser.get_completion_script(f"shtab-{shell}"))
    else:
        options = argparse.ArgumentParser(prog=f"{app.name} config validate", exit_on_error=False)
        options.add_argument("file")
        options.add_argument("--verb", default="fit")
        try:
            given = options.parse_args(args[1:])
        except argparse.ArgumentError as error:
            raise GraftError(f"config validate FILE [--verb VERB]: {error}") from None
        validate(cls, app, given.file, given.verb)
        print(f"{given.file}: a valid config of {app.name} {given.verb}")
    return 0


def validate(cls: type[AppCLI], app: App, file: str, verb: str) -> None:
    """Check a config file against a verb's parser, without building anything.

    Raises:
        GraftError: names the file and the field.
    """
    if file in shipped.names(app):
        file = str(shipped.path(app, file))
    shipped.check(file)
    try:
        _parser(cls, app, verb).parse_args(["--config", file])
    except ArgumentError as error:
        raise GraftError(f"config {file}: {readable(error)}") from None


def _parser(cls: type[AppCLI], app: App, verb: str) -> Any:
    if verb not in app.all_verbs():
        raise GraftError(f"no verb {verb!r}; there are: {', '.join(app.all_verbs())}")
    return cls.parser_only(app, verb)._subcommand_parsers[verb]


def _only(args: list[str], usage: str, default: str) -> str:
    if len(args) > 1:
        raise GraftError(f"use: {usage}")
    return args[0] if args else default
