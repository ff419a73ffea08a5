"""Greedy generation and the demo metric: the answer contains the expected text."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

import torch
from adapters import encode_prompt
from corpus_chat import chat_pair
from peft import PeftModel
from recipe import Recipe
from tasks import TASKS, Sample
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

Scores = dict[str, dict[str, float]]


def load_base(folder: Path, dtype: torch.dtype) -> LlamaForCausalLM:
    """The saved base model, from disk."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
    model.train(False)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The saved tokenizer, from disk."""
    return cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder))


def answers(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, prompts: list[str], recipe: Recipe
) -> list[str]:
    """Greedy answers to user messages, stripped."""
    found: list[str] = []
    pad = tokenizer.pad_token_id
    for start in range(0, len(prompts), recipe.score_batch):
        rows = [encode_prompt(tokenizer, prompt) for prompt in prompts[start : start + recipe.score_batch]]
        width = max(map(len, rows))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            out = cast(Any, model).generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=recipe.max_new_tokens
            )
        found.extend(text.strip() for text in tokenizer.batch_decode(out[:, width:], skip_special_tokens=True))
    return found


def score(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, samples: list[Sample], recipe: Recipe, show: int = 0
) -> float:
    """Share of the samples, in percent, whose answer contains the expected text."""
    replies = answers(model, tokenizer, [sample.prompt for sample in samples], recipe)
    wrong = [(s, reply) for s, reply in zip(samples, replies, strict=True) if s.expected not in reply]
    for sample, reply in wrong[:show]:
        print(f"  wrong: {sample.prompt!r} -> {reply!r}, expected {sample.expected!r}", flush=True)
    return round(100 * (1 - len(wrong) / len(samples)), 2)


def score_all(base: Path, adapters: Path, held_out: dict[str, list[Sample]], recipe: Recipe) -> Scores:
    """Scores in bf16: base, each adapter on each task, and each merged model on each task."""
    tokenizer = load_tokenizer(base)
    dtype = torch.bfloat16

    def row(model: torch.nn.Module, show: int = 0) -> dict[str, float]:
        return {task: score(model, tokenizer, samples, recipe, show) for task, samples in held_out.items()}

    model = load_base(base, dtype)
    scores: Scores = {"base": row(model, show=3)}
    rng = random.Random(f"{recipe.seed}-skills")
    pairs = [Sample(*chat_pair(rng)) for _ in range(recipe.held_out)]
    scores["base"]["pretraining skills"] = score(model, tokenizer, pairs, recipe, show=8)
    for task in TASKS:
        tuned = PeftModel.from_pretrained(load_base(base, dtype), adapters / task).eval()
        scores[f"base + {task} adapter"] = row(tuned, show=5)
        merged = tuned.merge_and_unload()
        scores[f"{task} merged (PEFT, bf16)"] = row(merged)
    return scores
