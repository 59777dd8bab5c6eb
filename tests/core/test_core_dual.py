"""The dual graft: a shared and a private low-rank pair, and that the private one stays private."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

import graftwork as gw
from tests.core.core_helpers import base_bits, bits, close, net, picture, stir, tokens

SITES = ["stem.0", "layer1.0", "layer1.2"]


def wide() -> nn.Module:
    return net(dtype=torch.float64)


def stirred(**options: Any) -> tuple[nn.Module, gw.Dual]:
    model = wide()
    shared = options.pop("shared", gw.LoRA(3, alpha=6.0))
    private = options.pop("private", gw.LoRA(2, alpha=1.0))
    pair = gw.dual(model, shared, private, sites=SITES, seed=0, **options)
    stir(pair.shared, seed=1)
    if pair.private is not None:
        stir(pair.private, seed=2)
    return model, pair


def by_hand(pair: gw.Dual, private: bool = True) -> nn.Module:
    """W0 + s_g B_g A_g (+ s_l B_l A_l), each written into a fresh base."""
    model = wide()
    for part in (pair.shared, pair.private) if private else (pair.shared,):
        assert part is not None
        t, method = part.tensors(), part.method
        for site in SITES:
            a, b = t[f"{site}.A"], t[f"{site}.B"]
            weight = model.get_submodule(site).weight
            change = torch.einsum("or,ri->oi", b.flatten(1), a.flatten(1)).reshape(weight.shape)
            with torch.no_grad():
                weight.add_(method.alpha / method.rank * change)
    return model


def test_the_start_is_the_base_bit_for_bit_and_removal_gives_it_back() -> None:
    model = wide()
    base, before = model(tokens()), picture(model)
    pair = gw.dual(model, gw.LoRA(3), gw.LoRA(2), sites=SITES, seed=0)
    assert torch.equal(model(tokens()), base)
    assert gw.active(model) == {"shared": 1.0, "private": 1.0}
    gw.check_reach(model, tokens())
    stir(pair.shared), stir(pair.private)
    with pair.shared.off():
        assert torch.equal(model(tokens()), base)
    pair.private.remove(), pair.shared.remove()
    assert picture(model) == before


def test_the_output_is_the_sum_of_both_branches_and_either_can_be_merged() -> None:
    model, pair = stirred()
    both = model(tokens())
    close(both, by_hand(pair)(tokens()), 1e-10)
    pair.activate(private=False)
    shared = model(tokens())
    close(shared, by_hand(pair, private=False)(tokens()), 1e-10)
    assert float((shared - both).detach().abs().max()) > 1e-3
    pair.activate()
    before = base_bits(model)
    pair.merge()
    close(model(tokens()), both, 1e-10)
    pair.unmerge()
    assert base_bits(model) == before and torch.equal(model(tokens()), both)
    pair.merge(private=False)  # the private part is out: what a new site gets
    close(model(tokens()), shared, 1e-10)
    pair.unmerge()
    assert torch.equal(model(tokens()), both)


def test_one_client_is_a_lora_of_both_ranks_together() -> None:
    _, pair = stirred(shared=gw.LoRA(3), private=gw.LoRA(2))
    g, l = pair.shared.tensors(), pair.private.tensors()
    wider = {
        k: torch.cat([g[k], l[k]], dim=0 if k.endswith("A") else 1) for k in g
    }  # [A_g; A_l] and [B_g, B_l]
    model = wide()
    gw.graft(model, gw.LoRA(5), sites=SITES).load_tensors(wider)
    close(pair.model(tokens()), model(tokens()), 1e-10)


def test_no_private_pair_is_plain_lora_step_for_step() -> None:
    plain, dual = wide(), wide()
    pair = gw.dual(dual, gw.LoRA(3), None, sites=SITES, seed=5)
    graft = gw.graft(plain, gw.LoRA(3), sites=SITES, seed=5)
    assert pair.private is None and pair.groups(0.1)[0]["name"] == "shared"
    for model, params in ((plain, graft.parameters()), (dual, pair.parameters())):
        optimizer = torch.optim.AdamW(params, lr=0.05)
        for _ in range(4):
            optimizer.zero_grad()
            model(tokens()).square().mean().backward()
            optimizer.step()
    a, b = graft.tensors(), pair.shared.tensors()
    assert a.keys() == b.keys() and all(bits(a[k]) == bits(b[k]) for k in a)
    assert torch.equal(plain(tokens()), dual(tokens()))
    with pytest.raises(gw.GraftError, match="no private branch"):
        pair.cosines()


def test_gradients_at_the_start_are_those_of_the_equation() -> None:
    layer = nn.Linear(6, 5).double()
    pair = gw.dual(layer, gw.LoRA(3, alpha=6.0), gw.LoRA(2, alpha=1.0), seed=0)
    x, out = torch.randn(7, 6, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    loss = (layer(x) * out).sum()  # dL/dy = out, so G x^T of the note is out^T x
    loss.backward()
    for part, scale in ((pair.shared, 2.0), (pair.private, 0.5)):
        p = dict(part.named_parameters())
        assert p["A"].grad.abs().max() == 0
        close(p["B"].grad, scale * out.T @ x @ p["A"].T, 1e-10)


@given(shared=st.integers(1, 5), private=st.integers(1, 5))
@settings(max_examples=15)
def test_counts(shared: int, private: int) -> None:
    model = wide()
    pair = gw.dual(model, gw.LoRA(shared), gw.LoRA(private), sites=SITES, also_train="head")
    channels = [(3 * 6, 8), (8, 8), (8, 8)]  # (d_in, d_out); the convolution's kernel is 3
    head = 8 * 3 + 3
    exchanged = sum(t.numel() for t in pair.shared.tensors().values())
    assert exchanged == sum(shared * (d + k) for d, k in channels) + head
    trained = sum(p.numel() for p in pair.parameters())
    assert trained - exchanged == sum(private * (d + k) for d, k in channels)


@given(st.integers(0, 2**40))
@settings(max_examples=15)
def test_branches_of_one_rank_do_not_start_alike_and_a_seed_repeats_both(seed: int) -> None:
    made = [gw.dual(wide(), gw.LoRA(3), gw.LoRA(3), sites=SITES, seed=seed) for _ in range(2)]
    for site in SITES:
        a, b = (p.tensors()[f"{site}.A"] for p in (made[0].shared, made[0].private))
        alike = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0)
        assert abs(float(alike)) < 0.9 and not torch.equal(a, b)
    for part in ("shared", "private"):
        first, again = (getattr(p, part).tensors() for p in made)
        assert all(torch.equal(first[k], again[k]) for k in first)


def test_clients_share_one_start_and_have_each_their_own() -> None:
    pairs = [
        gw.dual(wide(), gw.LoRA(3), gw.LoRA(3), sites=SITES, seed=0, private_seed=client)
        for client in (None, 0, 1, 2)
    ]
    for site in SITES:
        shared = [p.shared.tensors()[f"{site}.A"] for p in pairs]
        private = [p.private.tensors()[f"{site}.A"] for p in pairs]
        assert all(torch.equal(a, shared[0]) for a in shared)
        assert torch.equal(private[0], private[1])  # a client without a seed takes the common one
        assert len({bits(a) for a in private}) == 3
        assert not {bits(a) for a in private} & {bits(a) for a in shared}


def test_the_private_part_never_appears_in_what_is_shared(tmp_path: Path) -> None:
    model, pair = stirred(also_train="head", private_also_train="norm", names=("shared", "secret"))
    folder = gw.save(gw.get(model, "shared"), tmp_path / "out")
    files = {f.name: f.read_bytes() for f in folder.iterdir()}
    assert set(files) == {"graft.json", "adapter.safetensors"}
    stored = load_file(folder / "adapter.safetensors")
    mine = {bits(t) for t in pair.private.tensors().values() if t.numel() > 3}
    assert stored.keys() == pair.shared.tensors().keys()
    assert not {bits(t) for t in stored.values()} & mine
    for name, content in files.items():
        assert b"secret" not in content, name
        assert not any(m in content for m in mine), name
    passport = json.loads(files["graft.json"])
    assert passport["trainable"]["parameters"] == sum(t.numel() for t in stored.values())


def test_raising_the_private_rank_leaves_what_is_exchanged_unchanged(tmp_path: Path) -> None:
    sizes = set()
    for rank in (1, 4):
        _, pair = stirred(private=gw.LoRA(rank))
        folder = gw.save(pair.shared, tmp_path / str(rank))
        sizes.add((folder / "adapter.safetensors").stat().st_size)
    assert len(sizes) == 1


@pytest.mark.parametrize("train_shared", [False, True])
def test_from_a_loaded_shared_graft(tmp_path: Path, train_shared: bool) -> None:
    _, first = stirred(also_train="head")
    gw.save(first.shared, tmp_path / "round-3")
    model = wide()
    loaded = gw.load(model, tmp_path / "round-3")
    out = model(tokens())
    pair = gw.dual(model, "shared", gw.LoRA(2), train_shared=train_shared, seed=4)
    close(model(tokens()), out, 1e-12)  # the private pair starts at zero
    assert {k.split("/")[0] for k, _ in pair.named_parameters()} == (
        {"shared", "private"} if train_shared else {"private"}
    )
    assert [g["name"] for g in pair.groups(0.1)] == ["shared"] * train_shared + ["private"]
    before = {k: t.clone() for k, t in loaded.tensors().items()}
    optimizer = torch.optim.SGD(pair.groups(0.1, private_lr=0.2), lr=1.0)
    for _ in range(2):
        model(tokens()).square().mean().backward()
        optimizer.step()
    moved = {k for k, t in loaded.tensors().items() if not torch.equal(t, before[k])}
    assert bool(moved) == train_shared
    assert any(float(t.abs().max()) > 0 for k, t in pair.private.tensors().items() if "B" in k)


def test_loading_a_shared_record_leaves_the_private_pair_as_it_is() -> None:
    _, other = stirred()
    _, pair = stirred()
    before = {k: bits(t) for k, t in pair.private.tensors().items()}
    stir(other.shared, seed=9)
    pair.shared.load_tensors(other.shared.tensors())
    assert {k: bits(t) for k, t in pair.private.tensors().items()} == before
    with pytest.raises(gw.GraftError, match="do not fit"):
        pair.shared.load_tensors(pair.private.tensors())


def test_cosines_tell_what_repeats_and_what_undoes() -> None:
    _, pair = stirred(shared=gw.LoRA(3, alpha=6.0), private=gw.LoRA(3, alpha=1.0))
    assert all(-1 <= c <= 1 for c in pair.cosines().values()) and set(pair.cosines()) == set(SITES)
    for sign in (1.0, -1.0):
        tensors = {
            k: t * (sign if k.endswith("B") else 1) for k, t in pair.shared.tensors().items()
        }
        pair.private.load_tensors(tensors)
        assert all(abs(c - sign) < 1e-12 for c in pair.cosines().values())
    ours = {s: by_hand_change(pair.shared, s) for s in SITES}
    stir(pair.private, seed=11)
    for site, c in pair.cosines().items():
        other = by_hand_change(pair.private, site)
        assert abs(c - float(nn.functional.cosine_similarity(ours[site], other, 0))) < 1e-12
    start = gw.dual(wide(), gw.LoRA(3), gw.LoRA(3), sites=SITES)
    assert set(start.cosines().values()) == {0.0}


def by_hand_change(graft: gw.Graft, site: str) -> Tensor:
    t = graft.tensors()
    return (t[f"{site}.B"].flatten(1) @ t[f"{site}.A"].flatten(1)).flatten()


@pytest.mark.parametrize(
    ("shared", "private", "options", "told"),
    [
        (None, gw.LoRA(2), {}, "shared: pass a LoRA"),
        (8, gw.LoRA(2), {}, "shared: a dual graft is a pair of LoRA"),
        (gw.LoRA(2), "there", {}, "private: a LoRA or None"),
        (gw.DoRA(2), gw.LoRA(2), {}, "shared: a dual graft is a pair of LoRA"),
        (gw.LoRA(2), gw.IA3(), {}, "private: a dual graft is a pair of LoRA"),
        (gw.LoRA(2), 3, {}, "private: a dual graft is a pair of LoRA"),
        (gw.LoRA(2), gw.LoRA(2), {"names": ("a", "a")}, "both called 'a'"),
        (gw.LoRA(2), gw.LoRA(2), {"names": ("a", "there")}, "already has a graft 'there'"),
        (gw.LoRA(2), gw.LoRA(2), {"sites": "nowhere"}, "matches no layer"),
        (gw.LoRA(2), gw.LoRA(2), {"private_also_train": "nowhere"}, "private|also_train"),
        (gw.LoRA(2), None, {"private_also_train": "head"}, "no private graft"),
        (
            gw.LoRA(2),
            gw.LoRA(2),
            {"also_train": "head", "private_also_train": "head"},
            "owns head",
        ),
        ("nope", gw.LoRA(2), {}, "no graft 'nope'"),
        ("there", gw.LoRA(2), {"sites": "head"}, "'there' has its own"),
        ("there", gw.LoRA(2), {"names": ("shared", "there")}, "'there' is the shared graft"),
        ("ia3", gw.LoRA(2), {}, "'ia3' is not of LoRA alone"),
    ],
)
def test_refusals_leave_the_model_as_it_was(
    shared: Any, private: Any, options: dict[str, Any], told: str
) -> None:
    model = wide()
    gw.graft(model, gw.IA3(), sites="layer1.0", name="ia3")
    stir(gw.graft(model, gw.LoRA(2), sites="layer1.0", name="there"))
    gw.activate(model, {"there": 0.5})
    before, out = picture(model), model(tokens())
    with pytest.raises(gw.GraftError, match=told):
        gw.dual(model, shared, private, **options)
    assert picture(model) == before and torch.equal(model(tokens()), out)
    assert gw.active(model) == {"there": 0.5} and set(gw.grafts(model)) == {"ia3", "there"}


def test_a_shared_rank_of_zero_is_refused() -> None:
    with pytest.raises(gw.GraftError, match=r"LoRA\.rank must lie in"):
        gw.dual(wide(), gw.LoRA(0), gw.LoRA(2))


def test_a_copy_of_the_model_carries_the_pair() -> None:
    model, pair = stirred()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(tokens()), model(tokens()))
    stir(gw.get(twin, "private"), seed=3)
    assert not torch.equal(twin(tokens()), model(tokens()))
    assert gw.active(twin) == pair.parts()
