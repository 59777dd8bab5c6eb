"""JSON over this computer's own address: one turn in, one turn and the parsed state out.

A request must name this host, so that no foreign site reaches it by a rebound name; a body must be called JSON, so that
no form of a foreign site can send one.
"""

from __future__ import annotations

import contextlib
import json
import threading
import traceback
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from graftwork.errors import GraftError

from .. import NOTICE
from .desk import Desk

LIMIT = 256 * 2**10  # bytes of a body


class Server:
    """Answers `GET /`, `POST /open` and `POST /turn` on 127.0.0.1, one exchange step at a time.

    Args:
        desk: what holds the sessions.
        port: 0 for any that is free.

    Raises GraftError when the port is taken.
    """

    def __init__(self, desk: Desk, port: int = 0) -> None:
        self.desk = desk
        self.busy = threading.Lock()  # one model, one turn at a time
        handler = type("_DeskHandler", (_Handler,), {"server_of": self})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "0 to 65535 are ports"
            raise GraftError(
                f"port {port}: cannot be opened ({reason}); choose another, or 0 for any"
            ) from error
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def serve_forever(self) -> None:
        """Serve until `stop`, or until Ctrl-C, which is a clean end."""
        try:
            with contextlib.suppress(KeyboardInterrupt):
                self._server.serve_forever()
        finally:
            self.busy.acquire(timeout=60)  # a turn under way is said to its end
            self.close()

    def stop(self) -> None:
        """End `serve_forever`, from another thread."""
        self._server.shutdown()

    def close(self) -> None:
        """Free the port."""
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_of: Server
    server_version = "graftwork"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _answer(self, method: str) -> None:
        try:
            status, found = self._found(method)
        except GraftError as error:
            status, found = HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except ConnectionError:
            return
        except Exception as error:  # the server must outlive a turn that fails
            traceback.print_exc()
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            found = {"error": f"this failed ({type(error).__name__}); the terminal says more"}
        data = json.dumps({**found, "notice": NOTICE}, ensure_ascii=False).encode()
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

    def _found(self, method: str) -> tuple[HTTPStatus, dict[str, Any]]:
        desk, hosts = (
            self.server_of.desk,
            {f"{n}:{self.server_of.port}" for n in ("127.0.0.1", "localhost")},
        )
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in hosts or (
            origin is not None and origin not in {f"http://{host}" for host in hosts}
        ):
            self.close_connection = True
            return HTTPStatus.FORBIDDEN, {"error": "this answers only to this computer's own name"}
        if method == "GET" and self.path == "/":
            return HTTPStatus.OK, desk.about()
        acts = {"/open": desk.open, "/turn": desk.turn}
        if method != "POST" or self.path not in acts:
            self.close_connection = True
            return HTTPStatus.NOT_FOUND, {
                "error": f"no {method} {self.path}; there are GET /, POST /open, POST /turn"
            }
        asked = self._body()
        with self.server_of.busy:
            return HTTPStatus.OK, acts[self.path](asked)

    def _body(self) -> Any:
        self.close_connection = True  # until the body is read, what follows is no request
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise GraftError(f"Content-Type: {kind or 'missing'}; send application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise GraftError("Content-Length: missing; say how long the body is")
        if int(length) > LIMIT:
            raise GraftError(f"the body has {length} bytes, at most {LIMIT}")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise GraftError("the body was cut short")
        try:
            found = json.loads(body.decode())
        except json.JSONDecodeError as error:
            raise GraftError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
        except UnicodeDecodeError:
            raise GraftError("not UTF-8 text; send JSON in UTF-8") from None
        except RecursionError:
            raise GraftError("not JSON: nested too deeply") from None
        self.close_connection = False
        return found
