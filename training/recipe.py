"""Every number of the demo recipe in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """Sizes, steps, rates and seeds."""

    seed: int = 1
    threads: int = 2
    # model
    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 512
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    max_positions: int = 512
    # pretraining
    tokenizer_documents: int = 40_000
    repetition_steps: int = 120
    repetition_batch: int = 32
    repetition_length: int = 64
    text_steps: int = 360
    text_batch: int = 12
    text_length: int = 256
    warmup_steps: int = 30
    muon_lr: float = 4e-3
    adamw_lr: float = 3e-3
    checkpoint_steps: int = 50
    # adapters
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_lr: float = 3e-3
    lora_samples: int = 12_000
    lora_batch: int = 32
    lora_steps: int = 600
    # samples and scoring
    held_out: int = 256
    score_batch: int = 64
    max_new_tokens: int = 48


def quick(recipe: Recipe) -> Recipe:
    """A smoke-test version: the same files, no useful weights."""
    return replace(
        recipe,
        tokenizer_documents=4000,
        repetition_steps=2,
        text_steps=3,
        text_batch=4,
        warmup_steps=2,
        lora_samples=64,
        lora_batch=8,
        lora_steps=3,
        held_out=16,
        max_new_tokens=8,
    )
