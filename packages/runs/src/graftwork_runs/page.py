"""The local demo page: the runs that exist, and a form that an application answers.

It listens on 127.0.0.1 alone. A request must name this host (so that a foreign site cannot reach it
by a rebound name), a form must come from this page, an upload has a size limit, and only the report
and the record of a listed run are served.
"""

from __future__ import annotations

import contextlib
import html
import os
import secrets
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, unquote, urlsplit

from graftwork.errors import GraftError
from graftwork_runs.folder import RunFolder, runs
from graftwork_runs.multipart import parse
from graftwork_runs.report import Report
from graftwork_runs.report.cells import Markup, table_html
from graftwork_runs.report.look import document, section

_SERVED = {"report.html": "text/html; charset=utf-8", "record.json": "application/json"}
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


class Page:
    """The server. `url` is where it is; use it as a context manager, or call `serve_forever`.

    Raises GraftError when the port is taken. `limit` is the largest upload in bytes.
    """

    def __init__(
        self,
        title: str,
        *,
        root: str | os.PathLike[str] = "runs",
        form: Form | None = None,
        port: int = 0,
        limit: int = 256 * 2**20,
    ) -> None:
        self.title = title
        self.root = Path(root)
        self.form = form
        self.limit = limit
        self.token = secrets.token_urlsafe(16)
        self.busy = threading.Lock()  # one model, one request at a time
        handler = type("_PageHandler", (_Handler,), {"page": self})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise GraftError(
                f"port {port}: cannot be opened ({error.strerror}). Choose another, or 0 for any."
            ) from error
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._thread: threading.Thread | None = None

    def serve_forever(self) -> None:
        """Serve until Ctrl-C."""
        try:
            self._server.serve_forever()
        finally:
            self._server.server_close()

    def __enter__(self) -> Page:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self._thread is not None:
            self._thread.join()

    def index(self) -> str:
        """The front page: the form, then the runs, newest first."""
        body = (
            '<header class="top"><p class="kicker">Graftwork, on this computer only</p>'
            f"<h1>{html.escape(self.title)}</h1></header>"
        )
        if self.form is not None:
            body += section(self.form.title, _form_html(self.form, self.token))
        return document(self.title, body + section("Runs", self._runs_html()))

    def _runs_html(self) -> str:
        rows = []
        for run in runs(self.root):
            where = f"/run/{quote(run.app)}/{quote(run.name)}"
            links = [
                f'<a href="{where}/{name}">{name.split(".")[0]}</a>'
                for name in _SERVED
                if (run.path / name).is_file()
            ]
            rows.append([run.app, run.name, *_summary(run), Markup(", ".join(links) or "–")])
        if not rows:
            return f'<p class="soft">No runs yet under {html.escape(str(self.root))}.</p>'
        return table_html(["app", "run", "date", "state", "open"], rows)


def serve(
    title: str,
    *,
    root: str | os.PathLike[str] = "runs",
    form: Form | None = None,
    port: int = 0,
    say: Callable[[str], None] = print,
) -> None:
    """Open the page and serve it until Ctrl-C; `say` gets the line with its address."""
    page = Page(title, root=root, form=form, port=port)
    say(f"{title}: {page.url} (Ctrl-C to stop)")
    page.serve_forever()


class Refused(Exception):
    """A request that is answered with an error page."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    page: Page
    server_version = "graftwork"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: a demo page does not fill the terminal."""

    def _answer(self, act: Callable[[], tuple[str, str]]) -> None:
        status = HTTPStatus.OK
        try:
            self._check_host()
            content, kind = act()
        except Refused as error:
            status, (content, kind) = error.status, self._problem(error.status, str(error))
        except GraftError as error:
            status = HTTPStatus.BAD_REQUEST
            content, kind = self._problem(status, str(error))
        except ConnectionError:
            return
        except Exception as error:  # the page must outlive a handler that fails
            traceback.print_exc()
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            message = f"This failed ({type(error).__name__}). The terminal says more."
            content, kind = self._problem(status, message)
        with contextlib.suppress(ConnectionError):  # the visitor may have left
            self._send(status, content, kind)

    def _check_host(self) -> None:
        allowed = {f"{name}:{self.page.port}" for name in ("127.0.0.1", "localhost")}
        if self.headers.get("Host") not in allowed:
            raise Refused(HTTPStatus.FORBIDDEN, "This page answers only to this computer's name.")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in allowed}:
            raise Refused(HTTPStatus.FORBIDDEN, "This request came from another site.")

    def _get(self) -> tuple[str, str]:
        path = urlsplit(self.path).path
        if path == "/":
            return self.page.index(), _SERVED["report.html"]
        parts = [unquote(part) for part in path.split("/")]
        if len(parts) == 5 and parts[:2] == ["", "run"] and parts[4] in _SERVED:
            # Looked up among the runs that exist, never joined into a path.
            for run in runs(self.page.root):
                if [run.app, run.name] == parts[2:4]:
                    file = run.path / parts[4]
                    if file.is_file() and not file.is_symlink():
                        return file.read_text(encoding="utf-8"), _SERVED[parts[4]]
        raise Refused(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _post(self) -> tuple[str, str]:
        form = self.page.form
        if form is None or self.path != "/try":
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such form.")
        fields, files = parse(self.headers.get("Content-Type", ""), self._body())
        if not secrets.compare_digest(fields.pop("token", "").encode(), self.page.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "This form is out of date. Load the page again.")
        name, content = files.get("file", ("", b""))
        if not content:
            raise GraftError("No file was chosen, or it is empty.")
        known = {f.name for f in form.fields}
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            del content, files
            with self.page.busy:
                answer = form.handle(Upload(path, {k: v for k, v in fields.items() if k in known}))
        if isinstance(answer, Report):
            return answer.html(), _SERVED["report.html"]
        body = answer + '<p><a href="/">Back</a></p>'
        return document(self.page.title, body), _SERVED["report.html"]

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "The upload does not say how long it is.")
        if int(length) > self.page.limit:
            self.close_connection = True
            limit = f"{self.page.limit / 2**20:,.4g} MiB"
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The upload is larger than {limit}. Use the command line for it.",
            )
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise Refused(HTTPStatus.BAD_REQUEST, "The upload was cut short.")
        return body

    def _problem(self, status: HTTPStatus, message: str) -> tuple[str, str]:
        body = section(
            f"{status.value} {status.phrase}",
            f'<div class="problem"><p>{html.escape(message)}</p></div><p><a href="/">Back</a></p>',
        )
        return document(self.page.title, body), _SERVED["report.html"]

    def _send(self, status: HTTPStatus, content: str, kind: str) -> None:
        data = content.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)


def _summary(run: RunFolder) -> tuple[str, str]:
    if not run.finished:
        return "", "not finished"
    try:
        record = run.read_record()
    except GraftError:
        return "", "its record is not valid"
    return record.date[:16].replace("T", " "), record.verdict or "finished"


def _form_html(form: Form, token: str) -> str:
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
