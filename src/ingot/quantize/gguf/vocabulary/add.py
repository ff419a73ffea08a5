"""The tokenizer's keys: tokens, special ids, what is put before a text, the chat template."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.errors import BaseError
from ingot.quantize.gguf.foreign import read_as
from ingot.quantize.gguf.vocabulary.byte_level import adds_first, read_byte_level
from ingot.quantize.gguf.vocabulary.pieces import MODEL_FILE, read_converted, read_model
from ingot.quantize.gguf.vocabulary.tokens import Vocabulary, read_json

if TYPE_CHECKING:
    from gguf import GGUFWriter

#: Model types whose SentencePiece tokenizer puts no space before a text, whatever the files say.
_NO_PREFIX = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text"})


def add_vocabulary(writer: GGUFWriter, directory: Path, config: Mapping[str, Any], *, pre: str | None) -> Vocabulary:
    """Add `tokenizer.*` from the tokenizer's files in `directory`.

    Args:
        config: config.json of the model, parsed; its vocab_size is the embedding's number of rows.
        pre: the pre-tokenizer's name in llama.cpp, where the user gave one.

    Raises:
        BaseError: no tokenizer, or one of a kind that GGUF does not have.
        MismatchError: tokenizer and embedding disagree.
        MissingComponent: a library of the `gguf` extra is not installed.
    """
    with read_as("the tokenizer", where="the tokenizer's files"):
        return _add(writer, directory, config, pre)


def _add(writer: GGUFWriter, directory: Path, config: Mapping[str, Any], pre: str | None) -> Vocabulary:
    from gguf import SpecialVocab

    vocabulary = _read(directory, int(config["vocab_size"]), pre)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.texts)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    writer.add_token_types([int(kind) for kind in vocabulary.kinds])
    logging.getLogger("gguf.vocab").setLevel(logging.ERROR)
    special = SpecialVocab(directory, load_merges=vocabulary.model == "gpt2", n_vocab=len(vocabulary.texts))
    if vocabulary.model == "gpt2" and "bos" not in special.add_special_token:
        # subtle: some of llama.cpp's pre-tokenizers put a BOS before every text unless this key says no
        first = adds_first(directory)
        special.add_special_token["bos"] = first is not None and first == special.special_token_ids.get("bos")
    special.add_to_gguf(writer, quiet=True)
    settings = read_json(directory / "tokenizer_config.json") or {}
    if vocabulary.model == "llama" and config.get("model_type") in _NO_PREFIX:
        writer.add_add_space_prefix(False)
    elif vocabulary.model == "llama" and settings.get("add_prefix_space") is not None:
        writer.add_add_space_prefix(bool(settings["add_prefix_space"]))
    elif vocabulary.model == "llama" and not vocabulary.spaced:  # llama.cpp puts one unless this key says no
        writer.add_add_space_prefix(False)
    return vocabulary


def _read(directory: Path, size: int, pre: str | None) -> Vocabulary:
    if (directory / MODEL_FILE).is_file():
        return read_model(directory, size)
    raw = read_json(directory / "tokenizer.json")
    if raw is None:
        names = ", ".join(sorted(path.name for path in directory.iterdir()))
        raise BaseError(
            "the model has no tokenizer that GGUF can take", expected=f"{MODEL_FILE} or tokenizer.json", found=names,
            hint="Save the tokenizer beside the model: AutoTokenizer.from_pretrained(...).save_pretrained(...).",
        )  # fmt: skip
    model = raw.get("model") or {}
    if model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise BaseError(
            "the tokenizer is of a kind that is not written to GGUF here", where="model.type in tokenizer.json",
            expected="BPE", found=model.get("type"), hint="Give a checkout of llama.cpp with --llama-cpp DIR.",
        )  # fmt: skip
    return read_converted(raw, size) if model.get("byte_fallback") else read_byte_level(directory, raw, size, pre)
