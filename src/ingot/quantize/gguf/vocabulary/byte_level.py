"""Byte-level BPE: a tokenizer.json with its vocabulary, merges and added tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.errors import BaseError, MissingComponent
from ingot.quantize.gguf.types import INSTALL
from ingot.quantize.gguf.vocabulary.splits import pre_tokenizer
from ingot.quantize.gguf.vocabulary.tokens import Kind, Vocabulary, added_kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FILE = "tokenizer.json"


def read_byte_level(directory: Path, raw: Mapping[str, Any], size: int, pre: str | None) -> Vocabulary:
    """The vocabulary of a parsed tokenizer.json, for an embedding of `size` rows.

    Raises:
        MismatchError: a token has no row.
        BaseError, UsageError: see `splits.pre_tokenizer`.
    """
    tokenizer = load_tokenizer(directory)
    vocabulary = Vocabulary.padded("gpt2", pre_tokenizer(raw, pre), size)
    for text, number in raw["model"]["vocab"].items():
        vocabulary.put(number, text, Kind.NORMAL, what=_FILE)
    for added in raw.get("added_tokens") or ():
        text = added["content"]
        # llama.cpp compares these with text as it is: what a normalizer would change must stand there changed
        if not added.get("normalized"):
            text = _as_encoded(tokenizer, text)
        kind = added_kind(text, special=bool(added.get("special")))
        text = text.replace("\u2581", " ") if kind is Kind.USER_DEFINED else text
        vocabulary.put(added["id"], text, kind, what=_FILE)
    return vocabulary


def adds_first(directory: Path) -> int | None:
    """The id that the tokenizer itself puts before every text; None where it puts none."""
    tokenizer = load_tokenizer(directory)
    with_special, without = tokenizer.encode("a").ids, tokenizer.encode("a", add_special_tokens=False).ids
    return int(with_special[0]) if with_special[:1] != without[:1] else None


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, by the `tokenizers` library."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingComponent("the tokenizers library is not installed", hint=INSTALL) from error
    try:
        return Tokenizer.from_file(str(directory / _FILE))
    except Exception as error:  # the library raises nothing more special
        raise BaseError("the tokenizer cannot be read", where=_FILE, found=" ".join(str(error).split())[:200],
                        hint="Get the file again from where the model was published.") from error  # fmt: skip


def _as_encoded(tokenizer: Tokenizer, text: str) -> str:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return str(tokenizer.decode(ids, skip_special_tokens=False))
