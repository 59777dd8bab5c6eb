"""Causal language models for the Graftwork apps; each module loads transformers only when it is called."""

from __future__ import annotations

__version__ = "0.1.0"
