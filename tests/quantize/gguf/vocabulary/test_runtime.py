# ruff: noqa: E501 - lists of texts
"""llama.cpp makes the tokens of a text, from the file, that the file's own tokenizer makes of it."""

from __future__ import annotations

import io
import json
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from ingot.merge import prepare
from ingot.plan.model import GgufOptions, Options
from tests.quantize.gguf.models import FILES, SAMPLES, save_model
from tests.quantize.gguf.runtime import Running
from tests.quantize.gguf.vocabulary.test_splits import CL100K, LLAMA3, QWEN2, split

BIG, SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = f"{BIG}*{SMALL}+", f"{BIG}+{SMALL}*"
ENDS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = "|".join(rf"[^\r\n\p{{L}}\p{{N}}]?{words}" for words in CASED) + r"|\p{N}" + ENDS
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O = "|".join(rf"[^\r\n\p{{L}}\p{{N}}]?{words}{CONTRACTION}" for words in CASED) + r"|\p{N}{1,3}" + ENDS
#: Rules -> the parts of tokenizer.json, and whether merges are skipped for words that are tokens.
RULES: dict[str, tuple[Any, bool]] = {
    "llama-bpe": (split(LLAMA3), True),
    "dbrx": (split(CL100K), False),
    "qwen2": (split(QWEN2), False),
    "tekken": (split(TEKKEN), True),
    "gpt-4o": (split(GPT4O), False),
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    "starcoder": (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]),
        False,
    ),
    "falcon": (
        pre_tokenizers.Sequence([
            pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(False),
            pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ]), False,
    ),
}  # fmt: skip
#: llama.cpp's rules of these have no class of marks: it splits words that have one where the tokenizer does not.
WITHOUT_MARKS = ("tekken", "gpt-4o")
#: Its rules of this one take a space into a number, which no token of a Falcon, trained by its own rules, does.
BY_ITS_OWN_RULES = ("falcon",)
SPECIAL = ("<pad>", "<s>", "</s>", "<|user|>")
_POOL = (
    "aeinst", "AEST", "0123456789", "   ", "\t\n\r\n", ".,;:!?", "'\"()[]{}", "-_/\\+*=#@", "\u00e9\u00fc\u00df\u00f1",
    "\u0434\u0436\u042f", "\u4f60\u597d\u6f22", "\u0645\u0631\u062d", "\u0939\u093f\u0928\u094d", "\u0e01\u0e33",
    "\U0001f642\U0001f468\u200d", "\u0301\u0308", "\u00a0\u2003\u200b", "\u00bd\u2167\u0663", "'s'LL",
)  # fmt: skip


def texts() -> list[str]:
    """By hand, and at random out of all kinds of characters."""
    state = np.random.RandomState(5)
    by_hand = [
        "", " ", "   ", "a", " a", "  two  spaces  ", "tabs\tand\n\nlines\r\n", "It's I'LL we'Ve don'T 's",
        "0 12 345 6789 12345678", "1,234.56 + 7e-8", "na\u00efve caf\u00e9", "cafe\u0301", "\u4f60\u597d\uff0c\u4e16\u754c",
        "\U0001f642\U0001f468\u200d\U0001f469", "CamelCaseWORDS andSo", "x\u00a0y\u200bz", "https://a.b/c?d=e&f",
        "    indented\n        more", "<s>between</s><|user|> and <pad>",
    ]  # fmt: skip
    mixed = [
        "".join(pool[state.randint(len(pool))] for pool in (_POOL[state.randint(len(_POOL))] for _ in range(24)))
        for _ in range(60)
    ]
    return by_hand + mixed


def corpus() -> Iterator[str]:
    for file in sorted(SAMPLES.glob("*.jsonl")):
        yield from file.read_text(encoding="utf-8").splitlines()
    yield from texts()


def run(directory: Path, tmp_path: Path) -> Running:
    """A model with the tokenizer's files that are in `directory`, as GGUF."""
    base = save_model("llama", tmp_path / "base", torch.bfloat16)
    for name in FILES:
        (base / name).unlink(missing_ok=True)
    shutil.copytree(directory, base, dirs_exist_ok=True)
    with prepare(str(base), [], Options(gguf=GgufOptions(("Q8_0",))), target=tmp_path / "made") as job:
        job.run()
    return Running(next((tmp_path / "made").glob("*.gguf")))


