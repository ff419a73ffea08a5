"""Pre-tokenizers: known by their rules, whatever the vocabulary; what llama.cpp does not have is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from ingot.errors import BaseError, UsageError
from ingot.quantize.gguf.vocabulary.splits import known_names, pre_tokenizer

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def bytes_only() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern: str) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_only()])


def raw(inner: Any, *, ignore_merges: bool = False) -> dict[str, Any]:
    """tokenizer.json as the tokenizers library writes it."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = inner
    parsed: dict[str, Any] = json.loads(tokenizer.to_str())
    return parsed


@pytest.mark.parametrize(
    ("inner", "ignore_merges", "name"),
    [
        (split(LLAMA3), True, "llama-bpe"),
        (split(LLAMA3), False, "dbrx"),
        (split(CL100K), False, "dbrx"),
        (split(QWEN2), False, "qwen2"),
        (pre_tokenizers.ByteLevel(add_prefix_space=False), False, "gpt-2"),
        (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()]), False,
         "starcoder"),
    ],
)  # fmt: skip
def test_a_tokenizer_is_known_by_its_rules(inner: Any, ignore_merges: bool, name: str) -> None:
    assert pre_tokenizer(raw(inner, ignore_merges=ignore_merges), None) == name


def test_unknown_rules_are_an_error_that_names_the_choices_and_can_be_overruled() -> None:
    strange = raw(split(r"\d+|\w+"))
    with pytest.raises(BaseError, match="that no pre-tokenizer") as caught:
        pre_tokenizer(strange, None)
    assert "--pre" in str(caught.value.hint)
    assert all(name in str(caught.value) for name in ("llama-bpe", "qwen2", "gpt-2"))
    assert pre_tokenizer(strange, "qwen2") == "qwen2"


def test_a_name_that_llama_cpp_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="no such pre-tokenizer"):
        pre_tokenizer(raw(split(LLAMA3)), "llama-3-new")


def test_names_are_those_of_llama_cpp() -> None:
    assert {"default", "falcon", "gpt-4o", "tekken", "smollm"} <= set(known_names())
