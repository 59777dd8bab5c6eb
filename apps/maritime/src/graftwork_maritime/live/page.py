"""The page on which a person plays the coast station or the ship and sees what is understood, turn by turn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path

from graftwork.errors import GraftError
from graftwork_runs import Answer, Page
from graftwork_runs.report.look import script_hash, section

from .. import NOTICE
from .desk import Desk

TITLE = "Radio exercise"
SHIP_FIRST = ("distress", "urgency", "medical", "relay", "cancel")
_ORDER = "Mayday. All stations, all stations, all stations. This is {station}. Seelonce %s. Out."
#: by the part that the partner plays: what the person may be, and phrases at hand
_YOU = {"ship": "coast station", "coast": "ship"}
_PHRASES = {
    "ship": {
        "Say again": "Say again. Over.",
        "Seelonce Mayday": _ORDER % "Mayday",
        "Seelonce Feenee": _ORDER % "Feenee",
    },
    "coast": {
        "Mayday": "Mayday, Mayday, Mayday. {station}, this is {vessel}, {vessel}, {vessel}. I am in distress. Over.",
        "When?": "When does help arrive? Over.",
        "Say again": "Say again. Over.",
    },
}


class LivePages:
    """What the page answers; see `graftwork_runs.Pages`. `/open` and `/turn` answer JSON."""

    # No inline script but the report's own, nothing from elsewhere.
    policy = (
        f"default-src 'none'; script-src 'self' {script_hash()}; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'"
    )

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        # An icon without content keeps the browser from asking for one.
        self.head = (
            f'<link rel="icon" href="data:,">\n<style>\n{_asset("page.css")}</style>\n'
            '<script type="module" src="/live.js"></script>\n'
        )

    def front(self, token: str) -> str:
        """Choice of a scenario, the exchange, and what is understood."""
        draws = self.desk.engine.preset.draws  # what comes oftener stands there oftener
        options = "".join(
            f'<option value="{draws.index(draw)}">{escape(draw[0])}: {escape(draw[1].replace("_", " "))}</option>'
            for draw in dict.fromkeys(draws)
            if draw[0] in SHIP_FIRST
        )
        phrases = "".join(
            f'<button type="button" class="plain" data-part="{part}" data-text="{escape(text)}">{escape(name)}</button>'
            for part, known in _PHRASES.items()
            for name, text in known.items()
        )
        parts = "".join(
            f'<option value="{part}">{you}</option>'
            for part, you in _YOU.items()
            if part in self.desk.plays
        )
        exchange = (
            '<form id="begin"><label>Situation<select id="index">'
            f'{options}</select></label><label>You are<select id="role">{parts}</select></label>'
            '<label>Number<input id="seed" type="number" min="0" max="999999" value="0"></label>'
            "<button>New exchange</button></form>"
            '<p class="soft">You are <span id="you">the coast station</span>. <span id="they">The ship</span> is '
            f'played by: {escape(self.desk.title)}.</p><p id="problem" role="alert"></p>'
            '<ol id="log" aria-live="polite"></ol>'
            '<form id="say"><label class="wide">You say<input id="text" maxlength="2000" autocomplete="off" '
            'placeholder="What is your position? Over."></label>'
            '<label>as<select id="speaker"><option value="own" id="own">coast station</option>'
            '<option value="other">another ship</option></select></label>'
            '<label id="called" hidden>called<input id="name" maxlength="60" autocomplete="off"></label>'
            "<button>Say it</button></form>"
            f'<form><button type="button" class="plain" id="nothing">Say nothing</button>{phrases}</form>'
        )
        understood = (
            '<table><tbody id="state"></tbody></table><h3>Violations of the procedure</h3>'
            '<p class="soft" id="none">None so far.</p><ul id="violations"></ul>'
            '<h3>What the ship knows</h3><details><summary>Show the scenario</summary><pre id="facts"></pre></details>'
        )
        return (
            f'<p class="notice">{escape(NOTICE.capitalize())}. A false distress call is an offence.</p>'
            f'<div class="live sides" id="live" data-token="{escape(token)}">'
            f"{section('Exchange', exchange)}{section('What is understood', understood)}</div>"
        )

    def get(self, path: str) -> Answer | None:
        """The script."""
        if path == "/live.js":
            return Answer(_asset("page.js"), "text/javascript; charset=utf-8")
        return None

    def post(
        self, path: str, fields: Mapping[str, str], files: Mapping[str, Path]
    ) -> Answer | None:
        """Begin an exchange or take one turn; an error is told in the answer."""
        try:
            if path == "/open":
                drawn = {key: _number(fields, key) for key in ("index", "seed")}
                found = self.desk.open({**drawn, "role": fields.get("role", "ship")})
            elif path == "/turn":
                found = self.desk.turn(fields)
            else:
                return None
        except GraftError as error:
            found = {"error": str(error), "notice": NOTICE}
        return Answer(json.dumps(found, ensure_ascii=False), "application/json")


def serve_page(desk: Desk, *, port: int = 0, wait: bool = True) -> None:
    """Open the page, print its address and serve it until Ctrl-C; without `wait` see that it opens.

    Raises GraftError when the port is taken.
    """
    page = Page(TITLE, pages=LivePages(desk), port=port)
    if not wait:
        page.close()
        return
    print(f"page: {page.url} (this computer only, {NOTICE}; Ctrl-C ends it)", flush=True)
    try:
        page.serve_forever()
    finally:
        page.busy.acquire(timeout=60)  # a turn under way is said to its end


def _number(fields: Mapping[str, str], key: str) -> int:
    value = fields.get(key, "")
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise GraftError(f"{key}: {value!r}; write a whole number from 0")
    return int(value)


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
