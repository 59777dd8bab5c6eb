"""Recorded rounds are the plain ones, bit by bit; what cannot be recorded says why. No GPU is needed here."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import graftwork as gw
from graftwork.tenants import Aligner, Joined, Recordings, Runner, Segments, Task
from graftwork.tenants.recorded import RecordedPass
from tests.recording.fake_graphs import Fake
from tests.tenants.tenants_kit import METHODS, Groups, batches, mse, net, state, task


def fail(line: str) -> None:
    raise AssertionError(line)


def recordings(tell: Callable[[str], object] = fail, most: int = 4) -> Recordings:
    return Recordings(most, tell, machine=Fake)


def pair(tasks: Callable[[], list[Task]], **more: Any) -> tuple[Runner, Runner]:
    """The same tasks plain and recorded."""
    given = more.pop("recordings", None) or recordings()
    return Runner(net(), tasks(), **more), Runner(net(), tasks(), record=given, **more)


def same(one: Runner, two: Runner) -> None:
    assert [*one.tenants] == [*two.tenants]
    for name in one.tenants:
        assert state(one, name) == state(two, name), name


def loras() -> list[Task]:
    """Eight tasks of unequal ranks, some with dropout, accumulation and clipping."""
    return [
        Task(
            f"t{i}",
            batches(1 + i % 2, i),
            mse,
            gw.LoRA(1 + i, alpha=3, dropout=0.3 * (i % 3 == 1)),
            accumulate=1 + (i == 3),
            clip=0.5 if i % 2 else None,
            steps=1000,
            seed=i,
        )
        for i in range(8)
    ]


GROUPS = {
    "all together": (tuple(METHODS),),
    "two hybrid tasks": (tuple(METHODS)[::2], tuple(METHODS)[1::2]),
    "each alone": tuple((n,) for n in METHODS),
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_rounds_of_every_method_have_the_bits_of_plain_ones(
    groups: tuple[tuple[str, ...], ...],
) -> None:
    plain, recorded = pair(
        lambda: [task(n) for n in METHODS],
        plan=Groups(groups),
        recordings=recordings(most=len(groups)),
    )
    for runner in (plain, recorded):
        runner.run(rounds=9)
    same(plain, recorded)
    found = recorded.recordings
    assert found is not None and found.recorded == len(groups)
    assert found.replayed == 8 * len(groups) and found.plain.total() == len(groups)


def test_tasks_leave_and_join() -> None:
    plain, recorded = pair(loras)
    for runner in (plain, recorded):
        runner.run(rounds=4)
        runner.leave("t2")
        runner.run(rounds=4)
        runner.leave("t5", remove=True)
        runner.run(rounds=4)
        runner.join(Task("late", batches(2, 9), mse, gw.LoRA(3, dropout=0.5), steps=99, seed=9))
        runner.run(rounds=4)
    same(plain, recorded)
    found = recorded.recordings
    assert found is not None and found.recorded == 4 and found.replayed == 12


def test_a_state_goes_on_in_either_kind_of_round() -> None:
    plain, recorded = pair(loras)
    plain.run(rounds=6)
    recorded.run(rounds=6)
    saved = copy.deepcopy(recorded.state_dict())
    again, _ = pair(loras)
    again.load_state_dict(saved)
    for runner in (plain, recorded, again):
        runner.run(rounds=4)
    same(plain, recorded)
    same(plain, again)


def test_what_fails_in_one_task_changes_no_others_bits() -> None:
    """A NaN in the data, a loss that raises, a NaN in the factors: the others are as without it."""

    def broken(what: str) -> list[Task]:
        out = loras()
        calls = itertools.count()

        def data(generator: torch.Generator) -> Any:
            for i, (x, y) in enumerate(batches(2, 1)(generator)):
                yield (x * torch.nan if what == "data" and i == 5 else x), y

        def loss(output: Tensor, target: Any) -> Tensor:
            if what == "loss" and next(calls) == 5:
                raise ValueError("no")
            return mse(output, target)

        out[1] = Task("t1", data, loss, gw.LoRA(2, dropout=0.3), steps=1000, seed=1)
        return out

    for what in ("data", "loss", "factors"):
        seen = []
        for bad in ("", what):
            runner = Runner(net(), broken(bad), record=recordings())
            runner.run(rounds=5)
            if bad == "factors":
                with torch.no_grad():
                    runner.tenants["t1"].parameters[0].fill_(torch.nan)
            runner.run(rounds=3)
            assert bool(runner.tenants["t1"].failures) is bool(bad), what
            others = [n for n in runner.tenants if n != "t1"]
            seen.append({n: state(runner, n) for n in others})
            assert runner.recordings is not None and runner.recordings.replayed >= 5
        assert seen[0] == seen[1], what


def test_other_shapes_are_recorded_when_they_come_again_and_the_oldest_makes_room() -> None:
    def tasks() -> list[Task]:
        def data(generator: torch.Generator) -> Any:
            for i in itertools.count():
                x = torch.randn(1, (2, 3, 5)[i % 3], 6, generator=generator, dtype=torch.float64)
                yield x, torch.zeros(1, x.shape[1], 4, dtype=torch.float64)

        return [Task(f"t{i}", data, mse, gw.LoRA(2), steps=1000, seed=i) for i in range(2)]

    plain, recorded = pair(tasks)
    for runner in (plain, recorded):
        runner.run(rounds=12)
    same(plain, recorded)
    assert str(recorded.recordings) == (
        "9 passes replayed of 3 recorded; 3 plain: the first pass of its kind"
    )
    told: list[str] = []
    plain, recorded = pair(tasks, recordings=recordings(told.append, most=2))
    for runner in (plain, recorded):
        runner.run(rounds=40)
    same(plain, recorded)
    assert recorded.recordings is not None and len(recorded.recordings._kept) <= 2
    assert len(told) == 1 and "change too often" in told[0]


def test_what_acts_on_the_model_is_noticed() -> None:
    plain, recorded = pair(loras)

    def acts(runner: Runner) -> None:
        runner.run(rounds=4)
        runner.model.eval()  # dropout is off
        runner.run(rounds=3)
        with torch.no_grad():
            runner.model.get_submodule("mid").weight.mul_(1.5)
        runner.run(rounds=3)
        runner.model.train()
        runner.run(rounds=3)

    acts(plain)
    acts(recorded)
    same(plain, recorded)
    assert recorded.recordings is not None and recorded.recordings.recorded == 4


class Waits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(x)
        return y * 2 if float(y.detach().sum()) > 1e9 else y


class Hooked(Waits):
    def __init__(self) -> None:
        super().__init__()
        self.up.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(x)
        return y


@pytest.mark.parametrize(
    ("kind", "word"), [(Waits, "synchronizing"), (Hooked, "hooks")], ids=["waits", "hooked"]
)
def test_what_cannot_be_recorded_runs_as_it_is_and_says_why(
    kind: type[nn.Module], word: str
) -> None:
    ended = []
    told: list[str] = []
    for record in (False, recordings(told.append)):
        torch.manual_seed(0)
        runner = Runner(kind().double(), [task("lora"), task("dropped")], record=record)
        runner.run(rounds=5)
        ended.append([state(runner, n) for n in runner.tenants])
    assert ended[0] == ended[1]
    assert len(told) == 1 and word in told[0]
    assert runner.recordings is not None and runner.recordings.plain.total() == 5


def test_on_a_processor_a_runner_says_once_that_graphs_need_a_gpu() -> None:
    runner = Runner(net(), [task("lora"), task("ia3")], record=True)
    with pytest.warns(UserWarning, match="CUDA graphs need a GPU") as caught:
        runner.run(rounds=4)
    assert len(caught) == 1 and runner.rounds == 4


def test_a_pass_without_memory_ends_recording_and_costs_nobody_a_step() -> None:
    told: list[str] = []
    runner = Runner(net(), loras(), record=recordings(told.append))
    runner.run(rounds=3)
    found = runner.recordings
    assert found is not None and found.bytes == 0
    body, failing = runner.body, [True]

    def short(model: nn.Module, inputs: Any) -> Tensor:
        if failing and failing.pop():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return body(model, inputs)

    runner.body = short
    runner.leave("t7")  # so that the next pass runs as it is
    runner.run(rounds=5)
    assert not failing and all(not t.failures for t in runner.tenants.values())
    assert ["memory" in line for line in told] == [True]
    assert found.replayed == 2 and not found._kept


def test_sequences_of_unequal_length_in_every_layout() -> None:
    transformers = pytest.importorskip("transformers")

    def run(layout: str, record: bool) -> tuple[Any, Any]:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, vocab_size=40, max_position_embeddings=32, use_cache=False,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config).double().train()
        aligner = Aligner(model, layout, 4 if layout == "chunked" else None, least=0, check=False)

        def join(inputs: Any) -> Joined:
            aligned = aligner.align(inputs)
            return Joined(aligned, Segments(aligned.names, aligned.sizes), aligned.own)

        def loss(logits: Tensor, ids: Tensor) -> Tensor:
            return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

        def made(name: str, length: int) -> Task:
            ids = torch.randint(40, (2, length), generator=torch.Generator().manual_seed(length))
            return Task(name, [({"input_ids": ids}, ids)], loss, gw.LoRA(length), steps=99)

        runner = Runner(
            model, [made("a", 3), made("b", 9)], join=join, check=False,
            body=lambda _, aligned: aligner.run(aligned),
            record=recordings(tell=fail if layout != "chunked" else print) if record else False,
        )  # fmt: skip
        runner.run(rounds=5)
        return [state(runner, n) for n in runner.tenants], runner.recordings

    for layout, replayed in (("padded", 4), ("chunked", 0), ("packed", 4)):
        plain, _ = run(layout, False)
        found, kept = run(layout, True)
        assert plain == found, layout
        assert kept.replayed == replayed, (layout, str(kept))
        assert (layout == "chunked") is any("chunked" in why for why in kept.plain)


def test_a_recording_keeps_the_copies_of_factors_that_it_reads() -> None:
    """A pass beside one that still lives takes other memory for them; what a graph reads must not go then."""
    runner = Runner(net(), loras(), record=recordings())
    runner.run(rounds=2)
    found = runner.recordings
    assert found is not None
    (tape,) = found._kept.values()
    _, held = tape._forms

    def filled(held: Any) -> list[Tensor]:
        return [t for stacks in held for new, _ in stacks.values() for t in new]

    living = tape._run()  # holds its token
    there = [t.clone() for t in filled(held)]
    assert len(there) >= 2 * len(runner.tenants)
    with torch.no_grad():
        for t in runner.tenants.values():
            for p in t.parameters:
                p.add_(1)
    tape._run()
    assert living and all(map(torch.equal, filled(held), there))
    now = filled(tape._held())
    assert not any(torch.equal(a, b) for a, b in zip(now, there, strict=True))


class Operations(TorchDispatchMode):
    """Collects the operations on numbers that are no indices, with shapes, strides and dtypes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if any(t.is_floating_point() for t in given):
            self.found.append((func, [(t.dtype, t.shape, t.stride()) for t in given]))
        return func(*args, **(kwargs or {}))


