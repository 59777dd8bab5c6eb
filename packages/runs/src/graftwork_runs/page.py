"""The local demo page: the runs that exist, and a form that an application answers.

It listens on 127.0.0.1 alone. A request must name this host (so that a foreign site cannot reach it
by a rebound name), a form must come from this page, an upload has a size limit, and only the report
and the record of a listed run are served, and what an application's own `Pages` answer.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import secrets
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

from graftwork.errors import GraftError
from graftwork_runs.folder import RunFolder, runs
from graftwork_runs.forms import Form, Upload, form_html
from graftwork_runs.multipart import clean, parse
from graftwork_runs.report import Report
from graftwork_runs.report.cells import Markup, table_html
from graftwork_runs.report.look import document, section

_SERVED = {"report.html": "text/html; charset=utf-8", "record.json": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What one of an application's own pages answers.

    content: text or bytes of the media type `kind`. filename: the browser saves it under this name.
    goto: a path of this page to show instead, such as the result of a form.
    """

    content: str | bytes = ""
    kind: str = "text/html; charset=utf-8"
    filename: str = ""
    goto: str = ""


class Pages(Protocol):
    """An application's own pages, where one form is not enough.

    `None` from `get` or `post` means that there is no such page. HTML goes out as it is, so it must
    escape what users wrote. A GraftError from either is shown to the visitor. `head` (styles and
    scripts) and `policy` (the Content-Security-Policy) are the front page's; see `look.document`.
    """

    head: str
    policy: str

    def front(self, token: str) -> str:
        """HTML for the front page, above the runs; a form in it posts `token` in a hidden field."""
        ...

    def get(self, path: str) -> Answer | None:
        """Answer `GET path`; several may run at once."""
        ...

    def post(
        self, path: str, fields: Mapping[str, str], files: Mapping[str, Path]
    ) -> Answer | None:
        """Answer a form: its fields, and its files where one was chosen, which are deleted afterwards.

        One runs at a time, and only after the form's token was found right.
        """
        ...


class Page:
    """The server. `url` is where it is; use it as a context manager, or call `serve_forever`.

    It shows one `form` or an application's own `pages`. Raises GraftError when the port is taken.
    `limit` is the largest upload in bytes.
    """

    def __init__(
        self,
        title: str,
        *,
        root: str | os.PathLike[str] = "runs",
        form: Form | None = None,
        pages: Pages | None = None,
        port: int = 0,
        limit: int = 256 * 2**20,
    ) -> None:
        self.title = title
        self.root = Path(root)
        self.form = form
        self.pages = pages
        self.limit = limit
        self.token = secrets.token_urlsafe(16)
        self.busy = threading.Lock()  # one model, one request at a time
        handler = type("_PageHandler", (_Handler,), {"page": self})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "0 to 65535 are ports"
            raise GraftError(
                f"port {port}: cannot be opened ({reason}). Choose another, or 0 for any."
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

    def close(self) -> None:
        """Free the port of a page that is not being served."""
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
            body += section(self.form.title, form_html(self.form, self.token))
        listed = section("Runs", self._runs_html())
        if self.pages is None:
            return document(self.title, body + listed)
        body += self.pages.front(self.token) + listed
        return document(self.title, body, head=self.pages.head, policy=self.pages.policy)

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
    pages: Pages | None = None,
    port: int = 0,
    say: Callable[[str], None] = print,
) -> None:
    """Open the page and serve it until Ctrl-C; `say` gets the line with its address."""
    page = Page(title, root=root, form=form, pages=pages, port=port)
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

    def _answer(self, act: Callable[[], Answer]) -> None:
        status = HTTPStatus.OK
        try:
            self._check_host()
            answer = act()
        except Refused as error:
            status, answer = error.status, self._problem(error.status, str(error))
        except GraftError as error:
            status = HTTPStatus.BAD_REQUEST
            answer = self._problem(status, str(error))
        except ConnectionError:
            return
        except Exception as error:  # the page must outlive a handler that fails
            traceback.print_exc()
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            message = f"This failed ({type(error).__name__}). The terminal says more."
            answer = self._problem(status, message)
        with contextlib.suppress(ConnectionError):  # the visitor may have left
            self._send(HTTPStatus.SEE_OTHER if answer.goto else status, answer)

    def _check_host(self) -> None:
        allowed = {f"{name}:{self.page.port}" for name in ("127.0.0.1", "localhost")}
        if self.headers.get("Host") not in allowed:
            raise Refused(HTTPStatus.FORBIDDEN, "This page answers only to this computer's name.")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in allowed}:
            raise Refused(HTTPStatus.FORBIDDEN, "This request came from another site.")

    def _get(self) -> Answer:
        path = urlsplit(self.path).path
        if path == "/":
            return Answer(self.page.index())
        pages = self.page.pages
        if pages is not None and (answer := pages.get(path)) is not None:
            return answer
        parts = [unquote(part) for part in path.split("/")]
        if len(parts) == 5 and parts[:2] == ["", "run"] and parts[4] in _SERVED:
            # Looked up among the runs that exist, never joined into a path.
            for run in runs(self.page.root):
                if [run.app, run.name] == parts[2:4]:
                    file = run.path / parts[4]
                    if file.is_file() and not file.is_symlink():
                        return Answer(file.read_bytes(), _SERVED[parts[4]])
        raise Refused(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _post(self) -> Answer:
        if self.page.pages is None and (self.page.form is None or self.path != "/try"):
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such form.")
        fields, files = parse(self.headers.get("Content-Type", ""), self._body())
        if not secrets.compare_digest(fields.pop("token", "").encode(), self.page.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "This form is out of date. Load the page again.")
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            paths: dict[str, Path] = {}
            for number, field_name in enumerate(files):
                name, content = files[field_name]
                if content:  # a file field where nothing was chosen is sent too, empty
                    paths[field_name] = Path(folder, str(number), name)
                    paths[field_name].parent.mkdir()
                    paths[field_name].write_bytes(content)
                    content = b""
            files.clear()
            try:
                with self.page.busy:
                    return self._handled(fields, paths)
            except GraftError as error:
                # A visitor knows the file by its name, not by where it was kept meanwhile.
                words = re.sub(rf"{re.escape(folder)}/\d+/", "", str(error))
                raise GraftError(words) from error

    def _handled(self, fields: dict[str, str], files: Mapping[str, Path]) -> Answer:
        pages, form = self.page.pages, self.page.form
        if pages is not None and (answer := pages.post(self.path, fields, files)) is not None:
            return answer
        if form is None or self.path != "/try":
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such form.")
        if "file" not in files:
            raise GraftError("No file was chosen, or it is empty.")
        known = {f.name for f in form.fields}
        given = {k: v for k, v in fields.items() if k in known}
        result = form.handle(Upload(files["file"], given))
        if isinstance(result, Report):
            return Answer(result.html())
        return Answer(document(self.page.title, result + '<p><a href="/">Back</a></p>'))

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

    def _problem(self, status: HTTPStatus, message: str) -> Answer:
        body = section(
            f"{status.value} {status.phrase}",
            f'<div class="problem"><p>{html.escape(message)}</p></div><p><a href="/">Back</a></p>',
        )
        return Answer(document(self.page.title, body))

    def _send(self, status: HTTPStatus, answer: Answer) -> None:
        content = answer.content
        data = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(data)))
        if answer.goto:
            self.send_header("Location", answer.goto)
        if answer.filename:
            name = clean(answer.filename)
            self.send_header("Content-Disposition", f'attachment; filename="{name}"')
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
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
