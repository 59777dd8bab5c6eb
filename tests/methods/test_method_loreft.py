"""LoReFT's numbered invariants."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_checks import D, blocks, check_lengths, check_places, check_tied, h_of, moved
from method_by_hand_edits import gram_schmidt
from method_invariants import invariant
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graftwork as gw
from graftwork.starts.orthonormal import exact_rows, hadamard_rows, orthonormal

R = 3


def phi(t: dict[str, Tensor], h: Tensor) -> Tensor:
    """The paper's function by hand."""
    r = gram_schmidt(t["R"])
    return h + (h @ t["W"].T + t["b"] - h @ r.T) @ r


def ends(**fields: Any) -> gw.LoReFT:
    return gw.LoReFT(R, **fields)


@invariant("loreft", 1)
@pytest.mark.parametrize(("optimizer", "lr"), [(torch.optim.AdamW, 0.3), (torch.optim.SGD, 0.02)])
def test_rows_stay_orthonormal(optimizer: Any, lr: float) -> None:
    model, x = blocks(dtype=torch.float32), h_of(dtype=torch.float32)
    g = gw.graft(model, gw.LoReFT(R, first=2, last=1), seed=0)
    steps = optimizer(g.parameters(), lr=lr)
    for _ in range(20):
        steps.zero_grad()
        (model(x) - 1).square().sum().backward()
        steps.step()
    for name, t in g.tensors().items():
        if name.endswith("R"):
            r = orthonormal(t)
            assert r.dtype == torch.float32
            assert float((t @ t.T - torch.eye(R)).abs().max()) > 1e-3  # it did move
            assert float((r @ r.T - torch.eye(R)).abs().max()) < 1e-5


@invariant("loreft", 2)
@pytest.mark.parametrize("d", [1, 2, 3, 5, 16, 30, 64, 192, 768])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_exact_start_is_orthonormal_without_rounding(d: int, dtype: torch.dtype) -> None:
    r = exact_rows(min(d, 5), torch.zeros((), dtype=dtype), d)
    assert r.dtype == dtype and torch.equal(orthonormal(r), r)
    wide = r.double()
    assert torch.equal(wide @ wide.T, torch.eye(len(r), dtype=torch.float64))
    full = hadamard_rows(torch.arange(d), d)
    assert torch.equal(full @ full.T, torch.eye(d))


