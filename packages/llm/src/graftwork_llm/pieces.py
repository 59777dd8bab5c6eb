"""What each token of a tokenizer adds to a text, as bytes, and which tokens begin a text."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _alphabet() -> dict[str, int]:
    """The characters by which byte-level tokenizers write bytes (Radford et al., 2019)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in shown]
    return {chr(c): b for c, b in zip([*shown, *range(256, 256 + len(rest))], shown + rest, strict=True)}  # fmt: skip


class Pieces:
    """The bytes that each token adds behind a text, as text of one character a byte (`raw`).

    Args:
        tokenizer: any of transformers; byte-level, with byte fall-back, or of words.

    Attributes:
        texts: by token; empty for special tokens, None where the bytes are not known.
        longest: characters of the longest.
    """

    def __init__(self, tokenizer: Any) -> None:
        special = {int(i) for i in tokenizer.all_special_ids}
        count, alphabet = len(tokenizer), _alphabet()
        names = tokenizer.convert_ids_to_tokens(list(range(count)))
        self.texts: list[str | None] = ["" if i in special else None for i in range(count)]
        others = [i for i in range(count) if i not in special]
        if _byte_level(tokenizer):
            added = set(tokenizer.get_added_vocab().values())
            for i in others:
                if i not in added:
                    self.texts[i] = _of_alphabet(names[i], alphabet)
            others = [i for i in others if self.texts[i] is None]
        anchor = tokenizer("x", add_special_tokens=False)[
            "input_ids"
        ]  # some decoders drop a first space
        before = len(_decoded(tokenizer, [anchor])[0])
        for i, shown in zip(
            others, _decoded(tokenizer, [[*anchor, i] for i in others]), strict=True
        ):
            self.texts[i] = _bytes(names[i], shown[before:], alphabet)
        self._tokens: dict[str, list[int]] = defaultdict(list)
        for i, text in enumerate(self.texts):
            if text:
                self._tokens[text].append(i)
        self.longest = max(map(len, self._tokens), default=0)

    def beginning(self, text: str) -> Iterator[int]:
        """The tokens that are a beginning of `text`, shortest first."""
        for end in range(1, min(len(text), self.longest) + 1):
            yield from self._tokens.get(text[:end], ())


def raw(text: str) -> str:
    """A text with one character for each of its UTF-8 bytes."""
    return text.encode().decode("latin-1")


def _decoded(tokenizer: Any, rows: list[list[int]]) -> list[str]:
    found: list[str] = tokenizer.batch_decode(
        rows, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return found[: len(rows)]  # of none it makes one empty text


def _bytes(name: str | None, shown: str, alphabet: dict[str, int]) -> str | None:
    if "�" not in shown:
        return raw(shown)
    if name is None:
        return None
    if byte := _BYTE.fullmatch(name):
        return chr(int(byte[1], 16))
    return _of_alphabet(name, alphabet)


def _of_alphabet(name: str | None, alphabet: dict[str, int]) -> str | None:
    if name and all(c in alphabet for c in name):
        return "".join(chr(alphabet[c]) for c in name)
    return None


def _byte_level(tokenizer: Any) -> bool:
    """Whether the names of its tokens are their bytes."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    return type(decoder).__name__ == "ByteLevel"
