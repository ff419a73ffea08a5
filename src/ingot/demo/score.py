"""Greedy answers to prompts, through the chat template; one is right when it contains the expected text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.demo.assets import Sample

if TYPE_CHECKING:
    import torch

_BATCH = 64
_NEW_TOKENS = 64


@dataclass(frozen=True)
class Score:
    """Answers in the order of the samples, and how many contain what was expected."""

    answers: tuple[str, ...]
    right: int

    @property
    def percent(self) -> float:
        return 100 * self.right / len(self.answers)


def load(model: Path, adapter: Path | None = None) -> torch.nn.Module:
    """A model in the dtype of its files; with `adapter` applied by PEFT, unmerged."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    no_bar: Callable[[], None] = logging.disable_progress_bar
    no_bar()
    loaded: torch.nn.Module = AutoModelForCausalLM.from_pretrained(model, dtype="auto", local_files_only=True)
    if adapter is not None:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(loaded, str(adapter))
    return loaded.eval()


def score(
    model: torch.nn.Module, tokenizer_path: Path, samples: Sequence[Sample], progress: Callable[[int], None]
) -> Score:
    """Answer every sample. `progress` is told of each number of answers."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_path, padding_side="left", local_files_only=True)
    answers: list[str] = []
    for first in range(0, len(samples), _BATCH):
        batch = [sample.prompt for sample in samples[first : first + _BATCH]]
        answers += _answer(model, tokenizer, batch)
        progress(len(batch))
    right = sum(sample.expected in answer for sample, answer in zip(samples, answers, strict=True))
    return Score(tuple(answers), right)


def _answer(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    import torch

    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    # subtle: the template writes the special tokens itself
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=_NEW_TOKENS)
    width = inputs["input_ids"].shape[1]
    return [str(text).strip() for text in tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)]
