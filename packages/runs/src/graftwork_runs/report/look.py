"""The one look: a whole HTML document around a body, with style and script inside the file."""

from __future__ import annotations

import base64
import functools
import hashlib
from html import escape
from importlib.resources import files

# Nothing may be fetched and nothing may be sent from a report, whatever text reached it.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "form-action 'self'; base-uri 'none'"
)


def document(title: str, body: str, *, head: str = "", policy: str = _POLICY) -> str:
    """A complete page. `title` is escaped; `body` and `head` (more styles, scripts) are HTML already.

    `policy` is the page's Content-Security-Policy; one that allows no inline script names
    `script_hash` for the report's own.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_asset('style.css')}</style>\n{head}"
        "<noscript><style>.case[hidden] { display: block; } .controls, .caselist { display: none; }"
        "</style></noscript>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>{_script()}</script>\n</body>\n</html>\n"
    )


def script_hash() -> str:
    """The source expression of a Content-Security-Policy that allows the report's script alone."""
    digest = hashlib.sha256(_script().encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def section(title: str, inner: str) -> str:
    """A titled sheet. `title` is escaped; `inner` is HTML already."""
    return f'<section class="sheet">\n<h2>{escape(title)}</h2>\n{inner}\n</section>'


def _script() -> str:
    return "\n" + _asset("viewer.js")


@functools.cache
def _asset(name: str) -> str:
    return files("graftwork_runs.report").joinpath(name).read_text(encoding="utf-8")
