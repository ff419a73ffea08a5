"""A model that answers by a rule, for tests of what asks it; and the demo's model, asked through transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from ingot.validate.model import Progress, Unsupported
from ingot.validate.result import Subject


class StandIn:
    """Reads bytes as tokens; `rule` answers, and `likes` is the text that it finds likely after anything."""

    prefix = 0
    context: int | None = None

    def __init__(self, rule: Callable[[str], str], *, digest: str | None = "m", likes: str = "") -> None:
        self.subject = Subject("stand-in", "checkpoint", digest, "float32")
        self.rule, self.likes = rule, likes
        self.batches: list[int] = []
        self.fails: Callable[[Sequence[str]], Exception | None] = lambda prompts: None

    def render(self, prompt: str, *, chat: bool) -> str:
        return f"<user>{prompt}<assistant>" if chat else prompt

    def encode(self, text: str, *, special: bool) -> list[int]:
        return [0] * special + list(text.encode())

    def decode(self, token: int) -> str:
        return chr(token)

    def logits(self, rows: Sequence[Sequence[int]], progress: Progress) -> Iterator[torch.Tensor]:
        """Every byte of `likes` has logit 1, the others 0."""
        if not self.likes:
            raise Unsupported("it gives no logits")
        row_logits = torch.zeros(256)
        row_logits[list(self.likes.encode())] = 1.0
        for row in rows:
            yield row_logits.repeat(len(row), 1)
            progress(1)

    def answers(self, prompts: Sequence[str], *, chat: bool, new_tokens: int) -> list[str]:
        fault = self.fails(prompts)
        if fault is not None:
            raise fault
        self.batches.append(len(prompts))
        return [f" {self.rule(prompt)}\n" for prompt in prompts]

    def close(self) -> None:
        pass
