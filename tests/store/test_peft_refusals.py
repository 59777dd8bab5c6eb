"""Foreign PEFT folders that must not load, and grafts that PEFT cannot express: refused by name."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import graftwork as gw
from graftwork.store import from_peft, to_peft
from graftwork.store.hf_config import HARMLESS, REFUSED, USED, is_literal, pattern_value
from tests.store.peft_cases import GOLDEN, base_of, changed


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft")


@pytest.mark.parametrize("kind", ["LORA", "IA3", "VERA", "PREFIX_TUNING"])
def test_every_field_of_the_installed_configs_is_classed(kind: str, peft: Any) -> None:
    classes = {"LORA": peft.LoraConfig, "IA3": peft.IA3Config, "VERA": peft.VeraConfig}
    cls = classes.get(kind, peft.PrefixTuningConfig)
    fields = {f.name for f in dataclasses.fields(cls)}
    classed = [USED[kind], HARMLESS[kind], set(REFUSED[kind])]
    assert sum(map(len, classed)) == len(set().union(*classed))  # in one class each
    assert fields - set().union(*classed) == set()


def test_refused_values_are_pefts_defaults(peft: Any) -> None:
    defaults = peft.LoraConfig()
    assert {k: getattr(defaults, k) for k in REFUSED["LORA"]} == REFUSED["LORA"]


FUNCTION_CHANGERS = {
    "megatron_config": {"a": 1},
    "trainable_token_indices": [1],
    "loftq_config": {"loftq_bits": 4},
    "corda_config": {"corda_method": "kpm"},
    "lora_ga_config": {"a": 1},
    "velora_config": {"a": 1},
    "alora_invocation_tokens": [3],
    "use_qalora": True,
    "monteclora_config": {"a": 1},
    "layer_replication": [[0, 2]],
    "lora_bias": True,
    "target_parameters": ["weight"],
    "use_bdlora": {"a": 1},
    "arrow_config": {"a": 1},
    "kasa_config": {"a": 1},
    "ensure_weight_tying": True,
    "bias": "all",
    "init_lora_weights": "pissa_niter_4",
    "a_field_of_next_year": 3,
    "peft_type": "LOKR",
    "lora_alpha": "8",
    "lora_dropout": 1.5,
    "r": 0,
    "use_dora": 1,
    "rank_pattern": {"a.*": 2},
    "alpha_pattern": {"([a-z0-9_.]+)+!": 2},
    "modules_to_save": "c",
}


def test_every_refused_field_has_a_case() -> None:
    assert set(REFUSED["LORA"]) <= set(FUNCTION_CHANGERS)


@pytest.mark.parametrize("field", FUNCTION_CHANGERS)
def test_fields_that_change_the_function_are_refused_by_name(field: str, tmp_path: Path) -> None:
    model, x, _ = base_of("linear")
    before = model(x)
    with pytest.raises(gw.GraftError, match=field):
        from_peft(model, changed(tmp_path, **{field: FUNCTION_CHANGERS[field]}))
    assert torch.equal(model(x), before) and not gw.grafts(model)


def test_alpha_nan_is_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 3', '"lora_alpha": NaN'))
    assert "NaN" in path.read_text()
    with pytest.raises(gw.GraftError, match="NaN"):
        from_peft(base_of("linear")[0], folder)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("field", ["target_modules", "exclude_modules", "layers_pattern"])
def test_a_hostile_regex_is_never_executed(field: str, tmp_path: Path) -> None:
    # as a regular expression against a long name this takes longer than the universe has
    model = nn.Sequential()
    model.add_module("a" * 60, nn.Linear(6, 5))
    model.add_module("a", nn.Linear(6, 5))
    kept = {
        "base_model.model.a.lora_A.weight": torch.ones(2, 6),
        "base_model.model.a.lora_B.weight": torch.ones(5, 2),
    }
    folder = changed(tmp_path, **{field: "([a-z0-9_.]+)+!"})
    (folder / "case.safetensors").unlink()
    save_file(kept, folder / "adapter_model.safetensors")
    path = folder / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 3', '"lora_alpha": 2'))
    g = from_peft(model, folder)
    assert [s["name"] for s in g.spec()["sites"]] == ["a"]


names = st.lists(st.text("ab_1", min_size=1, max_size=2), min_size=1, max_size=3).map(".".join)


@given(pattern=st.builds(str.__add__, st.sampled_from(["", "^"]), names), site=names)
def test_literal_patterns_match_as_pefts_expression_would(pattern: str, site: str) -> None:
    theirs = re.match(rf"(.*\.)?({pattern})$", site) is not None
    assert is_literal(pattern)
    assert pattern_value({pattern: 1}, site, 0) == int(theirs)


def test_ia3_regex_feedforward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gw.GraftError, match="feedforward_modules"):
        from_peft(
            base_of("linear_ia3")[0], changed(tmp_path, "linear_ia3", feedforward_modules="b|c")
        )


def test_a_grouped_branch_that_mixes_groups_is_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path, "grouped")
    path = folder / "adapter_model.safetensors"
    tensors = {k: torch.ones_like(v) for k, v in load_file(path).items()}
    save_file(tensors, path)
    with pytest.raises(gw.GraftError, match="across the layer's 2 groups"):
        from_peft(base_of("grouped")[0], folder)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"drop": "base_model.model.b.lora_B.weight"}, r"b: tensors missing.*lora_B"),
        ({"add": "base_model.model.zzz.lora_A.weight"}, r"zzz: the model has no such layer"),
        ({"add": "base_model.model.c.extra"}, r"c.extra: not used"),
        ({"add": "stranger"}, r"'stranger': does not begin"),
        ({"add": "base_model.model...evil.lora_A.weight"}, r"evil"),
        ({"nan": "base_model.model.a.lora_A.weight"}, r"a.lora_A.weight: holds NaN"),
        ({"cut": "base_model.model.a.lora_B.weight"}, r"a.B: shape"),
        ({"rank": "base_model.model.a.lora_A.weight"}, r"config says rank 2"),
    ],
)
def test_tensors_that_do_not_fit(change: dict[str, str], word: str, tmp_path: Path) -> None:
    folder = changed(tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    ((what, key),) = change.items()
    if what == "drop":
        del tensors[key]
    elif what == "add":
        tensors[key] = torch.ones(2, 2)
    elif what == "nan":
        tensors[key][0, 0] = torch.nan
    elif what == "cut":
        tensors[key] = tensors[key][:-1].clone()
    else:
        tensors[key] = tensors[key][:-1].clone()
    save_file(tensors, path)
    model, x, _ = base_of("linear")
    before = model(x)
    with pytest.raises(gw.GraftError, match=word):
        from_peft(model, folder)
    assert torch.equal(model(x), before)


def test_base_values_in_the_file_must_be_this_bases(tmp_path: Path) -> None:
    folder = changed(tmp_path, "embedding")
    path = folder / "adapter_model.safetensors"
    model, _, _ = base_of("embedding")
    tensors = load_file(path)
    tensors["base_model.model.a.base_layer.weight"] = model.a.weight.detach().clone()
    save_file(tensors, path)
    from_peft(model, folder).remove()
    tensors["base_model.model.a.base_layer.weight"][0, 0] += 1
    save_file(tensors, path)
    with pytest.raises(gw.GraftError, match=r"a\.base_layer\.weight: the file brings base values"):
        from_peft(model, folder)


def test_a_fingerprint_travels_in_what_peft_ignores(tmp_path: Path) -> None:
    model, _, _ = base_of("linear")
    g = from_peft(model, GOLDEN / "linear")
    to_peft(g, tmp_path / "a")
    g.remove()
    with torch.no_grad():
        model.a.weight[0, 0] += 1
    with pytest.raises(gw.GraftError, match=r"a\.weight: other values"):
        from_peft(model, tmp_path / "a")
    from_peft(model, tmp_path / "a", allow_other_base=True)


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(gw.GraftError, match="pickle"):
        from_peft(base_of("linear")[0], folder)


def test_links_are_followed_in_a_hub_cache_only(tmp_path: Path) -> None:
    model, _, _ = base_of("linear")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(GOLDEN / "linear" / name, blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    from_peft(model, snapshot).remove()
    elsewhere = changed(tmp_path)
    (elsewhere / "adapter_model.safetensors").unlink()
    (elsewhere / "adapter_model.safetensors").symlink_to(blobs / "adapter_model.safetensors")
    with pytest.raises(gw.GraftError, match="link out of its folder"):
        from_peft(model, elsewhere)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=3), v, max_size=2),
    max_leaves=3,
)


@settings(max_examples=100)
@given(
    case=st.sampled_from(["linear", "linear_ia3", "linear_saved", "conv2d_dora"]),
    field=st.sampled_from(
        sorted(set().union(*USED.values(), *HARMLESS.values(), *REFUSED.values()))
    ),
    value=anything,
)
def test_fuzz_one_field_of_the_config(
    tmp_path_factory: Any, case: str, field: str, value: Any
) -> None:
    folder = changed(tmp_path_factory.mktemp("fuzz"), case, **{field: value})
    model, x, _ = base_of(case)
    before = model(x)
    with contextlib.suppress(gw.GraftError):
        from_peft(model, folder).remove()
    assert not gw.grafts(model) and torch.equal(model(x), before)


def conv(**fields: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3, **fields))


INEXPRESSIBLE: dict[str, tuple[Any, Any, str]] = {
    "dilation": (lambda: conv(dilation=2), gw.LoRA(2), "dilation"),
    "padding mode": (
        lambda: conv(padding=1, padding_mode="reflect"),
        gw.LoRA(2),
        "pads with zeros",
    ),
    "groups": (lambda: conv(groups=2), gw.LoRA(3), "groups divide"),
    "grouped dora": (lambda: conv(groups=2), gw.DoRA(2), "DoRA is wrong on grouped"),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 3)), gw.LoRA(2), "transposed"),
    "ia3 conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 4, 3)), gw.IA3(), "no IA3 for a conv1d"),
    "diablo": (lambda: nn.Sequential(nn.Linear(4, 4)), gw.DiaBlo(2), "no form for diablo"),
    "adaptformer": (
        lambda: nn.Sequential(nn.Linear(4, 4)),
        gw.AdaptFormer(2),
        "no form for adaptformer",
    ),
    "root": (lambda: nn.Linear(4, 4), gw.LoRA(2), "itself the layer"),
    "fused": (lambda: nn.Sequential(nn.MultiheadAttention(4, 2)), gw.LoRA(2), "in_proj_weight"),
}


@pytest.mark.parametrize("case", INEXPRESSIBLE)
def test_what_peft_cannot_express_is_refused_by_name(case: str, tmp_path: Path) -> None:
    build, method, word = INEXPRESSIBLE[case]
    g = gw.graft(build(), method)
    with pytest.raises(gw.GraftError, match=word):
        to_peft(g, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("case", ["dilation", "padding mode"])
def test_peft_folders_for_layers_that_peft_gets_wrong_are_refused(
    case: str, tmp_path: Path
) -> None:
    build, method, word = INEXPRESSIBLE[case]
    plain = conv(padding=1)
    folder = to_peft(gw.graft(plain, method), tmp_path / "a")
    with pytest.raises(gw.GraftError, match=word):
        from_peft(build(), folder)


def test_mixed_methods_and_dropouts_are_refused(tmp_path: Path) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    g = gw.graft(net(), gw.LoRA(2), overrides={"1": gw.IA3()})
    with pytest.raises(gw.GraftError, match="mixes ia3, lora"):
        to_peft(g, tmp_path / "a")
    g = gw.graft(net(), gw.LoRA(2), overrides={"1": {"dropout": 0.5}})
    with pytest.raises(gw.GraftError, match="one lora_dropout"):
        to_peft(g, tmp_path / "a")
