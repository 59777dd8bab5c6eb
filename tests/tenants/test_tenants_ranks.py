"""Two processes train the tasks that one trains; what fails in one fails in both, and nobody else's bits move."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.errors import GraftError
from graftwork.tenants.ranks import Ranks, model_print, rows_of, seed_of
from tests.tenants.tenants_kit import net

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, "-m", "tests.tenants.two_ranks", str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_tasks_train_as_in_one_process(found: list[dict[str, Any]]) -> None:
    for process in found:
        case = process["equal"]
        assert case["apart"] < 1e-10
        assert all(case["rows"])
        assert case["same"] and case["again"]


def test_turns_are_those_of_the_first_process_plan(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert process["turns"]["apart"] < 1e-10 and process["turns"]["same"]


def test_a_loss_is_weighted_by_what_it_is_a_mean_over(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert process["weighted"]["apart"] < 1e-10 < 1e-2 < process["weighted"]["by rows"]


@pytest.mark.parametrize("rank", (0, 1))
@pytest.mark.parametrize(
    ("kind", "status", "step", "said"),
    [
        ("nan", "done", 5, "step 2: its loss is nan"),
        ("memory", "done", 5, "step 2: OutOfMemoryError: out of memory"),
        ("error", "failed", 2, "step 2: ValueError: bad label"),
        ("data", "failed", 2, "step 2: its data: OSError: the file is broken"),
        ("ends", "done", 2, None),
    ],
)
def test_what_fails_in_one_process_fails_in_both(
    found: list[dict[str, Any]], kind: str, rank: int, status: str, step: int, said: str | None
) -> None:
    for process in found:
        case = process["faults"][f"{kind} {rank}"]
        assert case["bits"], "another task is not what it is without the fault"
        assert case["same"] and case["alike"]
        assert (case["status"], case["step"]) == (status, step)
        if said is None:
            assert not case["failures"]
        else:
            assert case["failures"][0].startswith(said)
            # the other process is named where the text is not found out by all
            assert ("(process 1)" in case["failures"][0]) == (rank == 1 and kind != "nan")


def test_a_step_that_fails_in_one_process_ends_the_task_in_both(
    found: list[dict[str, Any]],
) -> None:
    for process in found:
        case = process["faults"]["step 0"]
        assert case["bits"] and case["status"] == "failed"
        assert "no room for a moment" in case["failures"][0]


def test_a_saved_run_goes_on_in_two_processes_and_in_one(found: list[dict[str, Any]]) -> None:
    for process in found:
        case = process["saved"]
        assert case["bits"] and case["same"]
        assert case["in one"] < 1e-10 and case["from one"] < 1e-10
        assert case["dropout moved"] > 1e-3  # each process draws for its own rows


def test_tasks_join_and_leave_alike(found: list[dict[str, Any]]) -> None:
    for process in found:
        case = process["joining"]
        assert case["begun"] and case["same"]
        assert case["steps"] == [4, 2]
        assert "processes 0 and 1 hold different tasks" in case["name"]
        assert case["left"] == ["lora", "rslora"]
        assert "processes 0 and 1 hold different bases" in case["base"]
        assert "own_rows=True" in case["no rows"][0] and case["no rows"][1] == "done"


def test_gradients_that_one_process_lacks(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert process["reached"]["apart"] < 1e-10 and process["reached"]["same"]


def test_ctrl_c_in_one_process_ends_the_round_in_both(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert process["stop"] == {"whole": False, "rounds": 4, "alike": True}


def test_rows_are_dealt_out_once_each() -> None:
    """Also those of many tasks of one row each, which go round the processes."""
    ranks = [object.__new__(Ranks) for _ in range(3)]
    for rank, one in enumerate(ranks):
        one.rank, one.count = rank, 3
    counts = [0, 0, 0]
    dealt = 0
    for rows in (1, 1, 1, 2, 4, 7):
        batch = {"x": torch.arange(rows), "lengths": list(range(rows)), "labels": (None,)}
        parts = [one.part("t", batch, dealt) for one in ranks]
        dealt += rows
        seen = [int(i) for part in parts if part is not None for i in part["x"]]
        assert sorted(seen) == list(range(rows))
        for k, part in enumerate(parts):
            if part is not None:
                assert part["lengths"] == part["x"].tolist()
                counts[k] += len(part["lengths"])
    assert max(counts) - min(counts) <= 1
    with pytest.raises(GraftError, match="no tensor with rows"):
        rows_of("t", {"x": 3, "y": torch.tensor(2.0)})


def test_seeds_and_prints_tell_apart() -> None:
    seeds = [seed_of(7), *(seed_of(7, rank, step) for rank in (1, 2) for step in (0, 1))]
    assert seeds[0] == 7 and len(set(seeds)) == 5
    one, other = net(), net()
    assert model_print(one) == model_print(other)
    with torch.no_grad():
        other.up.weight[0, 0] += 1e-14
    assert model_print(one) != model_print(other)
