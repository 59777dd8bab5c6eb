"""One file per method; see `graftwork.cards` for how a file becomes a method."""

from __future__ import annotations

from importlib import import_module

from graftwork.cards import cards
from graftwork.errors import GraftError
from graftwork.methods.base import Method


def method_class(method_id: str) -> type[Method]:
    """The class of a method by its id, such as "lora".

    Raises:
        GraftError: no such method.
    """
    for card in cards():
        if card["id"] == method_id:
            cls: type[Method] = getattr(import_module(card["module"]), card["class"])
            assert issubclass(cls, Method)
            return cls
    raise GraftError(f"no method {method_id!r}; there are {[c['id'] for c in cards()]}")
