"""A small model of every family that is written to GGUF, wide enough for blocks of 256, with the demo's tokenizer."""

from __future__ import annotations

import functools
import io
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import ingot.demo
from tests.oracle.reference import unheard
from tests.tiny_models import build

DATA = Path(ingot.demo.__file__).parent / "data"
TOKENIZER, SAMPLES = DATA / "ingot-demo-base", DATA / "samples"
#: What belongs to the tokenizer there.
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")

SIZES: dict[str, Any] = {
    "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WITH_HEAD_DIM = {**SIZES, "head_dim": 64}
GEMMA = {**WITH_HEAD_DIM, "query_pre_attn_scalar": 64}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "long_factor": [1.0 + i / 8 for i in range(32)],
    "short_factor": [1.0 + i / 64 for i in range(32)], "original_max_position_embeddings": 128,
}  # fmt: skip
#: Name -> model class, config class, settings.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", SIZES),
    "llama3": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "rope_parameters": LLAMA3_ROPE}),
    "llama_tied": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "tie_word_embeddings": True}),
    "llama_narrow": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "hidden_size": 320, "intermediate_size": 448}),
    "mistral": ("MistralForCausalLM", "MistralConfig", SIZES),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**SIZES, "vocab_size": 2304}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", WITH_HEAD_DIM),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig",
        {**SIZES, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
         "shared_expert_intermediate_size": 256},
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig",
        {**WITH_HEAD_DIM, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
         "norm_topk_prob": True},
    ),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", WITH_HEAD_DIM),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", GEMMA),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", SIZES),
    "phi3_long": ("Phi3ForCausalLM", "Phi3Config", {**SIZES, "rope_parameters": LONG_ROPE}),
    "granite": (
        "GraniteForCausalLM", "GraniteConfig",
        {**SIZES, "attention_multiplier": 0.1, "embedding_multiplier": 2.0, "residual_multiplier": 0.5,
         "logits_scaling": 4.0},
    ),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", SIZES),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", SIZES),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config", SIZES),
    "falcon": (
        "FalconForCausalLM", "FalconConfig",
        {"vocab_size": 2048, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2,
         "new_decoder_architecture": True, "bias": False, "parallel_attn": True, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "falcon_multi_query": (
        "FalconForCausalLM", "FalconConfig",
        {"vocab_size": 2048, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True,
         "bias": False, "parallel_attn": True, "new_decoder_architecture": False, "bos_token_id": 1, "eos_token_id": 2},
    ),
}  # fmt: skip
_GEMMA3_LINEAR = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
_LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
_YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 128}
#: Settings of these families that no record holds; llama.cpp runs them (`test_runtime`).
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama_bias": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "attention_bias": True, "mlp_bias": True}),
    "llama_head_dim": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "head_dim": 32}),
    "llama_linear": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "rope_parameters": _LINEAR}),
    "llama_yarn": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "rope_parameters": _YARN}),
    "qwen3_tied": ("Qwen3ForCausalLM", "Qwen3Config", {**WITH_HEAD_DIM, "tie_word_embeddings": True}),
    "gemma2_window": ("Gemma2ForCausalLM", "Gemma2Config", {**GEMMA, "sliding_window": 16}),
    "gemma3_window": (
        "Gemma3ForCausalLM", "Gemma3TextConfig",
        {**GEMMA, "sliding_window": 16, "num_hidden_layers": 7, "rope_parameters": _GEMMA3_LINEAR},
    ),
    "phi3_partial": ("Phi3ForCausalLM", "Phi3Config", {**SIZES, "partial_rotary_factor": 0.5}),
    "smollm3_without_positions": ("SmolLM3ForCausalLM", "SmolLM3Config", {**SIZES, "num_hidden_layers": 4}),
}  # fmt: skip
#: Families whose tokenizer is a SentencePiece model.
PIECES = ("gemma", "gemma2", "gemma2_window", "phi3", "phi3_long", "phi3_partial")
#: Settings that llama.cpp's converter takes otherwise than transformers writes them.
CHANGED = {"falcon_multi_query": {"num_kv_heads": 1}}


def save_model(name: str, directory: Path, dtype: torch.dtype) -> Path:
    """The model and a tokenizer in `directory`. Weights have the same bits on every machine, and with every library."""
    model_class, config_class, settings = {**MODELS, **VARIANTS}[name]
    with unheard():
        model = build(model_class, config_class, **settings)
        state = np.random.RandomState(7)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.from_numpy(_nearly_normal(state, tuple(parameter.shape))))
        model.to(dtype).save_pretrained(directory)
    change_config(directory, CHANGED.get(name, {}))
    if name in PIECES:
        (directory / "tokenizer.model").write_bytes(_pieces())
        return directory
    for file in FILES:
        if (TOKENIZER / file).exists():
            shutil.copy(TOKENIZER / file, directory / file)
    return directory


def change_config(directory: Path, changes: Mapping[str, object]) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))


def save_adapter(name: str, base: Path, directory: Path) -> Path:
    """PEFT's LoRA on all linear layers but the head; its products are exact in float32, in any order of adding."""
    import peft

    with unheard():
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        state = np.random.RandomState(11)
        for key, parameter in wrapped.named_parameters():
            if "lora_" in key:
                values = state.randint(-3, 4, tuple(parameter.shape)) / 64
                parameter.data.copy_(torch.from_numpy(values.astype(np.float32)))
        wrapped.save_pretrained(directory)
    return directory


def _nearly_normal(state: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of standard deviation 0.1: the sum of four uniform numbers."""
    total = state.randint(-(1 << 20), 1 << 20, (4, *shape)).sum(axis=0)
    return (total * (0.1 / (2 << 20) * math.sqrt(3))).astype(np.float32)


@functools.cache
def _pieces() -> bytes:
    """A SentencePiece model of the demo's samples, trained here: it is the same every time."""
    import sentencepiece

    lines = [line for file in sorted(SAMPLES.glob("*.jsonl")) for line in file.read_text().splitlines()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=512, model_type="bpe", byte_fallback=True,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, num_threads=1, normalization_rule_name="identity",
        user_defined_symbols=["<start_of_turn>"], minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    return model.getvalue()
