"""Hugging Face PEFT folders, both ways."""

from graftwork.store.hf_read import from_peft
from graftwork.store.hf_write import to_peft

__all__ = ["from_peft", "to_peft"]
