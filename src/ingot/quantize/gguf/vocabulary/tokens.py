"""A vocabulary as data: the text, kind and score of every token, in the order of their ids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from ingot.errors import BaseError, MismatchError
from ingot.formats.strict_json import loads

#: Tokens that models forgot to mark as special, by their looks; llama.cpp would take them for text.
_LOOKS_SPECIAL = re.compile(r"<pad>|<mask>|<2mass>|\[@BOS@\]|<\|.*\|>|<｜.*｜>|<unused.*>", re.DOTALL)


class Kind(IntEnum):
    """GGUF's token types."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass
class Vocabulary:
    """Tokens by id.

    Attributes:
        model: GGUF's kind of tokenizer.
        pre: GGUF's name of the pre-tokenizer.
        scores: of SentencePiece; None for other kinds.
        spaced: SentencePiece puts a space before a text.
    """

    model: str
    pre: str
    texts: list[str]
    kinds: list[Kind]
    scores: list[float] | None = None
    spaced: bool = True

    @classmethod
    def padded(cls, model: str, pre: str, size: int, score: float | None = None) -> Vocabulary:
        """`size` unused tokens: what an embedding has beyond its tokenizer."""
        texts = [f"[PAD{number}]" for number in range(size)]
        return cls(model, pre, texts, [Kind.UNUSED] * size, None if score is None else [score] * size)

    def put(self, number: int, text: str, kind: Kind, score: float | None = None, *, what: str) -> None:
        """Set one token. Raises MismatchError when the embedding has no row for it; `what` names the file."""
        if not 0 <= number < len(self.texts):
            raise MismatchError(
                "the tokenizer has a token that the embedding has no row for",
                where=what,
                expected=f"ids below {len(self.texts)}, by vocab_size in config.json",
                found=f"{number} ({text!r})",
                hint="Resize the model's embedding, or use the tokenizer that belongs to it.",
            )
        self.texts[number], self.kinds[number] = text, kind
        if self.scores is not None and score is not None:
            self.scores[number] = score


def looks_special(text: str) -> bool:
    """Whether a token, by its looks, is a control token."""
    return _LOOKS_SPECIAL.fullmatch(text) is not None


def added_kind(text: str, *, special: bool) -> Kind:
    """The kind of an added token."""
    return Kind.CONTROL if special or looks_special(text) else Kind.USER_DEFINED


def read_json(path: Path) -> Mapping[str, Any] | None:
    """A JSON object of the tokenizer; None where there is no such file. Raises BaseError where it cannot be read."""
    if not path.is_file():
        return None
    raw = loads(path.read_bytes(), where=path.name, error=BaseError)
    if not isinstance(raw, dict):
        raise BaseError("a file of the tokenizer is no JSON object", where=path.name, found=type(raw).__name__)
    return raw
