"""SentencePiece vocabularies: pieces with scores, from a tokenizer.model, or a tokenizer.json converted from one.

In llama.cpp the pair of pieces with the best score is joined first. A converted tokenizer.json keeps no scores but the
order of its merges, so a piece's score is the negative rank of the merge that makes it: the same joins in the same
order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ingot.errors import BaseError, MissingComponent
from ingot.quantize.gguf.types import INSTALL
from ingot.quantize.gguf.vocabulary.tokens import Kind, Vocabulary, added_kind, read_json

MODEL_FILE = "tokenizer.model"
#: How SentencePiece writes a space.
_SPACE = "\u2581"
#: Scores of rows without a piece, and of added tokens: llama.cpp's converter's.
_UNUSED_SCORE, _ADDED_SCORE = -10000.0, -1000.0


def read_model(directory: Path, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer.model and the tokens added to it, for an embedding of `size` rows.

    Raises:
        BaseError: the file is no SentencePiece model.
        MissingComponent: the sentencepiece library is not installed.
    """
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise MissingComponent("the sentencepiece library is not installed", hint=INSTALL) from error
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromFile(str(directory / MODEL_FILE))
    except (RuntimeError, OSError) as error:
        raise BaseError("this is no SentencePiece model", where=MODEL_FILE, found=str(error)[:80]) from error
    vocabulary = Vocabulary.padded("llama", "default", size, _UNUSED_SCORE)
    vocabulary.spaced = "".join(processor.EncodeAsPieces("a")).startswith(_SPACE)
    # subtle: a model may be cut below its pieces (Gemma's unused ones), so those beyond the embedding are left
    for number in range(min(processor.GetPieceSize(), size)):
        text, score = processor.IdToPiece(number), processor.GetScore(number)
        vocabulary.put(number, text, _kind(processor, number), score, what=MODEL_FILE)
    _put_added(vocabulary, directory)
    return vocabulary


def _kind(processor: Any, number: int) -> Kind:
    kinds = (
        (processor.IsUnknown, Kind.UNKNOWN), (processor.IsControl, Kind.CONTROL),
        (processor.IsUnused, Kind.UNUSED), (processor.IsByte, Kind.BYTE),
    )  # fmt: skip
    return next((kind for is_kind, kind in kinds if is_kind(number)), Kind.NORMAL)


def _put_added(vocabulary: Vocabulary, directory: Path) -> None:
    """What stands beside the model: added_tokens.json, and the decoder of tokenizer_config.json, which is later."""
    for text, number in (read_json(directory / "added_tokens.json") or {}).items():
        vocabulary.put(number, text, Kind.USER_DEFINED, _ADDED_SCORE, what="added_tokens.json")
    config = read_json(directory / "tokenizer_config.json") or {}
    for number, added in (config.get("added_tokens_decoder") or {}).items():
        kind = added_kind(added["content"], special=bool(added.get("special")))
        text = added["content"].replace(_SPACE, " ") if kind is Kind.USER_DEFINED else added["content"]
        vocabulary.put(int(number), text, kind, _ADDED_SCORE, what="tokenizer_config.json")


def read_converted(raw: Mapping[str, Any], size: int) -> Vocabulary:
    """The vocabulary of a tokenizer.json with byte fallback, for an embedding of `size` rows."""
    model = raw["model"]
    vocabulary = Vocabulary.padded("llama", "default", size, _UNUSED_SCORE)
    vocabulary.spaced = any(map(_puts_space, (*_parts(raw.get("normalizer")), *_parts(raw.get("pre_tokenizer")))))
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model.get("merges") or ()):
        pair = merge.split(" ", 1) if isinstance(merge, str) else merge
        ranks.setdefault("".join(pair), rank)
    for text, number in model["vocab"].items():
        is_byte = len(text) == 6 and text.startswith("<0x") and text.endswith(">")
        kind = Kind.BYTE if is_byte else Kind.UNKNOWN if text == model.get("unk_token") else Kind.NORMAL
        score = 0.0 if kind is not Kind.NORMAL or len(text) == 1 else -float(ranks.get(text, len(ranks)))
        vocabulary.put(number, text, kind, score, what="tokenizer.json")
    for added in raw.get("added_tokens") or ():
        kind = added_kind(added["content"], special=bool(added.get("special")))
        if added["content"] == model.get("unk_token"):
            kind = Kind.UNKNOWN
        vocabulary.put(added["id"], added["content"], kind, _ADDED_SCORE, what="tokenizer.json")
    return vocabulary


def _parts(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The normalizers or pre-tokenizers of a sequence, or the one that there is."""
    if part is not None:
        yield part
        for inner in (*(part.get("normalizers") or ()), *(part.get("pretokenizers") or ())):
            yield from _parts(inner)


def _puts_space(part: Mapping[str, Any]) -> bool:
    """Whether a part of tokenizer.json puts a space before a text."""
    if part.get("type") == "Metaspace":  # earlier releases of tokenizers write a flag
        return str(part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never")) != "never"
    return part.get("type") == "Prepend" and part.get("prepend") == _SPACE