@invariant("loreft", 2)
@pytest.mark.parametrize("where", ["ends", "prompt", "all"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_start_is_the_base_and_stays_so_after_casts(
    where: str, tied: bool, dtype: torch.dtype
) -> None:
    base, x = blocks(dtype=dtype), h_of(dtype=dtype)
    model = copy.deepcopy(base)
    gw.graft(model, gw.LoReFT(R, where=where, tied=tied or where != "ends", dropout=0.2))
    assert torch.equal(model(x), base(x))
    assert torch.equal(model.half()(x.half()), base.half()(x.half()))


@invariant("loreft", 2)
def test_the_start_of_the_paper() -> None:
    layer = nn.Sequential(nn.Sequential(nn.Linear(64, 64)))
    method = gw.LoReFT(4, where="all", start_at="paper")
    t = gw.graft(layer, method, sites=["0"], seed=0).tensors()
    assert not method.starts_at_base and gw.LoReFT().starts_at_base
    r = t["0.R"]
    torch.testing.assert_close(r @ r.T, torch.eye(4), rtol=0, atol=1e-6)
    for name in ("W", "b"):
        assert float(t[f"0.{name}"].abs().max()) <= 1 / 8 and bool((t[f"0.{name}"] < 0).any())
    assert float(t["0.W"].std()) == pytest.approx(1 / 8 / math.sqrt(3), rel=0.1)
    h = torch.randn(2000, 64)
    with torch.no_grad():
        change = method.edit({k: t[f"0.{k}"] for k in "RWb"}, h)
    # it takes out R h, of 4 / 64 of the energy, and adds W h + b, of a third of that
    size = float(change.norm() / h.norm())
    assert size == pytest.approx(math.sqrt(4 * 4 / (3 * 64)), rel=0.15)


@invariant("loreft", 3, 7)
def test_the_edit_is_that_of_the_equation() -> None:
    base, x = blocks(1), h_of()
    model = copy.deepcopy(base)
    g = gw.graft(model, gw.LoReFT(R, where="all"))
    t = moved(g)
    h, y = base(x), model(x)
    r, w, b = gram_schmidt(t["layers.0.R"]), t["layers.0.W"], t["layers.0.b"]
    torch.testing.assert_close(y @ r.T, h @ w.T + b, rtol=0, atol=1e-12)
    change = y - h
    torch.testing.assert_close(change - change @ r.T @ r, torch.zeros_like(h), rtol=0, atol=1e-12)
    m, c = torch.eye(D, dtype=torch.float64) + r.T @ (w - r), r.T @ b
    torch.testing.assert_close(y, h @ m.T + c, rtol=0, atol=1e-12)
    with pytest.raises(gw.GraftError, match=r"loreft edits hidden states.*residual stream"):
        g.merge()
    assert torch.equal(model(x), y)


@invariant("loreft", 11)
def test_without_the_constraint_it_is_noreft() -> None:
    base, x = blocks(1), h_of()
    model = copy.deepcopy(base)
    g = gw.graft(model, gw.LoReFT(R, where="all", orthonormal=False), seed=0)
    assert torch.equal(model(x), base(x))
    bound = gw.graft(copy.deepcopy(base), gw.LoReFT(R, where="all"), seed=0).tensors()
    assert all(torch.equal(t, bound[n]) for n, t in g.tensors().items())
    t = moved(g)
    h, (r, w, b) = base(x), (t[f"layers.0.{n}"] for n in "RWb")
    assert float((r @ r.T - torch.eye(R)).abs().max()) > 0.1
    torch.testing.assert_close(model(x), h + (h @ w.T + b - h @ r.T) @ r, rtol=0, atol=1e-12)
    paper = gw.LoReFT(4, where="all", start_at="paper", orthonormal=False)
    start = gw.graft(nn.Sequential(nn.Sequential(nn.Linear(9, 64))), paper, sites=["0"]).tensors()[
        "0.R"
    ]
    assert 0.11 < float(start.abs().max()) <= 1 / 8 and float(start.std()) < 0.08


@invariant("loreft", 4)
def test_full_rank_is_any_affine_map_and_other_ranks_are_refused() -> None:
    base, x = blocks(1), h_of()
    model = copy.deepcopy(base)
    t = moved(gw.graft(model, gw.LoReFT(D, where="all")))
    r, w, b = gram_schmidt(t["layers.0.R"]), t["layers.0.W"], t["layers.0.b"]
    torch.testing.assert_close(model(x), (base(x) @ w.T + b) @ r, rtol=0, atol=1e-11)
    with pytest.raises(gw.GraftError, match=r"LoReFT\.rank must lie in \[1"):
        gw.LoReFT(0)
    fresh = blocks(1)
    with pytest.raises(gw.GraftError, match=r"LoReFT\.rank = 13 is above the width.*12"):
        gw.graft(fresh, gw.LoReFT(D + 1, where="all"), sites=["layers.0"])
    assert not gw.grafts(fresh)


@invariant("loreft", 5)
def test_without_w_the_edit_is_idempotent() -> None:
    method = gw.LoReFT(R)
    h, p = h_of(), {"R": torch.randn(R, D).double(), "W": torch.zeros(R, D).double()}
    p["b"] = torch.randn(R).double()
    once = h + method.edit(p, h)
    torch.testing.assert_close(once + method.edit(p, once), once, rtol=0, atol=1e-12)
    r = gram_schmidt(p["R"])
    torch.testing.assert_close(once, h + (p["b"] - h @ r.T) @ r, rtol=0, atol=1e-12)


@invariant("loreft", 6)
def test_the_edited_positions_are_those_of_the_paper() -> None:
    check_places(ends)
    check_lengths(ends)
    check_tied(ends, phi)


@invariant("loreft", 6)
def test_blocks_below_the_edited_one_keep_their_bits() -> None:
    model, base, x = blocks(3), blocks(3), h_of()
    moved(gw.graft(model, gw.LoReFT(R, first=2, last=0), sites=["layers.1"]))
    seen: dict[str, list[Tensor]] = {"grafted": [], "base": []}
    for name, m in (("grafted", model), ("base", base)):
        for layer in m.layers:
            layer.register_forward_hook(lambda _m, _i, out, name=name: seen[name].append(out))
        m(x)
    below, at, above = zip(seen["grafted"], seen["base"], strict=True)
    assert torch.equal(*below)
    assert torch.equal(at[0][:, 2:], at[1][:, 2:]) and not torch.equal(at[0][:, :2], at[1][:, :2])
    assert not torch.equal(above[0][:, 2:], above[1][:, 2:])  # later blocks see the edit


@invariant("loreft", 8)
def test_parameters_and_gradients() -> None:
    for tied, factor in ((True, 1), (False, 2)):
        model, x = blocks(), h_of()
        g = gw.graft(model, gw.LoReFT(R, tied=tied))
        assert sum(p.numel() for p in g.parameters()) == 2 * factor * (2 * R * D + R)
        moved(g)
        model(x).square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in g.parameters())
        own = {id(p) for p in g.parameters()}
        assert all(p.grad is None for p in model.parameters() if id(p) not in own)


@invariant("loreft", 9)
@pytest.mark.parametrize("tied", [True, False])
def test_a_reload_gives_the_same_bits(tied: bool, tmp_path: Path) -> None:
    model, x = blocks(), h_of()
    g = gw.graft(model, gw.LoReFT(R, tied=tied, first=1, last=2, short="shrink"))
    t = moved(g)
    assert {n.rsplit(".", 1)[1] for n in t} == {"R", "W", "b"}
    gw.save(g, tmp_path / "edits")
    fresh = blocks()
    again = gw.load(fresh, tmp_path / "edits")
    assert torch.equal(fresh(x), model(x)) and again.method == g.method
    with pytest.raises(gw.GraftError, match="small difference"):
        gw.save(g, tmp_path / "half", dtype="bfloat16")
    with pytest.raises(gw.GraftError, match="does not fit"):
        gw.load(nn.Sequential(nn.Linear(D, D)), tmp_path / "edits")


# -- generation ---------------------------------------------------------------------------------------


def llama(vocab: int = 40) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocab, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval().double()
    return model


def ids(rows: int = 2, length: int = 6) -> Tensor:
    return torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(1))


