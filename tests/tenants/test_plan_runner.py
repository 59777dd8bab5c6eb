"""Plans and layouts in the engine: turns, groups, joined sequences; each task as if it had trained alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from models import build
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.tenants import Aligner, Joined, Runner, Segments, Task, TaskLoad
from graftwork.tenants.align import Aligned, tensor_of
from graftwork.tenants.cost import CostModel
from graftwork.tenants.layouts import LAYOUTS, Shape
from graftwork.tenants.measure import measured, model_bytes, saved_bytes
from graftwork.tenants.mix import Mix
from graftwork.tenants.plan import Planner


@dataclass(frozen=True)
class Fixed:
    """A plan with turns."""

    groups: Sequence[Sequence[str]]
    turns: Sequence[int]

    def cycle(self) -> Iterator[Sequence[str]]:
        for group, n in zip(self.groups, self.turns, strict=True):
            yield from [group] * n


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def points(seed: int, count: int = 6) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(2, 4, dtype=torch.float64, generator=draw),
            torch.randint(3, (2,), generator=draw),
        )
        for _ in range(count)
    ]


def task(name: str, seed: int, steps: int, **more: object) -> Task:
    return Task(
        name, points(seed), nn.functional.cross_entropy, gw.LoRA(2), steps=steps, seed=seed, **more
    )  # type: ignore[arg-type]


def trained(tasks: Sequence[Task], plan: object = None) -> Runner:
    runner = Runner(net(), tasks, plan=plan)  # type: ignore[arg-type]
    runner.run()
    return runner


def test_turns_are_steps_and_change_no_result() -> None:
    tasks = [task("a", 1, 6), task("b", 2, 3), task("c", 3, 3)]
    runner = Runner(net(), tasks, plan=Fixed([["a"], ["b", "c"]], [3, 1]))
    runner.round()
    assert [runner.tenants[n].step for n in "abc"] == [3, 1, 1]
    runner.run()
    assert [runner.tenants[n].step for n in "abc"] == [6, 3, 3]
    for one in tasks:
        alone = trained([one]).tenants[one.name].graft.tensors()
        for key, value in runner.tenants[one.name].graft.tensors().items():
            torch.testing.assert_close(value, alone[key], rtol=1e-10, atol=1e-12)


def test_a_task_that_ends_within_a_cycle_leaves_the_turns_to_the_others() -> None:
    tasks = [task("a", 1, 2), task("b", 2, 4)]
    runner = trained(tasks, Fixed([["a"], ["b"]], [3, 1]))
    assert {t.name: t.step for t in runner.tenants.values()} == {"a": 2, "b": 4}


def test_output_rows_of_its_own_need_passes_to_itself() -> None:
    wide = task("wide", 4, 3, also_train=gw.NewRows("2", 2))
    tasks = [wide, task("b", 2, 3)]
    runner = trained(tasks, Fixed([["wide"], ["b"]], [1, 1]))
    for one in tasks:
        alone = trained([one]).tenants[one.name].graft.tensors()
        for key, value in runner.tenants[one.name].graft.tensors().items():
            torch.testing.assert_close(value, alone[key], rtol=1e-10, atol=1e-12)
    with pytest.raises(GraftError, match=r"'wide' has new rows at a Linear.*a group of one"):
        trained(tasks)


def language(name: str, seed: int, longest: int) -> Task:
    draw = torch.Generator().manual_seed(seed)
    data = []
    for _ in range(3):
        lengths = torch.randint(2, longest + 1, (2,), generator=draw)
        ids = torch.randint(1, 32, (2, int(lengths.max())), generator=draw)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        data.append(({"input_ids": ids, "attention_mask": mask}, (ids, mask)))

    def loss(logits: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        ids, mask = target
        seen = mask[:, 1:]
        return nn.functional.cross_entropy(logits[:, :-1][seen], ids[:, 1:][seen])

    return Task(name, data, loss, gw.LoRA(2), steps=3, seed=seed)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sequences_in_every_layout_train_as_alone(layout: str) -> None:
    def run(tasks: Sequence[Task], aligner: Aligner | None) -> Runner:
        model = build.__wrapped__("Llama")

        def join(inputs: dict[str, dict[str, Tensor]]) -> Joined:
            assert aligner is not None
            aligned = aligner.align(inputs)
            return Joined(aligned, Segments(aligned.names, aligned.sizes), aligned.own)

        def body(model: nn.Module, inputs: Aligned | dict[str, Tensor]) -> Tensor:
            if isinstance(inputs, Aligned):
                assert aligner is not None
                aligner.model = model
                return aligner.run(inputs)
            return tensor_of(model(**inputs))

        runner = Runner(model, tasks, body=body, **({} if aligner is None else {"join": join}))
        runner.run()
        return runner

    tasks = [language("short", 1, 5), language("long", 2, 30), language("mid", 3, 12)]
    together = run(tasks, Aligner(build("Llama"), layout, 7 if layout == "chunked" else None))
    for one in tasks:
        alone = run([one], None).tenants[one.name].graft.tensors()
        for key, value in together.tenants[one.name].graft.tensors().items():
            torch.testing.assert_close(value, alone[key], rtol=1e-8, atol=1e-10)


def test_a_planned_run_is_as_each_alone() -> None:
    tasks = [task(n, i, 3) for i, n in enumerate("abcd")]

    def plan(tenants: Sequence[object]) -> object:
        loads = [TaskLoad(t.name, (1, 1)) for t in tenants]  # type: ignore[attr-defined]
        return Planner(CostModel(per_row=1.0, row_bytes=1), cap=5).plan(loads)

    runner = trained(tasks, plan)
    assert max(map(len, runner.groups())) <= 2 or not runner.running
    for one in tasks:
        alone = trained([one]).tenants[one.name].graft.tensors()
        for key, value in runner.tenants[one.name].graft.tensors().items():
            torch.testing.assert_close(value, alone[key], rtol=1e-10, atol=1e-12)


def test_measuring_changes_nothing() -> None:
    runner = Runner(net(), [task("a", 1, 3), task("b", 2, 3)])
    runner.round()
    before = runner.state_dict()
    random = torch.get_rng_state()
    inputs = {n: points(9)[0][0] for n in "ab"}
    found = measured(runner.model, runner.body, runner.join_batches, inputs, Shape(4), state=10)
    assert (found.shape.rows, found.tasks, found.state) == (4, 2, 10)
    assert found.seconds > 0
    assert found.bytes is not None
    assert found.bytes > model_bytes(runner.model) + 10
    assert torch.equal(torch.get_rng_state(), random)
    after = runner.state_dict()
    for name in "ab":
        for key, value in before["tasks"][name]["tensors"].items():
            assert torch.equal(after["tasks"][name]["tensors"][key], value)
        assert after["tasks"][name]["grads"] == before["tasks"][name]["grads"]


def test_bytes_of_a_backbone_and_of_what_it_keeps() -> None:
    model = net()
    plain = model_bytes(model)
    assert plain == 8 * (4 * 8 + 8 + 8 * 3 + 3)
    runner = Runner(model, [task("a", 1, 3)])
    assert model_bytes(model) == plain  # a graft is no part of it

    def kept(rows: int) -> int:
        x = torch.randn(rows, 4, dtype=torch.float64)
        with Mix(runner.model).on(Segments(("a",), (rows,))):
            return saved_bytes(model, lambda: model(x).sum())

    assert kept(200) - kept(100) == kept(300) - kept(200) > 0
