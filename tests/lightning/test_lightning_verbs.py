"""How a verb's switches are read."""

from __future__ import annotations

import dataclasses

import pytest
from tinyapp.app import app as tiny

from graftwork.lightning.verbs import with_flags


def test_a_bare_switch_of_a_verb_is_true() -> None:
    def verb(self: object, serve: bool = False, merged: bool = False, port: int = 0) -> None: ...

    def flags(*args: str) -> list[str]:
        return with_flags(verb, list(args))

    assert flags("demo", "--serve") == ["demo", "--serve=true"]
    assert flags("--serve", "--merged", "--port", "1") == [
        "--serve=true",
        "--merged=true",
        "--port",
        "1",
    ]
    assert flags("--serve", "false", "--merged=true") == ["--serve", "false", "--merged=true"]
    assert flags("--port", "--quiet") == ["--port", "--quiet"]
    assert with_flags(None, ["fit", "--serve"]) == ["fit", "--serve"]


def test_a_common_verb_that_an_app_leaves_out_is_nowhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = dataclasses.replace(tiny, without=("adapt", "demo"))
    assert app.main(["demo"]) == 2 and app.main(["schema", "demo"]) == 2
    assert app.main(["--help"]) == 0
    assert "demo" not in capsys.readouterr().out
    assert {"adapt", "demo"} <= set(tiny.load_cli().parser_only(tiny)._subcommand_parsers)
    assert not {"adapt", "demo"} & set(app.load_cli().parser_only(app)._subcommand_parsers)