def scores(model: Any, tokens: Tensor, **how: Any) -> Tensor:
    how = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False} | how
    out = model.generate(tokens, output_scores=True, return_dict_in_generate=True, **how)
    return torch.stack(out.scores).nan_to_num(neginf=-1e3)


@invariant("loreft", 10)
@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("where", ["ends", "prompt"])
def test_generated_tokens_are_not_edited(where: str) -> None:
    model, tokens = llama(), ids()
    g = gw.graft(model, gw.LoReFT(R, first=2, last=3, where=where))
    mask = torch.ones_like(tokens)
    plain = scores(model, tokens, attention_mask=mask)
    moved(g)
    cached = scores(model, tokens, attention_mask=mask)
    assert float((cached - plain).abs().max()) > 1e-3
    with gw.prompt(model, end=tokens.shape[1]):
        told = scores(model, tokens, attention_mask=mask)
        uncached = scores(model, tokens, attention_mask=mask, use_cache=False)
    torch.testing.assert_close(told, cached, rtol=0, atol=0)
    torch.testing.assert_close(uncached, cached, rtol=0, atol=1e-10)
    with g.off():
        assert torch.equal(scores(model, tokens, attention_mask=mask), plain)


@invariant("loreft", 10)
@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"use_cache": False}])
def test_padding_moves_the_positions_with_the_prompt(how: dict[str, Any]) -> None:
    model, tokens = llama(), ids()
    moved(gw.graft(model, gw.LoReFT(R, first=1, last=2)))
    short = tokens[1:, :4]
    padded = tokens.clone()
    padded[1, :2], padded[1, 2:] = 0, short
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    how = how | {"max_new_tokens": 3, "min_new_tokens": 3}
    rows = how.get("num_beams", 1)
    with gw.prompt(model, start=[0, 2], end=6):
        both = scores(model, padded, attention_mask=mask, **how)
    for row, alone in enumerate((tokens[:1], short)):
        with gw.prompt(model, end=alone.shape[1]):
            one = scores(model, alone, attention_mask=torch.ones_like(alone), **how)
        torch.testing.assert_close(both[:, row * rows : (row + 1) * rows], one, rtol=0, atol=1e-10)


@invariant("loreft", 10)
def test_an_answer_behind_the_prompt_is_not_edited_in_training() -> None:
    model, base, x = blocks(1), blocks(1), h_of(3, 9)
    t = moved(gw.graft(model, gw.LoReFT(R, first=1, last=2, short="shrink")), 0.3)
    t = {k.removeprefix("layers.0."): v for k, v in t.items()}
    with gw.prompt(model, start=torch.tensor([0, 2, 3]), end=torch.tensor([9, 7, 5])):
        y = model(x)
    want = base(x)
    for row, places in enumerate(([0, 7, 8], [2, 5, 6], [3, 4])):
        want[row, places] = phi(t, want[row, places])
    torch.testing.assert_close(y, want, rtol=0, atol=1e-12)


