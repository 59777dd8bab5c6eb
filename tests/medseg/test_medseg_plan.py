"""What was typed: budgets, organs and lengths, `--data PATH`, and `--resume` of a folder."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import GraftError
from graftwork_medseg import arguments
from graftwork_medseg.fewshot.plan import AUDIT_SHARE, Request, SearchPlan, budget_of

CLASSES = ["SimulatedData", "FolderData"]


@given(st.integers(1, 10**9), st.floats(1e-6, 100))
def test_a_budget_is_a_count_or_a_share(count: int, percent: float) -> None:
    assert budget_of(str(count)) == budget_of(count) == count
    assert type(budget_of(str(count))) is int
    share = budget_of(f" {percent!r}% ")
    assert isinstance(share, float) and share == percent / 100
    if share < 1:
        assert budget_of(share) == budget_of(str(share)) == share


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (t, "give a share of the network such as 1%")
            for t in ("", "much", "1 %%", "nan", "inf%")
        ),
        *((t, "must lie above 0 and be at most 100 %") for t in ("0", "0%", "-1%", "101%", "1.5")),
    ],
)
def test_a_budget_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(GraftError, match=message):
        budget_of(text)


@given(st.integers(1, 10_000), st.integers(1, 400), st.integers(1, 30), st.integers(1, 8))
def test_audits_stay_within_their_share_of_the_time(
    steps: int, units: int, crops: int, batch: int
) -> None:
    plan = SearchPlan(steps=steps).plan(units, crops, batch)
    audits = steps // plan.audit_every
    assert 1 <= audits <= 43 and plan.allocate_every <= steps
    assert 0 < plan.share <= AUDIT_SHARE
    probes = max(1, math.ceil(plan.share * units))  # and the set itself, and an allocation's look
    passes, training = (probes + 2) * crops, 3 * batch * plan.audit_every
    assert probes == 1 or passes / (passes + training) <= 0.3 + crops / (passes + training)


def test_the_published_plan_is_what_its_length_gives() -> None:
    long = SearchPlan(warm_up=200, steps=8000).plan(units=192, crops=6, batch=6)
    assert (long.audit_every, long.allocate_every, long.share) == (200, 400, 0.2)
    assert (long.votes, long.guard, long.ramp) == (3, 3, 20)
    assert long.memory == pytest.approx(0.93)
    short = SearchPlan().plan(units=146, crops=1, batch=2)
    assert (short.votes, short.guard) == (1, 1) and short.memory < 0.93
    assert short.steps // short.audit_every == 16 and short.allocate_every == 30


@pytest.mark.parametrize("field", ["warm_up", "steps", "refine"])
def test_lengths_out_of_range_are_named(field: str) -> None:
    with pytest.raises(GraftError, match=rf"search\.{field} -1 must be at least"):
        SearchPlan(**{field: -1})


def test_organs_are_split_at_commas() -> None:
    assert Request(organ="larynx, Left lung,").names == ("larynx", "Left lung")
    assert Request(organ=" ,").names == () and Request().names is None
    assert Request(organ="a").by_name and Request(budget="1%").by_name and Request(dual="d").by_name
    assert not Request(shots=3).by_name and Request(shots=3).draws and Request(fold=1).draws
    assert not Request().draws


def test_data_may_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FolderData").mkdir()
    Path("a.b").mkdir()
    Path("data.yaml").touch()
    kind = f"--data={arguments.FOLDER_DATA}"
    for value in ("site", "../my site", "/no/such", "FolderData", "a.b", "sote-1"):
        wanted = ["adapt", kind, f"--data.path={value}", "--x"]
        assert arguments.expand(["adapt", "--data", value, "--x"], CLASSES) == wanted
        assert arguments.expand(["adapt", f"--data={value}", "--x"], CLASSES) == wanted
    for value in ("SimulatedData", "graftwork_medseg.data.FolderData", "data.yaml", "{}", "null"):
        for words in (["adapt", "--data", value], ["adapt", f"--data={value}"]):
            assert arguments.expand(words, CLASSES) == words
    for words in (["adapt", "--data"], ["adapt", "--data.path", "x"], ["fit"]):
        assert arguments.expand(words, CLASSES) == words


def test_a_stopped_run_starts_from_its_own_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["adapt", "--resume", "--run_dir", "run"]
    assert arguments.expand(words, CLASSES) == words  # there is no such run
    Path("run").mkdir()
    Path("run/config.yaml").touch()
    assert arguments.expand(words, CLASSES) == ["adapt", "--config=run/config.yaml", *words[1:]]
    joined = ["adapt", "--run_dir=run", "--resume"]
    assert arguments.expand(joined, CLASSES)[1] == "--config=run/config.yaml"
    for other in (["adapt", "--run_dir=run"], [*joined, "--config=b"], [*joined, "-c", "b"]):
        assert arguments.expand(other, CLASSES) == other
    assert arguments.expand(["adapt", "--resume"], CLASSES) == ["adapt", "--resume"]
