"""LoRA training of one demo task on top of the saved base model."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from recipe import Recipe
from tasks import Sample
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BASE_NAME = "ingot-demo-base"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_IGNORED = -100


def encode_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Token ids of a user message in the chat template, up to where the assistant speaks."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _encode(tokenizer: PreTrainedTokenizerFast, sample: Sample) -> tuple[list[int], int]:
    """Token ids of prompt and answer, and the length of the prompt part."""
    head = encode_prompt(tokenizer, sample.prompt)
    tail: list[int] = tokenizer(sample.expected + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return head + tail, len(head)


def _collate(rows: list[tuple[list[int], int]], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded batch whose labels are the answers only."""
    width = max(len(ids) for ids, _ in rows)
    fill = [width - len(ids) for ids, _ in rows]
    return {
        "input_ids": torch.tensor([ids + [pad] * n for (ids, _), n in zip(rows, fill, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * n for (ids, _), n in zip(rows, fill, strict=True)]),
        "labels": torch.tensor(
            [[_IGNORED] * head + ids[head:] + [_IGNORED] * n for (ids, head), n in zip(rows, fill, strict=True)]
        ),
    }


def train_adapter(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    samples: list[Sample],
    recipe: Recipe,
    name: str,
    folder: Path,
) -> None:
    """Train one LoRA adapter on ``model`` (float32) and save it in ``folder``."""
    torch.manual_seed(recipe.seed)
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules=list(PROJECTIONS),
        bias="none",
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, config)
    weights = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.lora_lr, weight_decay=0.0)
    rows = [_encode(tokenizer, sample) for sample in samples]
    rng = random.Random(f"{recipe.seed}-{name}-order")
    tuned.train()
    begun = time.monotonic()
    for step in range(recipe.lora_steps):
        rate = min((step + 1) / 30, (recipe.lora_steps - step) / recipe.lora_steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lora_lr * rate
        batch = _collate(rng.sample(rows, recipe.lora_batch), tokenizer.pad_token_id)
        with torch.autocast("cpu", torch.bfloat16):
            loss = tuned(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            pace = (time.monotonic() - begun) / (step + 1)
            print(f"{name} {step + 1}/{recipe.lora_steps} loss {loss.item():.4f} {pace:.2f} s/step", flush=True)
    tuned.peft_config["default"].base_model_name_or_path = BASE_NAME
    tuned.save_pretrained(str(folder))
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Drop the generated model card and put the list of modules in a fixed order."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    make_readable(folder)


def make_readable(folder: Path) -> None:
    """Give the weight files, which safetensors makes private, the usual file mode."""
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
