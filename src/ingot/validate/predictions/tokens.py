"""Do reference and candidate make the same tokens of the samples, each through its own chat template?

A model that reads other tokens than it was trained on answers worse whatever its weights are. Only tokenizers are
loaded for this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ingot.validate.model import Unsupported
from ingot.validate.models.tokenizer import Tokenizer
from ingot.validate.result import Tokens


class Reads(Protocol):
    """What makes tokens: a `Tokenizer`, or a server that holds one."""

    @property
    def template(self) -> str | None: ...
    def render(self, prompt: str, *, chat: bool) -> str: ...
    def ids(self, prompt: str, *, chat: bool) -> list[int]: ...
    def decode(self, token: int) -> str: ...


def compare_tokens(reference: Tokenizer, candidate: Reads | None, prompts: Sequence[str], *, chat: bool) -> Tokens:
    """Compare the token ids of every prompt, and the vocabularies of two tokenizers. `candidate` None: it has none.

    Raises Unsupported: the reference cannot read the prompts (no chat template, or one that fails).
    """
    same, first = 0, None
    for number, prompt in enumerate(prompts):
        expected = reference.ids(prompt, chat=chat)
        difference = _difference(reference, candidate, prompt, expected, chat)
        same += difference is None
        if difference is not None and first is None:
            first = f"sample {number}: {difference}"
    if first is None and isinstance(candidate, Tokenizer) and (moved := _moved(reference, candidate)):
        first = f"{moved}, although no sample shows it"
    return Tokens(len(prompts), same, first)


def _difference(
    reference: Tokenizer, candidate: Reads | None, prompt: str, expected: list[int], chat: bool
) -> str | None:
    """What differs, in plain words; None where the token ids are the same."""
    if candidate is None:
        return "the candidate has no tokenizer"
    if chat and candidate.template is None:
        return "the candidate has lost the chat template"
    try:
        found = candidate.ids(prompt, chat=chat)
    except Unsupported as reason:
        return str(reason)
    if found == expected:
        return None
    at = next((i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        where = f"{len(expected)} tokens in the reference, {len(found)} in the candidate"
    else:
        ours, theirs = _shown(reference, expected[at]), _shown(candidate, found[at])
        where = f"token {at} is {ours} in the reference, {theirs} in the candidate"
    return f"{_reason(reference, candidate, prompt, chat)}; {where}"


def _reason(reference: Tokenizer, candidate: Reads, prompt: str, chat: bool) -> str:
    if chat and reference.render(prompt, chat=True) != candidate.render(prompt, chat=True):
        return "the chat templates render it differently"
    if isinstance(candidate, Tokenizer):
        moved = _moved(reference, candidate)
        if moved:
            return moved
        if _special(reference) != _special(candidate):
            return "the tokenizers have different special tokens"
    return "the tokenizers cut it differently"


def _moved(reference: Tokenizer, candidate: Tokenizer) -> str | None:
    """What became of the reference's vocabulary; None where the candidate has all of it. Tokens may have been added."""
    ours, theirs = reference.inner.get_vocab(), candidate.inner.get_vocab()
    moved = sum(theirs.get(token) != number for token, number in ours.items())
    if not moved:
        return None
    return f"the tokenizers have different vocabularies ({moved} of {len(ours)} tokens are absent or have another id)"


def _special(tokenizer: Tokenizer) -> object:
    """Which tokens are special, and which are put around plain text."""
    return (
        tokenizer.inner.special_tokens_map,
        sorted(tokenizer.inner.all_special_ids),
        tokenizer.encode("", special=True),
    )


def _shown(tokenizer: Reads, token: int) -> str:
    return f"{token} {tokenizer.decode(token)!r}"
