"""Exchanges that several tests hold."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from graftwork_maritime.live import Composer, Scene, Session
from graftwork_maritime.live.desk import Desk
from graftwork_maritime.live.serve import Server
from graftwork_maritime.scenario import Scenario
from tests.maritime.world_kit import drawn


def one(category: str, seed: int = 3, kind: str | None = None) -> Scenario:
    """A scenario of a category."""
    found = drawn("coastal", 60, seed)
    return next(s for s in found if s.category == category and kind in (None, s.kind))


def begun(scenario: Scenario, keep: bool = False) -> Session:
    """An exchange in which the composer plays the ship, and has called."""
    session = Session(scenario, Composer(scenario), keep=Composer(scenario) if keep else None)
    assert session.open().kind == "call"
    return session


class Says:
    """A partner that says the same always; of several texts one an attempt."""

    name = "says"

    def __init__(self, *texts: str | None) -> None:
        self.texts, self.scenes = texts, list[Scene]()

    def reply(self, scene: Scene) -> str | None:
        self.scenes.append(scene)
        return self.texts[min(scene.attempt, len(self.texts) - 1)]


@contextmanager
def served(desk: Desk) -> Iterator[Server]:
    """A server under way."""
    server = Server(desk)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.stop()
    thread.join()


def asked(server: Server, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a request; bytes go as they are, None gets."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    given = {
        "Content-Type": "application/json",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    request = urllib.request.Request(server.url.rstrip("/") + path, data, given)
    try:
        with urllib.request.urlopen(request, timeout=30) as got:
            return got.status, json.loads(got.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


class Network(torch.nn.Module):
    """Nothing is computed: `complete` is replaced."""


class Words:
    """A tokenizer whose tokens are characters."""

    eos_token_id = 0

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, tokens: list[int], **_: object) -> str:
        return "".join(map(chr, tokens))