# -- refusals and settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"first": 0, "last": 0}, r"LoReFT\.first and last are both 0"),
        ({"tied": False, "last": 0}, r"LoReFT\.tied: False needs"),
        ({"tied": False, "where": "all"}, r"LoReFT\.tied: False needs"),
        ({"first": -1}, r"LoReFT\.first must lie in"),
        ({"where": "middle"}, r"LoReFT\.where must be one of"),
        ({"dropout": 1.0}, r"LoReFT\.dropout must lie in"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(gw.GraftError, match=words):
        gw.LoReFT(**fields)


def test_where_the_prompt_cannot_be_told_is_refused() -> None:
    with pytest.raises(gw.GraftError, match="single layer is not told where the prompt ends"):
        gw.graft(nn.Linear(D, D), gw.LoReFT(R), sites=["*"])
    torch_layer = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(D, 2, 8, dropout=0.0), 1, enable_nested_tensor=False
    )
    with pytest.raises(gw.GraftError, match="batch_first=True"):
        gw.graft(torch_layer, gw.LoReFT(R), sites=["layers.0"])
    model = blocks(1)
    gw.graft(model, gw.LoReFT(R))
    with pytest.raises(gw.GraftError, match=r"\(2, 3, 9, 12\) is not \(rows, positions, features"):
        model(torch.randn(2, 3, 9, D, dtype=torch.float64))


def test_a_block_of_another_width_than_its_last_layer_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.ModuleList([nn.Sequential(nn.Linear(D, D), nn.Flatten(1))])

        def forward(self, x: Tensor) -> Tensor:
            return self.layer[0](x)

    model = Odd()
    gw.graft(model, gw.LoReFT(R, where="all"), sites=["layer.0"])
    with pytest.raises(gw.GraftError, match=r"returns \(2, 108\), not vectors of 12"):
        model(h_of(dtype=torch.float32))


def test_dropout_acts_on_the_edit_in_training_only() -> None:
    model, x = blocks(1), h_of(50, 9)
    g = gw.graft(model, gw.LoReFT(R, where="all", dropout=0.4))
    moved(g)
    y = model.eval()(x)
    assert torch.equal(y, model(x))
    with g.off():
        h = model(x)
    dropped = model.train()(x)
    gone = dropped == h
    assert float(gone.double().mean()) == pytest.approx(0.4, abs=0.02)
    torch.testing.assert_close(dropped[~gone], (h + (y - h) / 0.6)[~gone], rtol=0, atol=1e-12)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_with_dropout_and_a_prompt_gives_the_same_gradients(reentrant: bool) -> None:
    model, x = blocks(), h_of()
    g = gw.graft(model, gw.LoReFT(R, first=1, last=1, dropout=0.3))
    moved(g)
    grads = []
    for again in (False, True):
        model.zero_grad()
        torch.manual_seed(4)
        z = x.clone().requires_grad_()
        with gw.prompt(model, start=[0, 3], end=[9, 7]):
            args = (z,) if not again else (model, z)
            run = model if not again else partial(checkpoint, use_reentrant=reentrant)
            run(*args).square().sum().backward()
        grads.append([p.grad.clone() for p in g.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("tied", [True, False])
def test_positions_compile_to_one_graph(tied: bool) -> None:
    torch._dynamo.reset()
    model, x = blocks(), h_of()
    moved(gw.graft(model, gw.LoReFT(R, first=1, last=2, tied=tied)))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


def test_several_edits_of_one_block_add_up() -> None:
    model, base, x = blocks(1), blocks(1), h_of()
    t = {
        name: {
            k.removeprefix("layers.0."): v
            for k, v in moved(gw.graft(model, method, name=name), size).items()
        }
        for name, method, size in (
            ("a", gw.LoReFT(R, first=2, last=0), 0.2),
            ("b", gw.LoReFT(R, first=1, last=1), 0.4),
        )
    }
    gw.activate(model, {"a": 0.5, "b": 2.0})
    h = base(x)
    want = h.clone()
    want[:, :2] += 0.5 * (phi(t["a"], h) - h)[:, :2]
    want[:, [0, 8]] += 2.0 * (phi(t["b"], h) - h)[:, [0, 8]]
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-12)
    gw.activate(model, None)
    assert torch.equal(model(x), h)