def test_a_recorded_pass_has_the_operations_of_the_plain_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a kernel is chosen by is the same, so a graph holds the plain pass's kernels."""
    transformers = pytest.importorskip("transformers")
    seen: dict[str, list[Any]] = {}

    def body(model: Any, x: Tensor) -> Tensor:
        with Operations() as done:
            out: Tensor = model(inputs_embeds=x).last_hidden_state
        seen["forward"] = done.found
        return out

    def data(i: int) -> Any:
        x = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(i))
        return itertools.repeat((x.bfloat16(), None))

    run = torch.autograd.backward

    def backward(*args: Any, **kwargs: Any) -> None:
        with Operations() as done, torch.autograd.set_multithreading_enabled(False):
            run(*args, **kwargs)
        seen["backward"] = max(seen.get("backward", []), done.found, key=len)

    def found(record: bool) -> dict[str, list[Any]]:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=64, max_position_embeddings=32, use_cache=False,
        )  # fmt: skip
        model = transformers.LlamaModel(config).bfloat16().train()
        tasks = [
            Task(f"t{i}", data(i), lambda h, _: h.float().square().mean(), gw.LoRA(4 + i), steps=9)
            for i in range(3)
        ]
        recorded = recordings()
        runner = Runner(model, tasks, body=body, check=False, record=recorded if record else False)
        runner.run(rounds=1)
        seen.clear()
        with monkeypatch.context() as patched:
            patched.setattr(RecordedPass, "_compare", lambda *_: kept.update(seen))
            kept: dict[str, list[Any]] = {}
            runner.run(rounds=1)
        assert recorded.recorded == record
        return kept if record else dict(seen)

    monkeypatch.setattr(torch.autograd, "backward", backward)
    plain, recorded = found(False), found(True)
    assert len(plain["forward"]) > 100 and len(plain["backward"]) > 100
    assert plain["forward"] == recorded["forward"]
    assert plain["backward"] == recorded["backward"]
