"""A made-up set of episodes and a tiny model with a tokenizer of bytes, in the forms that the benchmark reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch

from graftwork_llm.smollm2 import ORIGIN, PERPLEXITY, perplexity
from graftwork_runs.files import digest

ACTIONS = [("NAVIGATE_TO", 1), ("GRASP", 1), ("OPEN", 1), ("RELEASE", 0)]
#: laboratories whose hashes put them into test, choice and train
SETS = (
    "asu_table", "imperialcollege_wrist", "ucsd_kitchen", "utokyo_pr2", "jaco_play", "nyu_rot", "cmu_stretch",
    "dlr_x",
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ':' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>' }}{% endif %}"
)


def xml(*leaves: str) -> str:
    """A sequence of actions, each `NAME` or `NAME:object`."""
    parts = [leaf.partition(":") for leaf in leaves]
    body = "".join(f'<Action ID="{n}"' + (f' obj="{o}"' if o else "") + "/>" for n, _, o in parts)
    tree = f'<BehaviorTree ID="MainTree"><Sequence>{body}</Sequence></BehaviorTree>'
    return f'<root main_tree_to_execute="MainTree"><!-- a tree -->{tree}</root>'


def episode(
    subset: str, number: int, variant: str, instruction: str, allowed: list[str], tree: str
) -> dict[str, Any]:
    """An entry of the file."""
    name = f"episode_{number:03d}"
    shown = f"Instruction: {instruction}\nAllowed Actions: [{', '.join(allowed)}]"
    return {
        "id": f"{variant}/{subset}/{name}", "subset": subset, "episode": name, "variant": variant,
        "instruction": instruction, "prompt": f"{shown}\n* Constraints: use GRASP", "allowed_actions": allowed,
        "xml": tree,
    }  # fmt: skip


def raw_episodes() -> list[dict[str, Any]]:
    """Three episodes a set; the second has a variant with a synonym, the third one that is it once more."""
    out = []
    for subset in SETS:
        for number, thing in enumerate(("cup", "door", "can")):
            words, allowed = f"take the {thing}", ["GRASP(obj)", "NAVIGATE_TO(obj)"]
            tree = xml(f"NAVIGATE_TO:{thing}", f"GRASP:{thing}")
            out.append(episode(subset, number, "base", words, allowed, tree))
            if number == 1:
                other = xml(f"NAVIGATE_TO:{thing}", f"PICK:{thing}")
                more = ["PICK(obj)", "NAVIGATE_TO(obj)"]
                out.append(episode(subset, number, "base_lexical", words, more, other))
            if number == 2:
                out.append(episode(subset, number, "base_lexical", words, allowed, tree))
    return out


def write_episodes(folder: Path, raw: list[dict[str, Any]] | None = None) -> Path:
    """A folder as `episodes.read` takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    actions = [{"action": name, "arguments": [{"name": "obj"}] * count} for name, count in ACTIONS]
    (folder / "primitives.json").write_text(json.dumps({"actions": actions}))
    with gzip.open(folder / "train.jsonl.gz", "wt") as file:
        for entry in raw_episodes() if raw is None else raw:
            file.write(json.dumps(entry) + "\n")
    return folder


def tokenizer() -> Any:
    """Bytes as tokens, with the chat form."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *letters])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    made.chat_template = TEMPLATE
    return made


def tiny_model() -> Any:
    """A Llama of two small blocks with a tied head."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=258, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=0,
        eos_token_id=1, pad_token_id=1, initializer_range=0.2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def write_model(folder: Path) -> Path:
    """A folder as `model.load` takes it."""
    tiny_model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    origin = {
        "package": "made up",
        "licence": "none",
        "parameters": 1,
        "checks": {PERPLEXITY: perplexity(tiny_model(), tokenizer())},
        "files": {p.name: digest(p) for p in sorted(folder.iterdir())},
    }
    (folder / ORIGIN).write_text(json.dumps(origin))
    return folder
