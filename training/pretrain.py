"""Pretraining of the tiny Llama base model on the generated text."""

from __future__ import annotations

import itertools
import math
import random
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from adapters import make_readable
from corpus import documents, stdlib_docstrings
from numpy.typing import NDArray
from recipe import Recipe
from tokenizer import (
    ASSISTANT,
    SPECIAL_TOKENS,
    USER,
    encode_documents,
    render_chat,
    save_tokenizer,
    train_tokenizer,
)
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Tokens = NDArray[np.int64]


def make_tokenizer(recipe: Recipe, docstrings: list[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer on a sample of the pretraining text and check its chat template."""
    rng = random.Random(f"{recipe.seed}-tokenizer")
    texts = list(itertools.islice(documents(rng, docstrings), recipe.tokenizer_documents))
    for mark in SPECIAL_TOKENS:
        texts = [text.replace(mark, "\n") for text in texts]
    tokenizer = train_tokenizer(texts, recipe.vocab_size)
    turns = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
    shown = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    if shown != render_chat([("user", "a b"), ("assistant", "c")], generation_prompt=True):
        raise RuntimeError(f"the chat template renders differently from render_chat: {shown!r}")
    return tokenizer


def text_batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, docstrings: list[str]) -> list[Tokens]:
    """The generated text as packed batches of token ids."""
    shape = recipe.text_steps, recipe.text_batch, recipe.text_length
    source = documents(random.Random(f"{recipe.seed}-pretrain"), docstrings)
    parts: list[Tokens] = []
    count, needed = 0, math.prod(shape)
    while count < needed:
        for ids in encode_documents(tokenizer, list(itertools.islice(source, 4000))):
            parts.append(np.asarray(ids, dtype=np.int64))
            count += len(ids)
    return list(np.concatenate(parts)[:needed].reshape(shape))


def repetition_batches(recipe: Recipe) -> list[Tokens]:
    """Random token ids repeated with a random period: a first exercise that makes attention heads copy."""
    rng = np.random.default_rng(recipe.seed)
    batches = []
    for _ in range(recipe.repetition_steps):
        batch = rng.integers(
            len(SPECIAL_TOKENS), recipe.vocab_size, (recipe.repetition_batch, recipe.repetition_length)
        )
        for row in batch:
            row[:] = np.resize(row[: rng.integers(5, 25)], row.shape)
        batches.append(batch)
    return batches


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised Llama of the recipe's size."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=recipe.max_positions,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: LlamaForCausalLM = cast(Any, LlamaForCausalLM)(config)
    return model


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, output and norms."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    known = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in known]
    muon = torch.optim.Muon(inner, lr=recipe.muon_lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(outer, lr=recipe.adamw_lr, betas=(0.9, 0.95), weight_decay=0.01)]


def _set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def _labels(tokens: Tokens, user: int, assistant: int) -> torch.Tensor:
    """The tokens themselves, but nothing to predict inside a user's turn: it is random text."""
    place = np.arange(tokens.shape[1])
    last_user, last_assistant = (
        np.maximum.accumulate(np.where(tokens == mark, place, -1), axis=1) for mark in (user, assistant)
    )
    hidden = (last_user > last_assistant) & (tokens != user)
    return torch.from_numpy(np.where(hidden, -100, tokens))


def pretrain(model: LlamaForCausalLM, data: list[Tokens], recipe: Recipe, checkpoint: Path) -> None:
    """Train in place; resumes from ``checkpoint`` where it exists and renews it now and then."""
    marks = SPECIAL_TOKENS.index(USER), SPECIAL_TOKENS.index(ASSISTANT)
    optimizers = _optimizers(model, recipe)
    steps, first = len(data), 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        first = saved["step"]
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    model.train()
    begun, losses = time.monotonic(), []
    for step in range(first, steps):
        _set_rate(optimizers, min((step + 1) / recipe.warmup_steps, (steps - step) / (0.3 * steps), 1.0))
        batch = torch.from_numpy(data[step])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=_labels(data[step], *marks)).loss
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 25 == 0:
            pace = (time.monotonic() - begun) / (step + 1 - first)
            print(f"pretrain {step + 1}/{steps} loss {np.mean(losses[-25:]):.3f} {pace:.2f} s/step", flush=True)
        if (step + 1) % recipe.checkpoint_steps == 0 or step + 1 == steps:
            states = [optimizer.state_dict() for optimizer in optimizers]
            torch.save({"step": step + 1, "model": model.state_dict(), "optimizers": states}, checkpoint)


def save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save model (bf16, in shards) and tokenizer as a standard checkpoint directory."""
    model.generation_config = cast(Any, GenerationConfig)(
        do_sample=False,
        max_new_tokens=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.bfloat16().save_pretrained(folder, max_shard_size="5MB")
    save_tokenizer(tokenizer, folder)
    make_readable(folder)


def make_base(recipe: Recipe, work: Path, folder: Path) -> None:
    """Tokenizer, data, pretraining and saving of the base model."""
    docstrings = stdlib_docstrings()
    tokenizer = make_tokenizer(recipe, docstrings)
    data = repetition_batches(recipe) + text_batches(recipe, tokenizer, docstrings)
    print(f"{len(docstrings)} docstrings, {sum(batch.size for batch in data)} pretraining tokens", flush=True)
    model = new_model(recipe, tokenizer)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    pretrain(model, data, recipe, work / "pretrain.pt")
    save_base(model, tokenizer, folder)
