"""The configuration file of a Hugging Face PEFT folder: every field is used, harmless or refused.

PEFT reads a string in `target_modules`, `rank_pattern` and others as a regular expression. Nothing here does:
the layers are read off the tensor file, and a pattern counts only if it is the literal end of a name.
Fields as of peft 0.21.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from graftwork.errors import GraftError
from graftwork.store import hf_norms, hf_orthogonal
from graftwork.store.hf_vera import faults_of

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
LIMIT = 10 * 2**20  # bytes of config
PREFIX = "base_model.model."

#: what the adapter computes follows from these
USED = {
    "LORA": {
        "peft_type",
        "r",
        "lora_alpha",
        "lora_dropout",
        "use_rslora",
        "use_dora",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "bias",
        "init_lora_weights",
    },
    "IA3": {"peft_type", "feedforward_modules", "modules_to_save"},
    "PREFIX_TUNING": {
        "peft_type",
        "num_virtual_tokens",
        "token_dim",
        "num_layers",
        "num_attention_heads",
    },
    hf_norms.KIND: {"peft_type", "modules_to_save"},
    "VERA": {
        "peft_type",
        "r",
        "projection_prng_key",
        "vera_dropout",
        "modules_to_save",
        "bias",
    },
    **hf_orthogonal.USED,
}

_ANYWHERE = {
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "fan_in_fan_out",
}

#: these choose layers (the tensor file tells them), or matter to training, storage or PEFT itself only
HARMLESS = {
    "LORA": _ANYWHERE
    | {
        "layers_to_transform",
        "layers_pattern",
        "megatron_core",
        "eva_config",
        "qalora_group_size",
        "runtime_config",
    },
    "IA3": _ANYWHERE | {"init_ia3_weights"},
    # the file holds what the projection made of the prefix
    "PREFIX_TUNING": (_ANYWHERE - {"target_modules", "exclude_modules", "fan_in_fan_out"})
    | {"encoder_hidden_size", "prefix_projection", "init_weights"},
    hf_norms.KIND: _ANYWHERE - {"fan_in_fan_out"},
    "VERA": _ANYWHERE
    | {"layers_to_transform", "layers_pattern", "save_projection", "d_initial", "init_weights"},
    **{kind: _ANYWHERE | names for kind, names in hf_orthogonal.HARMLESS.items()},
}

#: these change what the adapter computes, and are served at this value only
REFUSED: dict[str, dict[str, Any]] = {
    "LORA": {
        "megatron_config": None,
        "trainable_token_indices": None,
        "loftq_config": {},
        "corda_config": None,
        "lora_ga_config": None,
        "velora_config": None,
        "alora_invocation_tokens": None,
        "use_qalora": False,
        "monteclora_config": None,
        "layer_replication": None,
        "lora_bias": False,
        "target_parameters": None,
        "use_bdlora": None,
        "arrow_config": None,
        "kasa_config": None,
        "ensure_weight_tying": False,
    },
    "IA3": {},
    "PREFIX_TUNING": {"num_transformer_submodules": 1, "modules_to_save": None},
    hf_norms.KIND: {},
    "VERA": {},
    **hf_orthogonal.REFUSED,
}

#: initialisations that leave the base's weights alone; the others (PiSSA, OLoRA, CorDA, LoftQ ...)
#: rewrite them, so the factors mean nothing on the base as it is published
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


def check_config(config: Mapping[str, Any], what: str) -> str:
    """The PEFT type, such as "LORA", of a config that is served.

    Raises:
        GraftError: another type, an unknown field, or fields that change the function; all are listed.
    """
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in USED:
        raise GraftError(
            f"{what}: peft_type {str(kind)[:40]!r} is not served; LORA (with rsLoRA, DoRA), IA3, VERA, OFT, BOFT, "
            "LN_TUNING and PREFIX_TUNING are"
        )
    faults = []
    for field, value in config.items():
        if field in REFUSED[kind]:
            if value is not None and value != REFUSED[kind][field]:
                faults.append(f"{field} = {str(value)[:60]!r}: changes the function; not served")
        elif field not in USED[kind] and field not in HARMLESS[kind] and value is not None:
            faults.append(f"{field[:80]} = {str(value)[:60]!r}: unknown field")
    own = {"LORA": _lora_faults, "IA3": _ia3_faults, "VERA": faults_of}
    if kind not in ("PREFIX_TUNING", hf_norms.KIND):
        faults += _bias_faults(config) + own.get(kind, hf_orthogonal.faults)(config)
    names = config.get("modules_to_save")
    if names is not None and not _names(names):
        faults.append("modules_to_save: must be a list of names")
    if faults:
        raise GraftError(f"{what}:\n  " + "\n  ".join(faults[:20]))
    return kind


def _bias_faults(config: Mapping[str, Any]) -> list[str]:
    bias = config.get("bias", "none")
    if bias in ("none", None):
        return []
    return [f"bias = {str(bias)[:40]!r}: trains base biases; only 'none' is served"]


def _lora_faults(config: Mapping[str, Any]) -> list[str]:
    faults = []
    start = config.get("init_lora_weights", True)
    if not any(start is s or (isinstance(s, str) and start == s) for s in _PLAIN_STARTS):
        faults.append(
            f"init_lora_weights = {str(start)[:40]!r}: rewrites the base's weights; convert the adapter to "
            "plain LoRA with PEFT (path_initial_model_for_weight_conversion) first"
        )
    faults += [
        f"{k}: must be true or false"
        for k in ("use_rslora", "use_dora")
        if not _flag(config.get(k))
    ]
    if not _rank(config.get("r", 8)):
        faults.append(f"r = {str(config.get('r'))[:40]!r}: must be a whole number of at least 1")
    if not _finite(config.get("lora_alpha", 8)):
        faults.append(
            f"lora_alpha = {str(config.get('lora_alpha'))[:40]!r}: must be a finite number"
        )
    dropout = config.get("lora_dropout", 0.0)
    if not _finite(dropout) or not 0 <= dropout < 1:
        faults.append(f"lora_dropout = {str(dropout)[:40]!r}: must lie in [0, 1)")
    for field, good in (("rank_pattern", _rank), ("alpha_pattern", _finite)):
        patterns = config.get(field) or {}
        if not isinstance(patterns, dict):
            faults.append(f"{field}: must be an object")
            continue
        for pattern, value in patterns.items():
            if not good(value):
                faults.append(f"{field}: {pattern[:60]!r} has the bad value {str(value)[:40]!r}")
            if not is_literal(pattern):
                faults.append(
                    f"{field}: {pattern[:60]!r} is a regular expression; only names are served"
                )
    return faults


def _ia3_faults(config: Mapping[str, Any]) -> list[str]:
    names = config.get("feedforward_modules")
    if isinstance(names, str):
        if not is_literal(names):
            return [
                f"feedforward_modules: {names[:60]!r} is a regular expression; only names are served"
            ]
    elif names is not None and not _names(names):
        return ["feedforward_modules: must be a list of names"]
    return []


def is_literal(pattern: str) -> bool:
    """Whether a PEFT pattern is a plain dotted name, with "^" before it if it is a full one."""
    return bool(re.fullmatch(r"\^?[\w.\-]+", pattern))


def pattern_value(patterns: Mapping[str, Any] | None, site: str, default: Any) -> Any:
    """The value of the first literal pattern that PEFT would find to match a site's name."""
    for pattern, value in (patterns or {}).items():
        if _matches(pattern, site):
            return value
    return default


def _matches(pattern: str, site: str) -> bool:
    """PEFT's `(.*\\.)?(pattern)$` for a literal pattern: a dotted end, "." standing for any character."""
    text = pattern.removeprefix("^")
    before = site[: len(site) - len(text)]
    if len(text) > len(site) or (before and (pattern.startswith("^") or before[-1] != ".")):
        return False
    return all(p in (".", c) for p, c in zip(text, site[len(before) :], strict=True))


def is_feedforward(names: str | list[str] | None, site: str) -> bool:
    """Whether PEFT would scale this IA3 site's input: a plain end of its name is listed."""
    if isinstance(names, str):
        return site == names
    return any(site.endswith(n) for n in names or ())


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and v for v in value)


def _flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _rank(value: Any) -> bool:
    return type(value) is int and value >= 1


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
