"""How a verb's switches are read."""

from __future__ import annotations

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
