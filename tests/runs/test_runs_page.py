"""The local page: only this computer, only listed runs, only small uploads."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from graftwork import GraftError
from graftwork_runs import Answer, Field, Form, Page, Report, RunFolder, Upload
from graftwork_runs.multipart import clean, parse

SEEN: list[tuple[str, bytes, dict[str, str]]] = []


def answer(upload: Upload) -> Report | str:
    SEEN.append((upload.path.name, upload.path.read_bytes(), dict(upload.fields)))
    if upload.fields.get("mode") == "bad":
        raise GraftError("scan.nii.gz: spacing is <NaN>.")
    if upload.fields.get("mode") == "broken":
        raise RuntimeError("secret detail")
    if upload.fields.get("mode") == "html":
        return "<p>ready made</p>"
    return Report("Your result", verdict="done")


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    run = RunFolder.create("medseg", "first", tmp_path / "runs")
    run.write_report(Report("The first report"))
    (run.path / "secret.txt").write_text("private")
    (tmp_path / "outside.html").write_text("private")
    linked = RunFolder.create("medseg", "linked", tmp_path / "runs")
    linked.report.symlink_to(tmp_path / "outside.html")
    SEEN.clear()
    form = Form("Try it", answer, accept=".nii", fields=[Field("mode", "Mode", "report")])
    with Page("Demo <page>", root=tmp_path / "runs", form=form, limit=4096) as page:
        yield page


def fetch(
    url: str, data: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    request = urllib.request.Request(url, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def post(
    page: Page,
    content: bytes = b"voxels",
    name: str = "scan.nii.gz",
    headers: dict[str, str] | None = None,
    token: str | None = None,
    **fields: str,
) -> tuple[int, str]:
    parts = {"token": page.token if token is None else token, **fields}
    body = b"".join(
        f'--XX\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in parts.items()
    )
    body += f'--XX\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'.encode()
    body += b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--XX--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=XX"}
    return fetch(page.url + "try", body, {**kind, **(headers or {})})


def test_the_front_page_lists_runs_and_shows_the_form(page: Page) -> None:
    status, text = fetch(page.url)
    assert status == 200 and "Demo &lt;page&gt;" in text and "<page>" not in text
    assert '/run/medseg/first/report.html"' in text and 'name="mode"' in text
    status, report = fetch(page.url + "run/medseg/first/report.html")
    assert status == 200 and "The first report" in report


@pytest.mark.parametrize(
    "path",
    [
        "run/medseg/first/secret.txt",
        "run/medseg/first/../first/report.html",
        "run/medseg/..%2f../report.html",
        "run/medseg/%2e%2e/outside.html",
        "run/medseg/linked/report.html",
        "run/medseg/first/record.json",
        "run/medseg/first/%2e%2e%2f%2e%2e%2f%2e%2e%2foutside.html",
        "../outside.html",
        "run/medseg/none/report.html",
        "etc/passwd",
    ],
)
def test_nothing_else_is_served(page: Page, path: str) -> None:
    status, text = fetch(page.url + path)
    assert status == 404 and "private" not in text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "evil.example:80", ""])
def test_another_host_name_is_refused(page: Page, host: str) -> None:
    assert fetch(page.url, headers={"Host": host})[0] == 403
    assert post(page, headers={"Host": host})[0] == 403
    assert SEEN == []


def test_another_site_or_an_old_form_cannot_post(page: Page) -> None:
    assert post(page, headers={"Origin": "http://evil.example"})[0] == 403
    assert post(page, headers={"Origin": "null"})[0] == 403
    assert post(page, token="guess")[0] == 403
    assert post(page, token="é")[0] == 403
    assert SEEN == []
    assert post(page, headers={"Origin": page.url.rstrip("/")})[0] == 200


def test_it_listens_on_this_computer_only(page: Page) -> None:
    assert page.url.startswith("http://127.0.0.1:")
    assert page._server.server_address[0] == "127.0.0.1"


def test_an_upload_reaches_the_handler_byte_for_byte(page: Page) -> None:
    content = bytes(range(256)) + b"\r\n\n\r--X\r\n" + b"\r\n"
    status, text = post(page, content, mode="report", unknown="dropped")
    assert status == 200 and "Your result" in text
    [seen] = SEEN
    assert seen == ("scan.nii.gz", content, {"mode": "report"})
    status, text = post(page, mode="html")
    assert status == 200 and "<p>ready made</p>" in text


def test_problems_are_said_and_the_page_lives_on(
    page: Page, capfd: pytest.CaptureFixture[str]
) -> None:
    status, text = post(page, mode="bad")
    assert status == 400 and "spacing is &lt;NaN&gt;" in text
    status, text = post(page, mode="broken")
    assert status == 500 and "RuntimeError" in text and "secret detail" not in text
    assert "secret detail" in capfd.readouterr().err
    status, text = post(page, b"")
    assert status == 400 and "No file was chosen" in text
    assert fetch(page.url)[0] == 200


def test_uploads_have_a_limit_and_a_length(page: Page) -> None:
    head = f"POST /try HTTP/1.0\r\nHost: 127.0.0.1:{page.port}\r\n"
    for extra, status in [
        ("Content-Length: 4097\r\n", "413"),
        ("", "411"),
        ("Content-Length: -1\r\n", "411"),
    ]:
        with socket.create_connection(("127.0.0.1", page.port), timeout=10) as connection:
            connection.sendall(f"{head}{extra}\r\n".encode())
            assert connection.recv(100).decode().split()[1] == status
    assert SEEN == []


def test_bodies_that_are_no_form_are_refused(page: Page) -> None:
    assert fetch(page.url + "try", b"a=b")[0] == 400
    kind = {"Content-Type": "multipart/form-data; boundary=XX"}
    for body in (
        b"",
        b"--XX\r\n",
        b"--XX\r\nno divider\r\n--XX--",
        b"--XX\r\nA: b\r\n\r\nc\r\n--XX--",
    ):
        assert fetch(page.url + "try", body, kind)[0] == 400
    assert fetch(page.url + "other", b"a=b")[0] == 404


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("scan.nii.gz", "scan.nii.gz"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\scan.nii", "scan.nii"),
        (".bashrc", "bashrc"),
        ("..", "upload"),
        ("a b;rm.nii", "a_b_rm.nii"),
        ("", "upload"),
        ("/", "upload"),
    ],
)
def test_file_names_are_cleaned(name: str, safe: str) -> None:
    assert clean(name) == safe
    assert re.fullmatch(r"[\w][\w.-]*", clean(name))


def test_a_port_in_use_is_named(page: Page) -> None:
    with pytest.raises(GraftError, match=f"port {page.port}: cannot be opened"):
        Page("second", port=page.port)


def test_parse_keeps_a_quoted_boundary() -> None:
    body = b'--a b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\xc3\xa9\r\n--a b--\r\n'
    assert parse('multipart/form-data; boundary="a b"', body) == ({"x": "é"}, {})


class Own:
    """An application's own pages."""

    head = "<meta name='mine'>"
    policy = "default-src 'none'; script-src 'self'"

    def __init__(self) -> None:
        self.files: dict[str, tuple[Path, bytes]] = {}

    def front(self, token: str) -> str:
        return f"<p>token {token}</p>"

    def get(self, path: str) -> Answer | None:
        if path == "/data":
            return Answer(bytes(range(256)), "application/octet-stream", filename='a b"\r\n.bin')
        return Answer("<p>arrived</p>") if path == "/there" else None

    def post(
        self, path: str, fields: Mapping[str, str], files: Mapping[str, Path]
    ) -> Answer | None:
        if path != "/go":
            return None
        self.files = {name: (file, file.read_bytes()) for name, file in files.items()}
        if "bad" in fields:
            raise GraftError(f"{files['file']}: is bad")
        return Answer(goto="/there")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Page, Own]]:
    pages = Own()
    with Page("Own", root=tmp_path, pages=pages, limit=4096) as page:
        yield page, pages


