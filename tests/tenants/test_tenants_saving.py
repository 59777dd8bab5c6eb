"""A saved run goes on exactly, whole or task by task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import graftwork as gw
from graftwork.tenants import Runner
from tests.tenants.tenants_kit import METHODS, bits, finite, net, task

NAMES = ("lora", "dropped", "dora", "diablo", "norms", "adapter")


def runner(*names: str, **more: Any) -> Runner:
    return Runner(net(), [task(n, **more) for n in names])


@pytest.mark.parametrize("rounds", [1, 4, 7])
def test_resume_is_the_uninterrupted_run_bit_for_bit(rounds: int, tmp_path: Path) -> None:
    """Also in the middle of a step's batches, with dropout, data and schedules under way."""
    whole = runner(*NAMES)
    whole.run(rounds=12)
    first = runner(*NAMES)
    first.run(rounds=rounds)
    first.save(tmp_path / "run" / "tenants.pt")
    del first
    second = runner(*NAMES)
    second.load(tmp_path / "run" / "tenants.pt")
    assert second.rounds == rounds
    second.run(rounds=12 - rounds)
    assert bits(second.state_dict()) == bits(whole.state_dict())


def test_finished_and_failed_tasks_stay_so_after_a_resume() -> None:
    def bad(output: Any, target: Any) -> Any:
        raise ValueError("bad label")

    def made() -> Runner:
        return Runner(net(), [task("lora", steps=2), task("ia3", loss=bad), task("dropped")])

    first = made()
    first.run(rounds=3)
    second = made()
    second.load_state_dict(first.state_dict())
    assert second.table() == first.table()
    assert [t.name for t in second.running] == ["dropped"]


def test_one_task_saved_removed_and_taken_in_again_goes_on_and_the_others_are_not_touched() -> None:
    whole = runner(*NAMES)
    whole.run(rounds=8)
    other = runner(*NAMES)
    other.run(rounds=4)
    kept, before = (
        other.state_of("dropped"),
        [bits(other.state_of(n)) for n in NAMES if n != "dropped"],
    )
    other.leave("dropped", remove=True)
    assert "dropped" not in gw.grafts(other.model)
    assert [bits(other.state_of(n)) for n in NAMES if n != "dropped"] == before
    other.join(task("dropped"), kept)
    assert [bits(other.state_of(n)) for n in NAMES if n != "dropped"] == before
    other.run(rounds=4)
    for name in NAMES:
        a, b = (r.tenants[name].graft.tensors() for r in (other, whole))
        # the rows lie in another order now, so products round otherwise
        assert all(torch.allclose(a[k], b[k], rtol=1e-10, atol=1e-13) for k in b), name
    assert other.tenants["dropped"].step == whole.tenants["dropped"].step


def test_an_adapter_folder_of_a_task_is_loaded_like_any_other(tmp_path: Path) -> None:
    made = runner("lora", "norms")
    made.run(rounds=3)
    gw.save(made.tenants["lora"].graft, tmp_path / "lora")
    fresh = net()
    loaded = gw.load(fresh, tmp_path / "lora")
    assert bits(loaded.tensors()) == bits(made.tenants["lora"].graft.tensors())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    first = runner("lora", "dora")
    first.run(rounds=2)
    state = first.state_dict()
    with pytest.raises(gw.GraftError, match=r"no task \['ia3'\] and has \['dora'\]"):
        runner("lora", "ia3").load_state_dict(state)
    with pytest.raises(gw.GraftError, match="format 99"):
        runner("lora", "dora").load_state_dict({**state, "format": 99})
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(gw.GraftError, match="cannot be read"):
        first.load(tmp_path / "broken.pt")
    with pytest.raises(gw.GraftError, match="cannot be read"):
        first.load(tmp_path / "missing.pt")
    torch.save([1], tmp_path / "other.pt")
    with pytest.raises(gw.GraftError, match="not a saved run"):
        first.load(tmp_path / "other.pt")
    shorter = Runner(net(), [task("lora", data=finite(1), steps=None), task("dora")])
    with pytest.raises(
        gw.GraftError, match="the data ended after 1 batches, and the saved run had drawn 2"
    ):
        shorter.load_state_dict(state)
    assert set(METHODS) >= {"lora", "dora"}