def save(tokenizer: Tokenizer, directory: Path, **config: Any) -> Path:
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


@pytest.mark.parametrize("name", RULES)
def test_byte_level_tokens_are_the_same_by_each_of_the_splitting_rules(name: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE(ignore_merges=RULES[name][1]))
    # merges go across all that the rules split, so a word that is split otherwise makes other tokens
    across = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r".{1,9}"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False),
    ])  # fmt: skip
    tokenizer.pre_tokenizer = RULES[name][0] if name in BY_ITS_OWN_RULES else across
    trainer = trainers.BpeTrainer(
        vocab_size=1800, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.pre_tokenizer = RULES[name][0]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    running = run(save(tokenizer, tmp_path / "tokenizer"), tmp_path)
    for text in texts():
        if name in WITHOUT_MARKS and any(unicodedata.category(character)[0] == "M" for character in text):
            continue
        assert running.tokens(text) == tokenizer.encode(text).ids, text
        assert running.tokens(text, special=False) == tokenizer.encode(text, add_special_tokens=False).ids, text


def test_the_demos_tokens_and_its_chat_template_are_the_same(tmp_path: Path) -> None:
    base = save_model("llama", tmp_path / "model", torch.bfloat16)
    files = tmp_path / "files"
    files.mkdir()
    for name in FILES:
        if (base / name).exists():
            shutil.copy(base / name, files / name)
    running, tokenizer = run(files, tmp_path), AutoTokenizer.from_pretrained(base)
    for text in texts():
        assert running.tokens(text) == tokenizer.encode(text), text
        messages = [{"role": "user", "content": text}]
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert running.chat(text) == expected


def pieces(*, prefix: bool) -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece model as Llama's and Gemma's are: bytes for what it does not know, spaces as they stand."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for line in corpus() if line), model_writer=model, vocab_size=900, model_type="bpe",
        byte_fallback=True, pad_id=0, bos_id=1, eos_id=2, unk_id=3, num_threads=1, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefix,
        user_defined_symbols=["<|user|>"], hard_vocab_limit=False, allow_whitespace_only_pieces=True,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.mark.parametrize("prefix", [True, False])
def test_the_tokens_of_a_sentencepiece_model_are_the_same(prefix: bool, tmp_path: Path) -> None:
    processor = pieces(prefix=prefix)
    directory = tmp_path / "tokenizer"
    directory.mkdir()
    (directory / "tokenizer.model").write_bytes(processor.serialized_model_proto())
    running = run(directory, tmp_path)
    for text in texts():
        if not any(special in text for special in SPECIAL):  # sentencepiece takes those for text
            assert running.tokens(text) == [1, *processor.encode(text)], text


@pytest.mark.parametrize("prefix", [True, False])
def test_the_tokens_of_a_converted_sentencepiece_model_are_the_same(prefix: bool, tmp_path: Path) -> None:
    tokenizer = converted(pieces(prefix=prefix), prefix=prefix)
    running = run(save(tokenizer, tmp_path / "tokenizer"), tmp_path)
    for text in texts():
        assert running.tokens(text) == tokenizer.encode(text).ids, text
        assert running.tokens(text, special=False) == tokenizer.encode(text, add_special_tokens=False).ids, text


def converted(processor: sentencepiece.SentencePieceProcessor, *, prefix: bool) -> Tokenizer:
    """tokenizer.json as transformers makes it of a Llama's SentencePiece model: a merge for each pair of pieces that is
    a piece, the best first."""
    vocabulary = {processor.id_to_piece(number): number for number in range(processor.get_piece_size())}
    merges = [
        (left, piece[len(left) :])
        for piece, _ in sorted(vocabulary.items(), key=lambda pair: -processor.get_score(pair[1]))
        for left in (piece[:cut] for cut in range(1, len(piece)))
        if left in vocabulary and piece[len(left) :] in vocabulary and processor.get_score(vocabulary[piece]) != 0
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    spaces = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces]) if prefix else spaces
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<pad>", "<s>", "</s>", "<|user|>")])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer
