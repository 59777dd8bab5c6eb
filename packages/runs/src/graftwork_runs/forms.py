"""The form of a local page: what it asks, what its handler gets, and how it looks."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graftwork_runs.report import Report

_KINDS = ("text", "number", "checkbox")


@dataclass(frozen=True)
class Upload:
    """What a visitor sent: the file, under its own cleaned name, in a folder that lives as long as
    the handler runs; and the form's other fields."""

    path: Path
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Field:
    """A further field of a form. `choices` makes it a list to choose from."""

    name: str
    label: str
    value: str = ""
    kind: str = "text"
    choices: Sequence[str] = ()


@dataclass(frozen=True)
class Form:
    """The form of the page: a file goes to `handle`, which answers with a Report or with HTML.

    HTML from the handler is put into the page as it is, so it must escape what users wrote; a
    Report does so by itself. A GraftError from the handler is shown to the visitor.
    """

    title: str
    handle: Callable[[Upload], Report | str]
    label: str = "File"
    accept: str = ""
    button: str = "Run"
    explanation: str = ""
    fields: Sequence[Field] = field(default_factory=tuple)


def form_html(form: Form, token: str) -> str:
    """The form as HTML; it posts `token` in a hidden field."""
    accept = f' accept="{html.escape(form.accept)}"' if form.accept else ""
    about = f'<p class="soft">{html.escape(form.explanation)}</p>' if form.explanation else ""
    inputs = "".join(_field_html(item) for item in form.fields)
    return (
        f'{about}<form class="ask" method="post" action="/try" enctype="multipart/form-data">'
        f'<input type="hidden" name="token" value="{token}">'
        f'<label>{html.escape(form.label)}<input type="file" name="file" required{accept}></label>'
        f'{inputs}<button type="submit">{html.escape(form.button)}</button></form>'
    )


def _field_html(item: Field) -> str:
    name, label, value = (html.escape(t) for t in (item.name, item.label, item.value))
    if item.choices:
        options = "".join(
            f"<option{' selected' if c == item.value else ''}>{html.escape(c)}</option>"
            for c in item.choices
        )
        return f'<label>{label}<select name="{name}">{options}</select></label>'
    if item.kind not in _KINDS:
        raise ValueError(f"a field's kind is one of {', '.join(_KINDS)}, not {item.kind!r}")
    step = ' step="any"' if item.kind == "number" else ""
    return f'<label>{label}<input type="{item.kind}" name="{name}" value="{value}"{step}></label>'
