"""JSON over localhost: one turn in, one turn and the state out; bad requests are told why; Ctrl-C ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graftwork.errors import GraftError
from graftwork_maritime import NOTICE
from graftwork_maritime.live import Composer
from graftwork_maritime.live import desk as desk_room
from graftwork_maritime.live.desk import Desk
from graftwork_maritime.live.serve import LIMIT, Server
from tests.maritime.live_kit import asked, one, served


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served(Desk(Composer, "composer")) as server:
        yield server


def test_an_exchange_over_json(server: Server) -> None:
    status, about = asked(server, "/", None)
    assert status == 200 and about["partner"] == "composer" and about["notice"] == NOTICE
    scenario = one("fire", kind="distress")
    status, begun = asked(server, "/open", {"scenario": scenario.as_dict()})
    assert status == 200 and begun["kind"] == "call" and begun["scenario"]["id"] == scenario.id
    assert begun["state"]["mmsi"] == scenario.vessel.mmsi
    ask = {
        "session": begun["session"],
        "text": "Received Mayday. How many persons are on board? Over.",
    }
    status, told = asked(server, "/turn", ask)
    assert status == 200 and told["kind"] == "answer" and told["reply"]["speaker"] == "ship"
    assert told["state"]["persons"] == scenario.vessel.persons and told["notice"] == NOTICE
    assert told["heard"]["text"] == ask["text"] and told["changed"] == []
    status, quiet = asked(server, "/turn", {"session": begun["session"], "text": ""})
    assert status == 200 and quiet["kind"] == "call"


def test_the_partner_plays_the_coast_station_too(server: Server) -> None:
    begun = asked(server, "/open", {"role": "coast", "index": 4, "keep": True})[1]
    assert begun["reply"] is None and begun["role"] == "coast"
    told = asked(
        server,
        "/turn",
        {"session": begun["session"], "text": "Mayday, Mayday, Mayday. Fire on board. Over."},
    )[1]
    assert told["reply"]["speaker"] == "coast"
    assert {"identity-missing", "position-missing"} <= {v["rule"] for v in told["violations"]}


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/open", b"{bad", 400, "not JSON: Expecting property name"),
        ("/open", b"\xff\xfe", 400, "not UTF-8"),
        ("/open", b"[" * 50_000, 400, "nested too deeply"),
        ("/open", [], 400, "a list, not an object"),
        ("/open", {"rule": "ship"}, 400, "rule: no such key"),
        ("/open", {"role": "gull"}, 400, "role: 'gull'"),
        ("/open", {"seed": -1}, 400, "seed: -1"),
        ("/open", {"keep": "yes"}, 400, "keep: 'yes'"),
        ("/open", {"scenario": 5}, 400, "scenario: a scenario must be an object"),
        ("/turn", {"session": "none", "text": "Over."}, 400, "is not open"),
        ("/turn", {"text": "Over."}, 400, "session: None"),
        ("/nothing", {}, 404, "no POST /nothing"),
        ("/open", b" " * (LIMIT + 1), 400, f"at most {LIMIT}"),
    ],
)
def test_bad_requests_are_told_why(
    server: Server, path: str, body: Any, status: int, reason: str
) -> None:
    found, said = asked(server, path, body)
    assert found == status and reason in said["error"] and said["notice"] == NOTICE


def test_a_turn_that_is_no_text_is_told_why(server: Server) -> None:
    number = asked(server, "/open", {})[1]["session"]
    for more, reason in (
        ({}, "text: None"),
        ({"text": 5}, "text: 5"),
        ({"text": "x", "speaker": "gull"}, "speaker 'gull'"),
    ):
        found, said = asked(server, "/turn", {"session": number, **more})
        assert found == 400 and reason in said["error"]


def test_a_scenario_whose_values_are_of_another_kind_is_told(server: Server) -> None:
    raw = one("fire").as_dict()
    for key, value in (
        ("vessel", {**raw["vessel"], "name": 5}),
        ("utc", 7),
        ("facts", {"seat": ["a"]}),
    ):
        found, said = asked(server, "/open", {"scenario": {**raw, key: value}})
        assert found == 400 and said["error"].startswith("scenario"), key


def test_only_this_computer_is_answered(server: Server) -> None:
    assert asked(server, "/", None, Host="example.org")[0] == 403
    assert asked(server, "/open", {}, Origin="https://example.org")[0] == 403
    found, said = asked(server, "/open", {}, Content_Type="text/plain")
    assert found == 400 and "application/json" in said["error"]


def test_old_sessions_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_room, "MOST", 2)
    desk = Desk(Composer, "composer")
    numbers = [desk.open({"index": n})["session"] for n in range(3)]
    with pytest.raises(GraftError, match="is not open"):
        desk.turn({"session": numbers[0], "text": "Over."})
    assert desk.turn({"session": numbers[2], "text": "Over."})["session"] == numbers[2]
    with pytest.raises(GraftError, match="preset 'sunday'"):
        Desk(Composer, "composer", preset="sunday")


def test_a_failing_partner_ends_one_turn_alone(capsys: pytest.CaptureFixture[str]) -> None:
    class Fails:
        name = "fails"

        def reply(self, scene: object) -> str:
            raise RuntimeError("out of breath")

    with served(Desk(lambda scenario, seed: Fails(), "fails")) as server:
        found, said = asked(server, "/open", {})
        assert found == 500 and "RuntimeError" in said["error"]
        assert asked(server, "/", None)[0] == 200
    assert "out of breath" in capsys.readouterr().err


def test_a_taken_port_is_told(server: Server) -> None:
    for port in (server.port, 70_000):
        with pytest.raises(GraftError, match=f"port {port}: cannot be opened"):
            Server(Desk(Composer, "composer"), port)


def test_the_verb_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "graftwork_maritime.app", "serve"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        line = next(line for line in process.stdout if "http://" in line)
        assert "composer" in line and NOTICE in line
        url = line.partition("http://")[2].split("/")[0]
        request = urllib.request.Request(
            f"http://{url}/open",
            json.dumps({"index": 1}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as got:
            assert json.loads(got.read())["kind"] == "call"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0 and "Traceback" not in process.stderr.read()
    assert not list(tmp_path.iterdir())
