"""The work of `graftwork merge`."""

from __future__ import annotations

from safetensors.torch import load as read_tensors
from torch import Tensor

from graftwork.cli.files import read_state, write_state
from graftwork.cli.state_merge import State, merged
from graftwork.cli.table import size
from graftwork.errors import GraftError
from graftwork.store.fingerprint import tensor_difference
from graftwork.store.passport import read_data, read_passport, shorten


def merge_files(base: str, adapter: str, out: str, allow_other_base: bool) -> str:
    """Merge an adapter folder into a state-dict file and write the result; returns what was done.

    Raises:
        GraftError: a file that cannot be read or written, an adapter that does not fit, another base
            (unless allowed), or a method that changes activations.
    """
    path, passport = read_passport(adapter)
    state, metadata = read_state(base)
    if not allow_other_base:
        _check_base(base, state, passport["base"]["tensors"])
    tensors = read_tensors(read_data(path, passport))
    new = merged(state, passport["graft"], tensors)
    changed = [k for k in new if k not in state or new[k] is not state[k]]
    note = {"format": "pt", **metadata, "graftwork.merged": passport["file"]["sha256"]}
    written = write_state(out, new, note)
    done = f"{out}: {len(new)} tensors, {len(changed)} of them changed, {size(written)}"
    return "\n".join([done, *_widths(state, new)])


def _check_base(file: str, state: State, saved: dict[str, dict[str, object]]) -> None:
    lines = []
    for name, entry in saved.items():
        if name in state:  # a tensor that is missing is told by its site, with near names
            lines += tensor_difference(name, entry, state[name])
    if lines:
        raise GraftError(
            f"{file} is not the base that the adapter was trained on (--allow-other-base merges all the "
            "same):\n  " + shorten(lines)
        )


def _widths(old: State, new: State) -> list[str]:
    """What a loader of the new file must know: tensors of another shape, and new ones."""
    lines = []
    for key, t in new.items():
        before: Tensor | None = old.get(key)
        if before is None:
            lines.append(
                f"  new tensor {key} {tuple(t.shape)}: give that layer a bias before loading"
            )
        elif before.shape != t.shape:
            shapes = f"{tuple(before.shape)} -> {tuple(t.shape)}"
            lines.append(f"  {key} grew {shapes}: build the network with that width before loading")
    return lines
