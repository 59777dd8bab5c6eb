"""Reading a form as browsers send it (RFC 7578, multipart/form-data), whole in memory."""

from __future__ import annotations

import re
from email.message import Message

from graftwork.errors import GraftError

_MOST_PARTS = 64


def parse(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, tuple[str, bytes]]]:
    """Fields {name: text} and files {name: (cleaned file name, content)} of a posted form.

    Raises GraftError when the body is not such a form.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise GraftError("The request is not a form with a file.")
    # A leading line break lets the first delimiter look like all the others.
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if len(pieces) < 2 or not pieces[-1].startswith(b"--") or len(pieces) > _MOST_PARTS:
        raise GraftError("The form is cut short or has too many parts.")
    fields: dict[str, str] = {}
    files: dict[str, tuple[str, bytes]] = {}
    for piece in pieces[1:-1]:
        head, divider, content = piece.partition(b"\r\n\r\n")
        if not divider:
            raise GraftError("A part of the form has no content.")
        name, filename = _disposition(head)
        if filename is None:
            fields[name] = content.decode("utf-8", errors="replace")
        else:
            files[name] = (clean(filename), content)
    return fields, files


def clean(filename: str) -> str:
    """A file name without folders, hidden starts and odd characters; its endings stay."""
    last = re.split(r"[\\/]", filename)[-1]
    safe = re.sub(r"[^\w.-]", "_", last, flags=re.ASCII).lstrip(".-")
    return safe[-100:].lstrip(".-") or "upload"


def _disposition(head: bytes) -> tuple[str, str | None]:
    for line in head.decode("utf-8", errors="replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            name = re.search(r'[;\s]name="([^"]*)"', value)
            filename = re.search(r'[;\s]filename="([^"]*)"', value)
            if name:
                return name.group(1), filename.group(1) if filename else None
    raise GraftError("A part of the form has no name.")
