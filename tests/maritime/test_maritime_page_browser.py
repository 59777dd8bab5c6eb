"""The page in a real browser: a person plays a station, and sees state and violations after each turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graftwork_maritime import NOTICE
from graftwork_maritime.live import Composer
from graftwork_maritime.live.desk import Desk
from graftwork_maritime.live.page import TITLE, LivePages
from graftwork_runs import Page
from tests.browser import needs_chromium

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    desk = Desk(Composer, "composer <b>")
    with Page(TITLE, root=tmp_path_factory.mktemp("runs"), pages=LivePages(desk)) as page:
        yield page


@pytest.fixture
def tab(browser: Any, page: Page) -> Iterator[Any]:
    tab, complaints = browser.new_page(), []
    tab.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda r: r.url.startswith((page.url, "data:")) or complaints.append(r.url))
    tab.goto(page.url)
    tab.wait_for_selector("#live[data-state=open]")
    yield tab
    tab.close()
    assert complaints == []


def say(tab: Any, text: str) -> None:
    """Say something, and wait until it was answered."""
    before = tab.locator("#log li").count()
    tab.fill("#text", text)
    tab.click("text=Say it")
    turns(tab, before + 2)


def turns(tab: Any, count: int) -> None:
    """Wait until so many are shown."""
    from playwright.sync_api import expect

    expect(tab.locator("#log li")).to_have_count(count, timeout=30_000)


def state(tab: Any, key: str) -> str:
    return str(tab.inner_text(f"#state tr[data-key={key}] td"))


def test_a_person_plays_the_coast_station(tab: Any, page: Page) -> None:
    assert NOTICE in tab.inner_text(".notice").lower() and "composer <b>" in tab.inner_text("main")
    scenario = next(iter(page.pages.desk.sessions.values())).scenario  # type: ignore[union-attr, attr-defined]
    call = tab.locator("#log li.ship").first.inner_text()
    assert scenario.vessel.name in call and "Mayday, Mayday, Mayday" in call
    assert state(tab, "name") == scenario.vessel.name and state(tab, "mmsi") == (
        scenario.vessel.mmsi or "–"
    )
    assert state(tab, "acknowledged") == "no" and tab.is_visible("#none")
    lat, lon = (round(abs(v) * 6000) for v in (scenario.position.lat, scenario.position.lon))
    sides = "S" if scenario.position.lat < 0 else "N", "W" if scenario.position.lon < 0 else "E"
    assert state(tab, "position") == (
        f"{lat // 6000:02}° {lat % 6000 / 100:05.2f}′ {sides[0]}, "
        f"{lon // 6000:03}° {lon % 6000 / 100:05.2f}′ {sides[1]}"
    )
    say(
        tab,
        f"Mayday. {scenario.vessel.name}, this is {scenario.station.name}. Received Mayday. How many persons? Over.",
    )
    assert state(tab, "acknowledged") == "yes" and state(tab, "persons") == str(
        scenario.vessel.persons
    )
    assert tab.is_visible("#none")
    say(tab, f"I understand {scenario.vessel.persons + 1} persons on board. Over and out.")
    found = tab.inner_text("#violations")
    assert "readback-wrong" in found and "over-and-out" in found and not tab.is_visible("#none")
    assert "Negative" in tab.locator("#log li.ship").last.inner_text()
    assert "readback-wrong" in tab.locator("#log li.coast").last.inner_text()


def test_silence_is_shown_and_orders_are_at_hand(tab: Any) -> None:
    tab.click("text=Say nothing")
    turns(tab, 2)
    assert "Mayday" in tab.locator("#log li").last.inner_text()
    tab.click("text=Seelonce Mayday")
    text = tab.input_value("#text")
    assert "Seelonce Mayday. Out." in text and "{" not in text
    say(tab, text)
    assert state(tab, "procedure") == "silence"
    assert "silent" in tab.locator("#log li.still").last.inner_text()


def test_another_scenario_and_another_speaker(tab: Any) -> None:
    offered = tab.locator("#index option").all_inner_texts()
    assert len(set(offered)) == len(offered) > 20
    tab.select_option("#index", label="urgency: engine")
    tab.fill("#seed", "4")
    tab.click("text=New exchange")
    tab.wait_for_selector("text=/[Pp]an.pan/")
    assert tab.locator("#log li").count() == 1 and state(tab, "kind") == "urgency"
    assert not tab.is_visible("#called")
    tab.select_option("#speaker", "other")
    assert tab.is_visible("#called")
    say(tab, "Mayday, Mayday, Mayday. This is <i>Fenella</i> Tide. Sinking. Over.")
    assert "<i>Fenella</i>" in tab.locator("#log li.other").inner_text()
    tab.click("summary")
    assert '"category": "engine"' in tab.inner_text("#facts")


def test_a_person_plays_the_ship(tab: Any) -> None:
    tab.select_option("#role", label="ship")
    tab.click("text=New exchange")
    tab.wait_for_selector("text=The coast station listens")
    you = tab.inner_text("#you")
    assert tab.inner_text("#they") == "The coast station" and you in tab.text_content("#facts")
    assert not tab.is_visible("text=Seelonce Mayday")
    tab.click("button:text-is('Mayday')")
    text = tab.input_value("#text")
    assert f"this is {you}, {you}" in text and "{" not in text
    tab.click("text=Say it")
    turns(tab, 3)  # that it listens, the call, the answer
    assert "position" in tab.locator("#log li.coast").last.inner_text()
    tab.select_option("#speaker", "other")
    tab.fill("#name", "Tug Oxmoor")
    say(tab, "Radio check, please. Over.")
    assert (
        "Tug Oxmoor" in tab.locator("#log li.other").inner_text()
        and state(tab, "procedure") == "silence"
    )
    tab.select_option("#role", label="coast station")
    tab.click("text=New exchange")
    turns(tab, 1)


def test_a_part_that_the_adapter_has_not_learnt_is_not_offered(
    browser: Any, tmp_path: Path
) -> None:
    desk = Desk(Composer, "one part", plays=("ship",))
    with Page(TITLE, root=tmp_path, pages=LivePages(desk)) as page:
        tab = browser.new_page()
        tab.goto(page.url)
        tab.wait_for_selector("#live[data-state=open]")
        assert tab.locator("#role option").all_inner_texts() == ["coast station"]
        tab.close()


def test_a_problem_is_said_and_the_exchange_goes_on(tab: Any, page: Page) -> None:
    page.pages.desk.sessions.clear()  # type: ignore[union-attr, attr-defined]
    tab.fill("#text", "Over.")
    tab.click("text=Say it")
    tab.wait_for_selector("#problem:not(:empty)")
    assert "is not open; open one first" in tab.inner_text("#problem")
    tab.click("text=New exchange")
    tab.wait_for_selector("#problem:empty", state="attached")
    turns(tab, 1)
    say(tab, "What is your position? Over.")


def test_the_page_fits_a_phone(browser: Any, page: Page, tmp_path: Path) -> None:
    tab = browser.new_page()
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto(page.url)
    tab.wait_for_selector("#live[data-state=open]")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.close()
