"""Tasks in joint passes train as they do alone; counts, joining and leaving, refusals."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import graftwork as gw
from graftwork.tenants import Joined, Runner, Segments, Task, backbone
from graftwork.tenants.batches import call, stack
from graftwork.tenants.mix import Mix
from tests.core.core_helpers import base_bits
from tests.tenants.tenants_kit import (
    METHODS,
    Groups,
    adamw,
    alone,
    batches,
    finite,
    mse,
    net,
    relative,
    task,
)

GROUPS = {
    "all together": (tuple(METHODS),),
    "each alone": tuple((n,) for n in METHODS),
    "two hybrid tasks": (tuple(METHODS)[::2], tuple(METHODS)[1::2]),
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_a_hundred_steps_are_those_of_training_alone(groups: tuple[tuple[str, ...], ...]) -> None:
    """Nine methods with dropout, clipping, schedules and accumulation of their own, in float64."""
    model = net()
    before = base_bits(model)
    runner = Runner(model, [task(n, steps=100) for n in METHODS], plan=Groups(groups))
    assert runner.run()
    for name in METHODS:
        tenant = runner.tenants[name]
        assert (tenant.status, tenant.step, tenant.failures) == ("done", 100, [])
        graft, optimizer = alone(task(name), 100)
        assert relative(tenant.graft.parameters(), graft.parameters()) < 1e-10, name
        moments = [
            [t for s in o.state_dict()["state"].values() for t in (s["exp_avg"], s["exp_avg_sq"])]
            for o in (tenant.optimizer, optimizer)
        ]
        assert relative(*moments) < 1e-8, name
    assert base_bits(model) == before
    assert not any(
        p.requires_grad or p.grad is not None
        for n, p in model.named_parameters()
        if "_graft" not in n
    )
    added = sum(p.numel() for n, p in model.named_parameters() if "_graft" in n)
    assert added == sum(g.summary().trainable for g in gw.grafts(model).values())


def test_factors_count_as_ranks_times_widths() -> None:
    model = net()
    widths = sum(sum(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear))
    before = sum(p.numel() for p in model.parameters())
    Runner(model, [Task(f"r{r}", batches(1, r), mse, gw.LoRA(r), sites="*") for r in (1, 3, 4)])
    assert sum(p.numel() for p in model.parameters()) - before == (1 + 3 + 4) * widths


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.sampled_from(list(METHODS)), st.integers(1, 4), st.integers(1, 3)),
        min_size=1, max_size=6, unique_by=lambda item: item[0],
    )
)  # fmt: skip
def test_any_tasks_together_are_as_alone(drawn: list[tuple[str, int, int]]) -> None:
    tasks = [task(n, data=batches(rows, 5), accumulate=acc, steps=4) for n, rows, acc in drawn]
    runner = Runner(net(), tasks)
    runner.run()
    for t in tasks:
        graft, _ = alone(t, 4)
        assert relative(runner.tenants[t.name].graft.parameters(), graft.parameters()) < 1e-10


def test_the_throttled_backward_is_that_of_the_summed_loss() -> None:
    names = ("lora", "ia3", "dora", "norms", "rslora")
    runner = Runner(net().eval(), [task(n, accumulate=1) for n in names])
    drawn = {t: t.source.draw() for t in runner.tenants.values()}
    backbone.run(Mix(runner.model), call, stack, drawn)
    throttled = {n: [p.grad for p in runner.tenants[n].parameters] for n in names}
    for t in runner.tenants.values():
        t.reset()
    joined = stack({t.name: b[0] for t, b in drawn.items()})
    with Mix(runner.model).on(joined.segments):
        y = runner.model(joined.inputs)
        losses = [mse(joined.segments.take(y, t.name), b[1]) for t, b in drawn.items()]
        torch.stack(losses).sum().backward()
    for n in names:
        for a, b in zip(throttled[n], [p.grad for p in runner.tenants[n].parameters], strict=True):
            assert a is not None and b is not None and torch.allclose(a, b, rtol=1e-12, atol=1e-15)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=4))
def test_steps_are_batches_over_accumulation_and_no_batch_comes_twice(
    cases: list[tuple[int, int]],
) -> None:
    seen: dict[str, list[float]] = {}

    def noting(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        def loss(output: Tensor, target: Tensor) -> Tensor:
            seen.setdefault(name, []).append(float(target.sum()))
            return mse(output, target)

        return loss

    tasks = [
        Task(f"t{i}", finite(count), noting(f"t{i}"), gw.LoRA(1), accumulate=acc)
        for i, (count, acc) in enumerate(cases)
    ]
    runner = Runner(net(), tasks, check=False)
    assert runner.run()
    for i, (count, acc) in enumerate(cases):
        tenant = runner.tenants[f"t{i}"]
        assert (tenant.status, tenant.step, tenant.drawn) == ("done", count // acc, count)
        assert seen.get(f"t{i}", []) == [float(y.sum()) for _, y in finite(count)]


def test_data_are_gone_through_again_where_steps_ask_for_more() -> None:
    runner = Runner(net(), [Task("a", finite(3), mse, gw.LoRA(1), steps=7)])
    runner.run()
    assert runner.tenants["a"].step == 7 and runner.tenants["a"].drawn == 7


def test_a_task_that_joins_later_starts_at_its_own_step_0() -> None:
    runner = Runner(net(), [task("lora"), task("dropped")])
    runner.run(rounds=4)
    runner.join(task("dora", accumulate=1, clip=0.3))
    runner.leave("lora", remove=True)
    runner.run(rounds=5)
    for t, steps in ((task("dora", accumulate=1, clip=0.3), 5), (task("dropped"), 4)):
        graft, _ = alone(t, steps)
        assert relative(runner.tenants[t.name].graft.parameters(), graft.parameters()) < 1e-10
    assert set(gw.grafts(runner.model)) == {"dropped", "dora"}


def test_the_plan_is_asked_again_when_somebody_joins_leaves_or_ends() -> None:
    asked: list[list[str]] = []

    def plan(running: list[Any]) -> Groups:
        asked.append([t.name for t in running])
        return Groups((tuple(asked[-1]),))

    runner = Runner(net(), [task("lora"), task("ia3", accumulate=1, steps=2)], plan=plan)
    runner.run(rounds=4)
    runner.join(task("dora"))
    runner.run(rounds=2)
    assert asked == [["lora", "ia3"], ["lora"], ["lora", "dora"]]
    runner.plan = Groups((("lora",), ("lora", "dora")))
    runner.join(task("rslora"))
    with pytest.raises(gw.GraftError, match=r"hold each task once.*\['lora', 'rslora'\]"):
        runner.round()


def test_what_a_method_adds_to_the_loss_trains_its_own_task() -> None:
    transformers_free = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double().train()
    method = gw.MoELoRA(2, experts=3, top_k=2, balance=0.5)
    runner = Runner(transformers_free, [
        Task("moe", batches(2, 1), mse, method, optimizer=adamw, steps=20, seed=4),
        Task("lora", batches(3, 2), mse, gw.LoRA(2), optimizer=adamw, steps=20),
    ])  # fmt: skip
    runner.run()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double().train()
    model.load_state_dict(transformers_free.state_dict())
    graft = gw.graft(model, method, seed=4)
    optimizer = adamw(graft)
    torch.manual_seed(4)
    for x, y in itertools.islice(batches(2, 1)(torch.Generator().manual_seed(4)), 20):
        with gw.extra_loss(model) as extra:
            loss = mse(model(x), y) + extra()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert relative(runner.tenants["moe"].graft.parameters(), graft.parameters()) < 1e-9


def test_a_head_in_the_loss_is_the_tasks_own() -> None:
    """The body stops before the last layer; each task has its own copy of it, or the base's."""

    def body(model: Any, x: Tensor) -> Tensor:
        out: Tensor = torch.tanh(model.mid(model.norm(torch.relu(model.up(x)))))
        return out

    model = net()
    runner = Runner(model, [], body=body)
    for i, also in enumerate((("down",), ())):

        def loss(h: Tensor, target: Tensor) -> Tensor:
            return mse(model.down(h), target)

        runner.join(Task(f"t{i}", batches(2, i), loss, gw.LoRA(2), sites=["up", "mid"],
                         also_train=also, optimizer=adamw, steps=10, seed=i))  # fmt: skip
    runner.run()
    for i, also in enumerate((("down",), ())):
        single = net()
        graft = gw.graft(single, gw.LoRA(2), sites=["up", "mid"], also_train=also, seed=i)
        optimizer = adamw(graft)
        for x, y in itertools.islice(batches(2, i)(torch.Generator().manual_seed(i)), 10):
            mse(single(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert relative(runner.tenants[f"t{i}"].graft.parameters(), graft.parameters()) < 1e-10


def test_batches_that_are_joined_in_another_way() -> None:
    """Packed into one row of tokens, each task's part taken out again."""

    def join(inputs: Mapping[str, Any]) -> Joined:
        sizes = tuple(x.shape[0] * x.shape[1] for x in inputs.values())
        tokens = torch.cat([x.flatten(0, 1) for x in inputs.values()])[None]
        segments = Segments(tuple(inputs), sizes)
        shapes = {n: x.shape[:2] for n, x in inputs.items()}
        return Joined(tokens, segments, lambda h, n: segments.take(h, n).unflatten(0, shapes[n]))

    tasks = [
        Task(f"t{k}", batches(2, k, length=k), mse, m, optimizer=adamw, steps=10, seed=k)
        for k, m in ((2, gw.LoRA(2)), (5, gw.IA3()), (3, gw.LoRA(3)))
    ]
    runner = Runner(net(), tasks, join=join)
    runner.run()
    for t in tasks:
        graft, _ = alone(t, 10)
        assert relative(runner.tenants[t.name].graft.parameters(), graft.parameters()) < 1e-10


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_checkpointed_models_train_as_they_do_without_and_dropout_in_them_is_refused() -> None:
    transformers = pytest.importorskip("transformers")

    def body(model: Any, tokens: Tensor) -> Tensor:
        rows = model.embed_tokens(tokens).requires_grad_()
        out: Tensor = model(inputs_embeds=rows).last_hidden_state
        return out

    def made(checkpointed: bool, dropout: float) -> Runner:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, vocab_size=40, use_cache=False,
        )  # fmt: skip
        model = transformers.LlamaModel(config).double().train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        tasks = []
        for i, method in enumerate((gw.LoRA(2, dropout=dropout), gw.DoRA(2), gw.IA3())):
            ids = torch.randint(40, (2, 5), generator=torch.Generator().manual_seed(i))
            tasks.append(Task(f"t{i}", itertools.repeat((ids, ids)), lambda h, _: h.square().mean(),
                              method, optimizer=adamw, steps=4, seed=i))  # fmt: skip
        return Runner(model, tasks, body=body)

    plain, again = made(False, 0.0), made(True, 0.0)
    plain.run()
    again.run()
    for name, t in plain.tenants.items():
        assert again.tenants[name].step == 4
        assert relative(again.tenants[name].graft.parameters(), t.graft.parameters()) < 1e-10
    dropping = made(True, 0.2)
    with pytest.warns(UserWarning, match="one by one"):
        dropping.run()
    assert "inside a checkpointed module" in dropping.tenants["t0"].failures[0]
    assert [t.step for t in dropping.tenants.values()] == [0, 4, 4]


class Mean(nn.Module):
    """Rows that depend on one another."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_models_whose_rows_depend_on_one_another_are_found_out() -> None:
    model = nn.Sequential(nn.Linear(6, 4), Mean()).double()
    runner = Runner(
        model,
        [Task("a", batches(1, 0), mse, gw.LoRA(1)), Task("b", batches(2, 0), mse, gw.LoRA(1))],
    )
    with pytest.raises(gw.GraftError, match="come out differently beside others'"):
        runner.round()


def test_bad_tasks_are_refused_by_name_before_anything_changes() -> None:
    with pytest.raises(gw.GraftError, match=r"two tasks of one name: \['lora'\]"):
        Runner(net(), [task("lora"), task("lora")])
    runner = Runner(net(), [task("lora")])
    with pytest.raises(gw.GraftError, match="a task 'lora' already"):
        runner.join(task("lora"))
    with pytest.raises(gw.GraftError, match="matches no layer"):
        runner.join(task("ia3", sites=["nothing"]))
    with pytest.raises(gw.GraftError, match=r"LoRA\.rank = 99 is a rank above the layer's own"):
        runner.join(Task("wide", [], mse, gw.LoRA(99), sites=["*"]))
    with pytest.raises(ZeroDivisionError):
        runner.join(task("dora", optimizer=lambda g: 1 / 0))
    assert set(gw.grafts(runner.model)) == {"lora"} and list(runner.tenants) == ["lora"]
    wide = runner.join(Task("wide", batches(1, 0), mse, gw.LoRA(99), sites=["*"], any_rank=True))
    assert all(99 in t.shape for t in wide.graft.tensors().values())
    for word, value in (("accumulate", 0), ("steps", 0), ("clip", -1.0), ("loss", None)):
        with pytest.raises(gw.GraftError, match=f"Task.{word} of 'lora'"):
            task("lora", **{word: value})
    with pytest.raises(gw.GraftError, match=r"Task\.name"):
        Task("", [], mse)
    dropping = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.1)).double()
    with pytest.raises(gw.GraftError, match="1: dropout of the frozen base"):
        Runner(dropping, [task("lora")])
    with pytest.raises(gw.GraftError, match="patience"):
        Runner(net(), patience=0)
    with pytest.raises(gw.GraftError, match="no task 'x'"):
        runner.leave("x")


def test_batches_of_other_kinds_cost_only_their_task_its_place() -> None:
    tasks = [task("lora"), task("ia3", data=[{"x": torch.zeros(1, 6).double()}])]
    runner = Runner(net(), tasks)
    with pytest.warns(UserWarning, match="one by one"):
        runner.run(rounds=2)
    assert "no 'labels'" in runner.tenants["ia3"].failures[0]
    assert runner.tenants["lora"].step == 2


def test_ctrl_c_ends_the_round_first() -> None:
    runner = Runner(net(), [task("lora"), task("dora")])

    def interrupt(r: Runner) -> None:
        if r.rounds == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    assert runner.run(progress=interrupt) is False
    assert runner.rounds == 2 and signal.getsignal(signal.SIGINT) is before
    assert runner.run(rounds=1)
