"""A model that can be asked, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from ingot.validate.result import Subject

if TYPE_CHECKING:
    import torch

#: Is told of every number of samples that were done.
Progress = Callable[[int], None]


class Unsupported(Exception):
    """This kind of model cannot be asked that; `str(error)` says why. Caught by `run`, noted as left out."""


class Model(Protocol):
    """Reference or candidate, open. Calls come from one thread. Any may raise Unsupported."""

    @property
    def subject(self) -> Subject: ...

    def render(self, prompt: str, *, chat: bool) -> str:
        """The prompt as the model reads it: through its chat template with the answer begun, or as it is."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids. `special`: add the special tokens that the tokenizer puts around plain text."""

    def decode(self, token: int) -> str: ...

    @property
    def prefix(self) -> int:
        """The token before a text that has nothing before it: the tokenizer's BOS, or its EOS where there is none."""

    @property
    def context(self) -> int | None:
        """Most tokens that the model reads at once (max_position_embeddings); None where nobody says."""

    @property
    def columns(self) -> int:
        """Logits of a token."""

    @property
    def vocabulary(self) -> int:
        """One more than the largest token id that the tokenizer makes; logits beyond are padding."""

    def logits(self, rows: Sequence[Sequence[int]], progress: Progress) -> Iterator[torch.Tensor]:
        """float32 logits[tokens, vocabulary] on the CPU for each row of token ids, in order."""

    def answers(self, prompts: Sequence[str], *, chat: bool, new_tokens: int) -> list[str]:
        """Greedy answers to one batch of prompts as decoded: not stripped, special tokens left out."""

    def close(self) -> None:
        """Free the memory; idempotent."""
