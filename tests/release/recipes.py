"""Recipes for tests."""

from __future__ import annotations

from pathlib import Path

from ingot.release.recipe import Recipe, read_recipe

SMALL = """\
ingot: 1
base: org/llama-3-8b
adapters: [./support-lora]
formats: [safetensors]
"""

WHOLE = """\
# a recipe with every key
ingot: 1
name: support-assistant
version: "1.4"
base: {model: org/llama-3.1-8b, revision: main, version: "3.1"}
adapters:
  - adapter: ./support-lora
    weight: 0.5
    version: v3
    training_run: wandb:team/project/runs/abc123
  - org/tone-lora@v2
merge:
  method: della
  dtype: bf16
  rounding: stochastic
  seed: 7
  density: 0.4
  lambda: 1.5
  majority_sign: frequency
  epsilon: 0.1
  take: [support-lora]
  component: unet
  expert_layout: unsloth
  base_as: nf4
  assume_peft_version: "0.18"
  accept_missing: true
  accept_nonfinite_base: true
formats:
  - safetensors
  - format: gguf:q4_k_m
    pre: llama-bpe
    split_size: 4G
    gates: {max_kl: 0.2}
  - format: gguf:Q2_K
    accept_quality_loss: true
validate:
  samples: [tests.jsonl, "dates=dates.jsonl:exact", "own=own.jsonl:score.py:judge"]
  metric: contains
  chat: true
  new_tokens: 32
  tasks: [gsm8k]
  tasks_dir: ./tasks
  tasks_limit: 10
  gates: {max_score_drop: 0.03, max_kl: 0.07, min_top1: 0.8, min_survival: 0.7}
  seed: 3
publish:
  registry: ./registry
  tags: [candidate, "{format}-latest"]
  keep_adapters: true
  push: ["hf://org/{name}"]
"""


def written(directory: Path, text: str = SMALL, name: str = "release.yaml") -> Path:
    """A recipe's file."""
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def read(directory: Path, text: str = SMALL) -> Recipe:
    return read_recipe(written(directory, text))