def send(page: Page, where: str, token: str | None = None, **fields: str) -> tuple[int, str]:
    parts = {"token": page.token if token is None else token, **fields}
    body = b"".join(
        f'--XX\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in parts.items()
    )
    for name, content in (("file", b"one"), ("other", b"two"), ("none", b"")):
        head = f'--XX\r\nContent-Disposition: form-data; name="{name}"; filename="same.nii"\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=XX"}
    return fetch(page.url + where, body + b"--XX--\r\n", kind)


def test_an_applications_own_pages_are_asked_first(own: tuple[Page, Own]) -> None:
    page, _ = own
    status, front = fetch(page.url)
    assert status == 200 and f"token {page.token}" in front and "No runs yet" in front
    assert Own.head in front and Own.policy in front and "'unsafe-inline'; form" not in front
    with urllib.request.urlopen(page.url + "data", timeout=10) as got:
        assert got.read() == bytes(range(256))
        assert got.headers["Content-Disposition"] == 'attachment; filename="a_b___.bin"'
        assert got.headers["Content-Type"] == "application/octet-stream"
    assert fetch(page.url + "nowhere")[0] == 404


def test_an_own_form_gets_its_files_and_leads_on(own: tuple[Page, Own]) -> None:
    page, pages = own
    assert send(page, "go") == (200, "<p>arrived</p>")
    # Two files of one name do not meet, and a field where nothing was chosen is no file.
    assert {name: content for name, (_, content) in pages.files.items()} == {
        "file": b"one",
        "other": b"two",
    }
    assert {file.name for file, _ in pages.files.values()} == {"same.nii"}
    assert not any(file.exists() for file, _ in pages.files.values())
    assert send(page, "elsewhere")[0] == 404


def test_an_own_form_needs_the_token_and_names_files_plainly(own: tuple[Page, Own]) -> None:
    page, pages = own
    assert send(page, "go", token="guess")[0] == 403 and pages.files == {}
    status, text = send(page, "go", bad="yes")
    assert status == 400 and "<p>same.nii: is bad</p>" in text
    assert not any(file.exists() for file, _ in pages.files.values())


def test_an_own_page_is_refused_to_other_hosts(own: tuple[Page, Own]) -> None:
    page, _ = own
    assert fetch(page.url + "data", headers={"Host": "evil.example"})[0] == 403
    assert fetch(page.url + "data", headers={"Origin": "http://evil.example"})[0] == 403


def test_an_impossible_port_is_named() -> None:
    with pytest.raises(GraftError, match="port 99999: cannot be opened"):
        Page("third", port=99999)


def test_a_page_that_is_not_served_frees_its_port() -> None:
    page = Page("fourth")
    page.close()
    Page("fifth", port=page.port).close()
