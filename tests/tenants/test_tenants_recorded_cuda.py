"""On a GPU: recorded rounds have the bits of plain ones, whoever leaves, joins or fails, and the card stays usable."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import graftwork as gw
from graftwork.tenants import Recordings, Runner, Task
from tests.tenants.tenants_kit import Groups, state

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

WIDTH, LENGTH = 64, 16
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


class Block(nn.Module):
    """Attention in plain products and an MLP; rows are sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=i > 1) for i in range(4))
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        seen = (self.q(h) @ self.k(h).mT * WIDTH**-0.5).softmax(-1)
        h = x + self.o(seen @ self.v(h))
        out: Tensor = h + self.down(nn.functional.gelu(self.up(self.norm(h))))
        return out


class Waits(Block):
    """Looks at what it computed."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * 2 if float(y.detach().sum()) > 1e9 else y


def data(dtype: torch.dtype, rows: int, spoil: int | None = None) -> Callable[[Any], Any]:
    """Endless batches on the card; the one of number `spoil` is not finite."""

    def make(generator: torch.Generator) -> Iterator[Any]:
        for i in itertools.count():
            x = torch.randn(rows, LENGTH, WIDTH, generator=generator)
            if i == spoil:
                x[0, 0, 0] = torch.nan
            yield x.to("cuda", dtype), torch.sin(3 * x).to("cuda", dtype)

    return make


def loss(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.mse_loss(output.float(), target.float())


def task(i: int, dtype: torch.dtype, method: Any = None, spoil: int | None = None) -> Task:
    """Ranks 1 to 8, every third one with dropout, every second one clipped, one over two batches."""
    return Task(
        f"t{i}",
        data(dtype, 1 + i % 2, spoil),
        loss,
        method or gw.LoRA(1 + i, alpha=3, dropout=0.3 * (i % 3 == 1)),
        optimizer=lambda graft: torch.optim.AdamW(graft.parameters(), lr=1e-2, fused=i % 2 == 0),
        accumulate=1 + (i == 3),
        clip=0.1 if i % 2 else None,
        steps=1000,
        seed=i,
    )


def made(tasks: list[Task], dtype: torch.dtype, record: bool | Recordings, **more: Any) -> Runner:
    torch.manual_seed(0)
    model = nn.Sequential(*(more.pop("kind", Block)() for _ in range(2))).to("cuda", dtype).train()
    return Runner(model, tasks, record=record, **more)


def fail(line: str) -> None:
    raise AssertionError(line)


def same(one: Runner, two: Runner) -> None:
    assert [*one.tenants] == [*two.tenants]
    for name, t in one.tenants.items():
        other = two.tenants[name]
        assert t.step and not t.failures and not other.failures, (t.failures, other.failures)
        far = max(
            float((a - b).detach().abs().max())
            for a, b in zip(t.parameters, other.parameters, strict=True)
        )
        assert far == 0, f"{name}: weights apart by {far:.1e}"
        assert t.curve == other.curve, name
        assert state(one, name) == state(two, name), name


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_eight_tasks_of_unequal_ranks_and_one_that_leaves(dtype: torch.dtype) -> None:
    plain, recorded = (
        made([task(i, dtype) for i in range(8)], dtype, record)
        for record in (False, Recordings(tell=fail))
    )
    for runner in (plain, recorded):
        runner.run(rounds=6)
        runner.leave("t5")
        runner.run(rounds=4)
        runner.leave("t2", remove=True)
        runner.join(task(9, dtype))
        runner.run(rounds=5)
    same(plain, recorded)
    found = recorded.recordings
    assert found is not None and found.recorded == 3 and found.replayed == 12, str(found)
    assert found.bytes > 0
    print(f"  {found}; {found.bytes / 2**20:.0f} MiB")


def test_methods_of_every_kind() -> None:
    methods = {
        0: gw.LoRA(4),
        1: gw.DoRA(2, dropout=0.1),
        2: gw.IA3(),
        4: gw.DiaBlo(4, dropout=0.2),
        5: gw.LoRA(3, dropout=0.3),
        6: gw.NormAffine(),
        7: gw.BitFit(new_biases=True),
    }
    for dtype in (torch.float32, torch.bfloat16):
        plain, recorded = (
            made([task(i, dtype, m) for i, m in methods.items()], dtype, record)
            for record in (False, Recordings(tell=fail))
        )
        for runner in (plain, recorded):
            runner.run(rounds=8)
        same(plain, recorded)
        assert recorded.recordings is not None and recorded.recordings.replayed == 7


def test_recordings_in_one_pool_hold_in_any_order() -> None:
    names = [f"t{i}" for i in range(8)]
    groups = (tuple(names[:3]), tuple(names[3:]))
    plain, recorded = (
        made(
            [task(i, torch.float32) for i in range(8)],
            torch.float32,
            record,
            plan=Groups(groups),
        )
        for record in (False, Recordings(tell=fail))
    )
    for runner in (plain, recorded):
        runner.run(rounds=4)
        runner.plan, runner._planned = Groups(groups[::-1]), None
        runner.run(rounds=4)
        runner.plan, runner._planned = Groups((*groups[1:], *((n,) for n in groups[0]))), None
        runner.run(rounds=4)
        runner.plan, runner._planned = Groups(groups), None
        runner.run(rounds=4)
    same(plain, recorded)
    found = recorded.recordings
    assert found is not None and found.recorded >= 5, str(found)


def test_what_is_not_finite_changes_no_others_bits() -> None:
    seen = []
    for spoil in (None, 4):
        tasks = [task(i, torch.float32, spoil=spoil if i == 1 else None) for i in range(4)]
        runner = made(tasks, torch.float32, Recordings(tell=fail))
        runner.run(rounds=8)
        assert bool(runner.tenants["t1"].failures) is (spoil is not None)
        assert runner.recordings is not None and runner.recordings.replayed == 7
        seen.append({n: state(runner, n) for n in runner.tenants if n != "t1"})
    assert seen[0] == seen[1]


def test_what_cannot_be_recorded_leaves_the_card_usable() -> None:
    told: list[str] = []
    ended = []
    for record in (False, Recordings(tell=told.append)):
        runner = made([task(i, torch.float32) for i in range(3)], torch.float32, record, kind=Waits)
        runner.run(rounds=4)
        ended.append([state(runner, n) for n in runner.tenants])
    assert ended[0] == ended[1]
    assert len(told) == 1 and "synchroniz" in told[0], told
    test_eight_tasks_of_unequal_ranks_and_one_that_leaves(torch.float32)


@pytest.mark.parametrize("kernel", ["MATH", "FLASH_ATTENTION"])
def test_a_language_model_in_half_precision(kernel: str) -> None:
    """Under attention kernels that add in a fixed order; the one that torch chooses may add in none."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, max_position_embeddings=128, use_cache=False,
        attn_implementation="sdpa",
    )  # fmt: skip

    def run(record: bool | Recordings) -> Runner:
        torch.manual_seed(0)
        model = transformers.LlamaModel(config).to("cuda", torch.bfloat16).train()

        def body(model: Any, x: Tensor) -> Tensor:
            out: Tensor = model(inputs_embeds=x).last_hidden_state
            return out

        def batch(seed: int) -> Any:
            x = torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(seed))
            return itertools.repeat((x.to("cuda", torch.bfloat16), None))

        tasks = [
            Task(
                f"t{i}",
                batch(i),
                lambda h, _: h.float().square().mean(),
                gw.LoRA(4 + 4 * (i % 2), dropout=0.1 * (i % 2)),
                steps=99,
            )
            for i in range(4)
        ]
        runner = Runner(model, tasks, body=body, record=record)
        with sdpa_kernel(getattr(SDPBackend, kernel)):
            runner.run(rounds=8)
        return runner

    plain, again, recorded = run(False), run(False), run(Recordings(tell=fail))
    assert recorded.recordings is not None and recorded.recordings.replayed == 7
    same(plain, again)
    same(plain, recorded)


def test_a_language_model_under_the_attention_that_torch_chooses() -> None:
    """Two plain passes may differ here; a recording is made all the same, and replayed."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=1024, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=16,
        num_key_value_heads=4, vocab_size=64, max_position_embeddings=512, use_cache=False,
        attn_implementation="sdpa",
    )  # fmt: skip
    model = transformers.LlamaModel(config).to("cuda", torch.bfloat16).train()
    x = [torch.randn(1, 512, 1024, device="cuda", dtype=torch.bfloat16) for _ in range(8)]
    tasks = [
        Task(
            f"t{i}",
            itertools.repeat((x[i], None)),
            lambda h, _: h.float().square().mean(),
            gw.LoRA(16),
            steps=99,
        )
        for i in range(8)
    ]

    def body(model: Any, x: Tensor) -> Tensor:
        out: Tensor = model(inputs_embeds=x).last_hidden_state
        return out

    runner = Runner(model, tasks, body=body, record=Recordings(tell=fail))
    runner.run(rounds=8)
    assert all(not t.failures for t in runner.tenants.values())
    assert runner.recordings is not None and runner.recordings.replayed == 7
