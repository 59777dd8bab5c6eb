"""Cases that are read: passages of text, and trees such as a robot's behaviour tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Text:
    """Named passages of one case, for example prompt, reference and output, shown as they are."""

    passages: Mapping[str, str]

    def html(self) -> str:
        parts = "".join(
            f"<dt>{escape(name)}</dt><dd><pre>{escape(text)}</pre></dd>"
            for name, text in self.passages.items()
        )
        return f'<dl class="texts">{parts}</dl>'


@dataclass(frozen=True)
class Tree:
    """A named tree. A node is a leaf's text, or a pair (text, children)."""

    name: str
    root: Any

    def html(self) -> str:
        return f'<p class="soft">{escape(self.name)}</p><ul class="tree">{_node(self.root)}</ul>'


def _node(node: Any) -> str:
    if isinstance(node, str) or not isinstance(node, Sequence):
        return f"<li>{escape(str(node))}</li>"
    text, children = node
    inner = "".join(_node(child) for child in children)
    return (
        f"<li><details open><summary>{escape(str(text))}</summary><ul>{inner}</ul></details></li>"
    )
