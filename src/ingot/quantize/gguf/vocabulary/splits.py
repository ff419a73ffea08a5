"""Which of llama.cpp's pre-tokenizers splits text as a tokenizer.json does.

llama.cpp names a pre-tokenizer, and the name decides its regular expressions. Its converter finds the name by a hash of
token ids, which differs for every new vocabulary; here the splitting rules themselves are compared, so that a tokenizer
trained anew with known rules is known. Source of the rules: `llm_tokenizer_bpe` of llama.cpp's llama-vocab.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ingot.errors import BaseError, UsageError

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_HEAD = r"[^\r\n\p{L}\p{N}]?"
_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_BY_THREES = f"{_CONTRACTION}|{_WORDS}|\\p{{N}}{{1,3}}|{_REST}"
_BY_ONES = f"{_CONTRACTION}|{_WORDS}|\\p{{N}}|{_REST}"
_CASED = f"{_HEAD}{_LOWER}|{_HEAD}{_UPPER}|\\p{{N}}|{_PATHS}"
_CASED_CONTRACTIONS = f"{_HEAD}{_LOWER}{_CONTRACTION}?|{_HEAD}{_UPPER}{_CONTRACTION}?|\\p{{N}}{{1,3}}|{_PATHS}"
_GPT2 = "gpt-2"

#: The rules, in order, with whether merges are skipped for words that are tokens -> llama.cpp's name.
_NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((f"split {_BY_THREES}",), True): "llama-bpe",
    ((f"split {_BY_THREES}",), False): "dbrx",
    ((f"split {_BY_ONES}",), False): "qwen2",
    ((f"split {_CASED}",), True): "tekken",
    ((f"split {_CASED_CONTRACTIONS}",), False): "gpt-4o",
    ((_GPT2,), False): "gpt-2",
    (("digits", _GPT2), False): "starcoder",
    (("punctuation", _GPT2, "digit runs", "split [0-9][0-9][0-9]"), False): "falcon",
}
#: Names that `--pre` takes beside those: their rules are those of one above, or are not written in tokenizer.json.
_MORE = ("command-r", "deepseek-coder", "deepseek-llm", "deepseek-v3", "default", "glm4", "mpt", "olmo", "refact",
         "smaug-bpe", "smollm", "stablelm2")  # fmt: skip


def known_names() -> tuple[str, ...]:
    """What `--pre` takes."""
    return tuple(sorted({*_NAMES.values(), *_MORE}))


def pre_tokenizer(tokenizer: Mapping[str, Any], asked: str | None) -> str:
    """llama.cpp's name of the pre-tokenizer of a parsed tokenizer.json; `asked` is what the user said.

    Raises:
        UsageError: `asked` is no name.
        BaseError: the rules are none that llama.cpp has, and nothing was asked.
    """
    if asked is not None:
        if asked not in known_names():
            raise UsageError(
                "llama.cpp has no such pre-tokenizer", found=repr(asked), expected=", ".join(known_names()),
                hint="Leave --pre out: the name is mostly told by tokenizer.json.",
            )  # fmt: skip
        return asked
    rules = tuple(_rules(tokenizer.get("pre_tokenizer") or {}))
    ignores_merges = bool((tokenizer.get("model") or {}).get("ignore_merges"))
    name = _NAMES.get((rules, ignores_merges))
    if name is None:
        raise BaseError(
            "the tokenizer splits text in a way that no pre-tokenizer of llama.cpp is known to",
            where="pre_tokenizer in tokenizer.json",
            found="; ".join(rules) or "no rules",
            expected=", ".join(known_names()),
            hint="If you know which one is right, say so with --pre NAME; the wrong one gives other tokens.",
        )
    return name


def _rules(part: Mapping[str, Any]) -> Iterator[str]:
    """The splitting rules of a pre-tokenizer, each in a spelling of its own, in the order in which they apply."""
    kind = part.get("type")
    if kind == "Sequence":
        for inner in part.get("pretokenizers") or ():
            yield from _rules(inner)
    elif kind == "Split":
        pattern = part.get("pattern") or {}
        yield f"split {_plain(str(pattern.get('Regex', pattern.get('String'))))}"
    elif kind == "Digits":
        yield "digits" if part.get("individual_digits") else "digit runs"
    elif kind == "Punctuation":
        yield "punctuation"
    elif kind == "ByteLevel":
        if part.get("use_regex", True):
            yield _GPT2
    elif kind is not None:
        yield str(kind)


def _plain(pattern: str) -> str:
    """Without possessive quantifiers, which change speed alone here: `?+` as `?`, `++` as `+`."""
    plain = re.sub(r"([?*+])\+", r"\1", pattern)
    # cl100k's rule for line ends takes one at a time, to the same words: the runs of them are one rule before it
    return plain.replace(r"\s*[\r\n]|", r"\s*[\r\n]+|")
