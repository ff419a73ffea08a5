"""What `Whole` and `Streamed` have in common: a model of transformers and the tokenizer that came with its files."""

from __future__ import annotations

from typing import Any

from ingot.validate.models.sources import context_of
from ingot.validate.models.tokenizer import Tokenizer


class Stored:
    """The part of `Model` that needs no weights."""

    tokenizer: Tokenizer
    _model: Any

    @property
    def columns(self) -> int:
        """Logits of a token: rows of the output embedding."""
        return int(self._model.get_output_embeddings().weight.shape[0])

    @property
    def prefix(self) -> int:
        return self.tokenizer.prefix

    @property
    def context(self) -> int | None:
        return context_of(self._model.config)

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.count

    def render(self, prompt: str, *, chat: bool) -> str:
        return self.tokenizer.render(prompt, chat=chat)

    def encode(self, text: str, *, special: bool) -> list[int]:
        return self.tokenizer.encode(text, special=special)

    def decode(self, token: int) -> str:
        return self.tokenizer.decode(token)
