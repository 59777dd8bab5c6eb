"""The page's addresses: /, /example, /upload, /case/ID, its files, and the scripts."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from graftwork.errors import GraftError
from graftwork_runs import Answer, Page
from graftwork_runs.multipart import clean
from graftwork_runs.report.look import document, script_hash

from . import niivue, sheets
from .desk import Desk, Seen

TITLE = "Segment a scan with base and graft"
_SCRIPT, _NIFTI, _GZIP = "text/javascript; charset=utf-8", "application/x-nifti", "application/gzip"
_CASE = re.compile(r"/case/([\w-]{1,40})(?:/([\w.-]{1,40}))?")


def _asset(name: str) -> str:
    return files("graftwork_medseg.page").joinpath(name).read_text(encoding="utf-8")


class CasePages:
    """What the page of medseg answers; see `graftwork_runs.Pages`."""

    # No inline script but the report's own, nothing from elsewhere. NiiVue reads its font and its
    # images from data and blob addresses, which hold only what the page itself put there.
    policy = (
        f"default-src 'none'; script-src 'self' {script_hash()}; style-src 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self' data: blob:; form-action 'self'; "
        "base-uri 'none'"
    )

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        # An icon without content keeps the browser from asking for one.
        self.head = (
            '<link rel="icon" href="data:,">\n'
            f"<style>\n{_asset('page.css')}</style>\n"
            '<script type="module" src="/page.js"></script>\n'
        )

    def front(self, token: str) -> str:
        """The choice of a scan, and what is in use."""
        return sheets.choice(self.desk, token)

    def get(self, path: str) -> Answer | None:
        """A script, a case or a file of a case."""
        if path == "/page.js":
            return Answer(_asset("page.js"), _SCRIPT)
        if path == "/niivue/widget.js":
            widget = niivue.find()
            return Answer(widget.read_bytes(), _SCRIPT) if widget else None
        found = _CASE.fullmatch(path)
        case = self.desk.cases.get(found[1]) if found else None
        if found is None or case is None:
            return None
        return self._file(case, found[2]) if found[2] else Answer(self._sheet(case))

    def post(
        self, path: str, fields: Mapping[str, str], files: Mapping[str, Path]
    ) -> Answer | None:
        """Segment an example or an upload, and show it."""
        if path == "/example":
            case = self.desk.example(fields.get("example", ""))
        elif path == "/upload":
            if "image" not in files:
                raise GraftError("No image was chosen, or it is empty.")
            case = self.desk.upload(files["image"], files.get("label"))
        else:
            return None
        return Answer(goto=f"/case/{case.id}")

    def _sheet(self, case: Seen) -> str:
        body = sheets.case_sheet(self.desk, case, lambda: sheets.slices(case))
        return document(case.name, body, head=self.head, policy=self.policy)

    def _file(self, case: Seen, name: str) -> Answer | None:
        saved = clean(f"{case.slug}-{name}")
        if name == "report.html":
            return Answer(sheets.report(self.desk, case).html(), filename=saved)
        # Looked up among the case's own files, never joined into a path.
        path = case.files.get(name)
        if path is None:
            return None
        return Answer(path.read_bytes(), _GZIP if name.endswith(".gz") else _NIFTI, saved)


def _ended(number: int, frame: object) -> None:
    """A polite end by `kill` deletes the session's files too."""
    raise SystemExit(128 + number)


def serve(desk: Desk, *, port: int = 0, root: str = "runs", wait: bool = True) -> None:
    """Open the page, print its address and serve it until Ctrl-C; without `wait` see that it opens.

    Raises GraftError when the port is taken.
    """
    page = Page(TITLE, root=root, pages=CasePages(desk), port=port)
    try:
        if wait:
            signal.signal(signal.SIGTERM, _ended)
            print(f"page: {page.url} (this computer only; Ctrl-C ends it)", flush=True)
            page.serve_forever()
        else:
            page.close()
    finally:
        # A network in the middle of a scan must not meet a dying interpreter.
        page.busy.acquire(timeout=60)
        desk.close()
