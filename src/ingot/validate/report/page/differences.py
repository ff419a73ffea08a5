"""Two texts as parts that are alike and parts that differ; long texts as the piece where they part."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

#: Characters of an answer that are shown, and those of them before the first difference.
MOST_SHOWN, _LEAD = 1500, 300
#: Comparing costs the product of both lengths.
_MOST_WORDS = 500
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True)
class Part:
    """`cut` says what was left out."""

    kind: Literal["same", "differs", "cut"]
    text: str


def differences(ours: str, theirs: str) -> tuple[list[Part], list[Part]]:
    """Both texts, word by word; of long ones the piece around the first difference."""
    begin = max(0, first_difference(ours, theirs) - _LEAD)
    if len(ours) <= MOST_SHOWN and len(theirs) <= MOST_SHOWN:
        begin = 0
    pieces = ours[begin : begin + MOST_SHOWN], theirs[begin : begin + MOST_SHOWN]
    left, right = _compared(*pieces)
    return _framed(left, begin, len(ours)), _framed(right, begin, len(theirs))


def first_difference(ours: str, theirs: str) -> int:
    """The place of the first character that is not the same; the shorter length where one begins with the other."""
    pairs = zip_longest(ours, theirs)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), len(ours))


def excerpt(text: str, most: int) -> list[Part]:
    """Both ends of a long text: a prompt's question stands at its end."""
    if len(text) <= most:
        return [Part("same", text)] if text else []
    half = most // 2
    return [
        Part("same", text[:half]),
        Part("cut", f" […{len(text) - 2 * half:,} characters…] "),
        Part("same", text[len(text) - half :]),
    ]


def _compared(ours: str, theirs: str) -> tuple[list[Part], list[Part]]:
    words, others = _WORDS.findall(ours), _WORDS.findall(theirs)
    if max(len(words), len(others)) > _MOST_WORDS:
        return _from_there(ours, theirs), _from_there(theirs, ours)
    left: list[Part] = []
    right: list[Part] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        said: Literal["same", "differs"] = "same" if kind == "equal" else "differs"
        left += _part(said, words[a:b])
        right += _part(said, others[c:d])
    return left, right


def _part(kind: Literal["same", "differs"], words: Sequence[str]) -> list[Part]:
    return [Part(kind, "".join(words))] if words else []


def _from_there(text: str, other: str) -> list[Part]:
    """Everything from the first difference on."""
    at = first_difference(text, other)
    return [*_part("same", [text[:at]] if at else []), *_part("differs", [text[at:]] if text[at:] else [])]


def _framed(parts: list[Part], begin: int, length: int) -> list[Part]:
    """With how much was cut before and after. An answer that ended before the piece has a word of that, too."""
    shown = sum(len(part.text) for part in parts)
    before, after = min(begin, length), max(0, length - begin - shown)
    head = [Part("cut", f"[{before:,} characters before, alike] ")] if before else []
    tail = [Part("cut", f" [{after:,} characters more]")] if after else []
    return [*head, *parts, *tail]
