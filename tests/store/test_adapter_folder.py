"""What is saved comes back to the bit, on a fresh base, with everything the passport says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.store import describe
from graftwork.store.expected import expected_shapes
from tests.cli.cli_helpers import loaded_by
from tests.store.kit import edit, files, grafted, net, randomised, same, state_of, x


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        (gw.LoRA(3, alpha=7.0, rslora=True), {}),
        (gw.DoRA(2), {"overrides": {"stem": {"rank": 4}}}),
        (gw.DiaBlo(2), {"also_train": ["norm"]}),
        (gw.IA3(), {"overrides": {"head": {"scale": "input"}}}),
        (gw.BitFit(), {}),
        (gw.NormAffine(), {"also_train": ["head"]}),
        (gw.AdaptFormer(2), {"also_train": [gw.NewRows("head", 2)], "sites": "stem"}),
    ],
    ids=lambda v: getattr(v, "id", ""),
)
def test_round_trip_is_bit_exact(method: gw.Graft, extra: dict, tmp_path: Path) -> None:
    g = randomised(gw.graft(net(), method, **extra))
    y = g.model(x())
    gw.save(g, tmp_path / "a")
    model = net()
    h = gw.load(model, tmp_path / "a")
    assert torch.equal(model(x()), y)
    assert h.spec() == g.spec() and h.name == g.name
    assert same(h.tensors(), g.tensors())
    shapes, faults = expected_shapes(model, h.entry)
    assert not faults and shapes == {k: tuple(t.shape) for k, t in h.tensors().items()}
    h.remove()
    assert not torch.equal(model(x()), y)


def test_root_layer_and_attention_and_tokens(tmp_path: Path) -> None:
    root = randomised(gw.graft(nn.Linear(4, 3), gw.LoRA(2)))
    gw.save(root, tmp_path / "root")
    bare = nn.Linear(4, 3)
    bare.load_state_dict(root.model.state_dict())
    gw.load(bare, tmp_path / "root")
    z = torch.randn(2, 4)
    assert torch.equal(bare(z), root.model(z))

    torch.manual_seed(1)
    attention = nn.Sequential(nn.MultiheadAttention(4, 2, batch_first=True))
    plain = nn.Sequential(nn.MultiheadAttention(4, 2, batch_first=True))
    plain.load_state_dict(attention.state_dict())
    g = randomised(gw.graft(attention, gw.LoRA(2)))
    gw.save(g, tmp_path / "attention")
    gw.load(plain, tmp_path / "attention")
    q = torch.randn(1, 3, 4)
    assert torch.equal(plain[0](q, q, q)[0], attention[0](q, q, q)[0])
    assert "0.in_proj_weight.A" in gw.inspect(tmp_path / "attention")["tensors"]

    table = nn.Sequential(nn.Embedding(5, 3))
    fresh = nn.Sequential(nn.Embedding(5, 3))
    fresh.load_state_dict(table.state_dict())
    g = randomised(gw.graft(table, gw.LoRA(1), sites="0", also_train=[gw.NewRows("0", 2)]))
    gw.save(g, tmp_path / "tokens")
    gw.load(fresh, tmp_path / "tokens")
    tokens = torch.tensor([0, 4, 5, 6])
    assert torch.equal(fresh(tokens), table(tokens))


def test_several_grafts_and_names(tmp_path: Path) -> None:
    a, b = grafted(name="a"), grafted(name="b")
    gw.save(a, tmp_path / "a")
    gw.save(b.model, tmp_path / "b", name="b")
    model = net()
    gw.load(model, tmp_path / "a")
    before = state_of(model)
    with pytest.raises(gw.GraftError, match="already has a graft 'a'"):
        gw.load(model, tmp_path / "a")
    assert same(state_of(model), before)
    gw.load(model, tmp_path / "b")
    gw.load(model, tmp_path / "a", name="c")
    assert list(gw.grafts(model)) == ["a", "b", "c"]
    gw.activate(model, "b")
    assert torch.equal(model(x()), b.model(x()))


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    gw.save(grafted(), tmp_path / "a")
    model = net()
    before = torch.get_rng_state()
    gw.load(model, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_files(tmp_path: Path) -> None:
    g = grafted()
    full = gw.save(g, tmp_path / "full") / "adapter.safetensors"
    for dtype in ("float16", "bfloat16"):
        half = gw.save(g, tmp_path / dtype, dtype=dtype) / "adapter.safetensors"
        assert half.stat().st_size < full.stat().st_size
        assert gw.inspect(half.parent)["stored"] == dtype
        h = gw.load(net(), half.parent)
        cast = getattr(torch, dtype)
        for key, t in g.tensors().items():
            assert h.tensors()[key].dtype == t.dtype
            assert torch.equal(
                h.tensors()[key], t.to(cast).to(t.dtype) if t.is_floating_point() else t
            )
    with pytest.raises(gw.GraftError, match="dtype must be one of"):
        gw.save(g, tmp_path / "x", dtype="int8")
    with torch.no_grad():
        next(iter(g.parameters())).fill_(1e6)
    with pytest.raises(gw.GraftError, match=r"not finite.*bfloat16"):
        gw.save(g, tmp_path / "x", dtype="float16")
    assert not (tmp_path / "x").exists()


def test_passport_and_inspect(tmp_path: Path) -> None:
    g = grafted()
    card = {"licence": "CC0", "note": "two lines\n\x1b[31mand a colour"}
    gw.save(g, tmp_path / "a", metrics={"dice": 0.75}, data_card=card)
    p = gw.inspect(tmp_path / "a")
    assert p["graft"] == g.spec() and p["metrics"] == {"dice": 0.75} and p["data_card"] == card
    assert p["trainable"]["parameters"] == sum(t.numel() for t in g.parameters())
    assert p["trainable"]["share"] == g.summary().share
    assert set(p["tensors"]) == set(g.tensors())
    assert p["file"]["bytes"] == (tmp_path / "a" / "adapter.safetensors").stat().st_size
    assert set(p["base"]["tensors"]) == {
        k for k in g.base_tensors() if not k.startswith("head")
    }  # the head is replaced, so the base's own does not matter
    text = describe(p)
    assert "lora" in text and "dice: 0.75" in text and "\x1b" not in text
    assert gw.inspect(tmp_path / "a" / "graft.json", verify=True)["name"] == "default"


def test_an_applications_section_travels_and_files_without_one_stay_as_they_were(
    tmp_path: Path,
) -> None:
    app = {"medseg": {"contract": {"spacing": [1.5, 1.5, 2.0], "note": "a\x1b[31mb"}}}
    gw.save(grafted(), tmp_path / "with", app=app)
    gw.save(grafted(), tmp_path / "without")
    assert gw.inspect(tmp_path / "with")["app"] == app
    assert "app" not in gw.inspect(tmp_path / "without")
    text = describe(gw.inspect(tmp_path / "with"))
    [line] = [line for line in text.splitlines() if line.startswith("for medseg")]
    assert "1.5, 1.5, 2.0" in line and "\x1b" not in text
    with pytest.raises(gw.GraftError, match="metrics, data_card and app"):
        gw.save(grafted(), tmp_path / "bad", app={"medseg": {"x": float("nan")}})
    assert not (tmp_path / "bad").exists()


def test_inspect_needs_no_torch(tmp_path: Path) -> None:
    gw.save(grafted(), tmp_path / "a")
    code = "import graftwork; print(graftwork.inspect(sys.argv[1]))"
    assert loaded_by(code, str(tmp_path / "a")) == set()


def test_saving_refuses_what_could_not_be_loaded(tmp_path: Path) -> None:
    g = grafted()
    for bad in ({"x": float("nan")}, {"x": object()}, {"x": 2**60}, {"x": "\ud800"}):
        with pytest.raises(gw.GraftError, match="passport"):
            gw.save(g, tmp_path / "a", metrics=bad)
    g.merge()
    with pytest.raises(gw.GraftError, match="unmerge"):
        gw.save(g, tmp_path / "a")
    g.unmerge()
    with torch.no_grad():
        next(iter(g.parameters()))[0] = torch.nan
    with pytest.raises(gw.GraftError, match=r"stem\.A: holds NaN"):
        gw.save(g, tmp_path / "a")
    assert files(tmp_path) == {}


def test_targets_that_are_taken(tmp_path: Path) -> None:
    g = grafted()
    target = gw.save(g, tmp_path / "deep" / "er" / "a")
    with pytest.raises(gw.GraftError, match="overwrite=True"):
        gw.save(g, target)
    before = files(target)
    gw.save(g, target, metrics={"again": 1}, overwrite=True)
    assert files(target) != before and gw.inspect(target)["metrics"] == {"again": 1}
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(gw.GraftError, match=r"thesis\.tex"):
        gw.save(g, target, overwrite=True)
    assert (target / "thesis.tex").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(gw.GraftError, match="is no folder"):
        gw.save(g, tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    gw.save(g, tmp_path / "empty")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    gw.save(g, tmp_path / "link", overwrite=True)  # replaces what the link names, not the link
    assert (tmp_path / "link").is_symlink()
    assert {p.name for p in tmp_path.iterdir()} == {"deep", "file", "empty", "link"}


def test_a_peft_folder_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(gw.GraftError, match="from_peft"):
        gw.load(net(), tmp_path)


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    gw.save(grafted(), tmp_path / "a")
    edit(tmp_path / "a", lambda p: p.update(format_version=2, something="new"))
    with pytest.raises(gw.GraftError, match="newer than this graftwork"):
        gw.inspect(tmp_path / "a")


def test_the_passport_is_plain_json(tmp_path: Path) -> None:
    gw.save(grafted(), tmp_path / "a")
    text = (tmp_path / "a" / "graft.json").read_text()
    assert json.loads(text)["format"] == "graftwork-adapter" and text.endswith("}\n")
