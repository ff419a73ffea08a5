"""Tiny models of many architectures, with seeded random weights in float32: hidden sizes of 16 to 32, two layers.

`MODELS[name]()` builds one in well under a second. Every weight is random (norms and biases too, which transformers
would set to ones and zeros), so that two tensors that change places are noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

TEXT: dict[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEAD_DIM: dict[str, Any] = {**TEXT, "head_dim": 4}
MOE: dict[str, Any] = {**TEXT, "num_experts_per_tok": 2}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
ENCODER: dict[str, Any] = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
QWEN_VISION: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
QWEN_ROPE: dict[str, Any] = {"rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 10000.0}


def build(model_class: str, config_class: str, /, **settings: Any) -> transformers.PreTrainedModel:
    """The model with weights drawn from N(0, 0.1), the same at every call; the caller's random state is kept."""
    config = getattr(transformers, config_class)(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = getattr(transformers, model_class)(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.1)
        model.eval()
    return model  # type: ignore[no-any-return]


def _of(model_class: str, config_class: str, /, **settings: Any) -> Callable[[], transformers.PreTrainedModel]:
    return lambda: build(model_class, config_class, **settings)


def _composite(
    model_class: str,
    config_class: str,
    text: tuple[str, dict[str, Any]],
    vision: tuple[str, dict[str, Any]],
    **more: Any,
) -> Callable[[], transformers.PreTrainedModel]:
    """A vision and language model, its two sub-configurations given as (class name, settings)."""

    def make() -> transformers.PreTrainedModel:
        parts = {
            "text_config": getattr(transformers, text[0])(**text[1]),
            "vision_config": getattr(transformers, vision[0])(**vision[1]),
        }
        return build(model_class, config_class, **parts, **more)

    return make


MODELS: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    # decoders with the same names in memory and on disk
    "llama": _of("LlamaForCausalLM", "LlamaConfig", **TEXT),
    "llama_tied": _of("LlamaForCausalLM", "LlamaConfig", **TEXT, tie_word_embeddings=True),
    "llama_bias": _of("LlamaForCausalLM", "LlamaConfig", **TEXT, attention_bias=True, mlp_bias=True),
    "mistral": _of("MistralForCausalLM", "MistralConfig", **TEXT),
    "qwen2": _of("Qwen2ForCausalLM", "Qwen2Config", **TEXT),
    "qwen3": _of("Qwen3ForCausalLM", "Qwen3Config", **HEAD_DIM),
    "gemma": _of("GemmaForCausalLM", "GemmaConfig", **HEAD_DIM),
    "gemma2": _of("Gemma2ForCausalLM", "Gemma2Config", **HEAD_DIM),
    "gemma3_text": _of("Gemma3ForCausalLM", "Gemma3TextConfig", **HEAD_DIM),
    "phi3": _of("Phi3ForCausalLM", "Phi3Config", **TEXT),
    "granite": _of("GraniteForCausalLM", "GraniteConfig", **TEXT),
    "olmo2": _of("Olmo2ForCausalLM", "Olmo2Config", **TEXT),
    "starcoder2": _of("Starcoder2ForCausalLM", "Starcoder2Config", **TEXT),
    "smollm3": _of("SmolLM3ForCausalLM", "SmolLM3Config", **TEXT),
    # older decoders
    "gpt2": _of("GPT2LMHeadModel", "GPT2Config", vocab_size=67, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    "opt": _of(
        "OPTForCausalLM",
        "OPTConfig",
        vocab_size=67,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        word_embed_proj_dim=8,
    ),
    "gptj": _of(
        "GPTJForCausalLM", "GPTJConfig", vocab_size=67, n_embd=16, n_layer=2, n_head=2, n_positions=32, rotary_dim=4
    ),
    "gpt_neox": _of("GPTNeoXForCausalLM", "GPTNeoXConfig", **ENCODER),
    # encoders and encoder-decoders
    "t5": _of(
        "T5ForConditionalGeneration", "T5Config", vocab_size=67, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2
    ),
    "bart": _of(
        "BartForConditionalGeneration",
        "BartConfig",
        vocab_size=67,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=32,
    ),
    "bert": _of("BertForMaskedLM", "BertConfig", **ENCODER),
    "roberta": _of("RobertaForMaskedLM", "RobertaConfig", **ENCODER),
    "bert_classifier": _of("BertForSequenceClassification", "BertConfig", **ENCODER, num_labels=3),
    # fused on disk, split in memory
    "nomic_bert": _of("NomicBertForMaskedLM", "NomicBertConfig", **ENCODER),
    "whisper": _of(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        vocab_size=67,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        num_mel_bins=8,
        max_source_positions=16,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    ),
    "vit": _of("ViTForImageClassification", "ViTConfig", **VISION, num_labels=3),
    "siglip_vision": _of("SiglipVisionModel", "SiglipVisionConfig", **VISION),
    # mixtures of experts
    "mixtral": _of("MixtralForCausalLM", "MixtralConfig", **MOE, num_local_experts=3),
    "qwen2_moe": _of(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        **MOE,
        num_experts=3,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=12,
    ),
    "qwen3_moe": _of(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", **MOE, head_dim=4, num_experts=3, moe_intermediate_size=8
    ),
    "olmoe": _of("OlmoeForCausalLM", "OlmoeConfig", **MOE, num_experts=3),
    "deepseek_v3": _of(
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        **{**MOE, "num_key_value_heads": 4},
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        n_shared_experts=1,
        moe_intermediate_size=8,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_nope_head_dim=4,
        qk_rope_head_dim=4,
        v_head_dim=4,
    ),
    "phimoe": _of("PhimoeForCausalLM", "PhimoeConfig", **MOE, num_local_experts=3),
    "granitemoe": _of("GraniteMoeForCausalLM", "GraniteMoeConfig", **MOE, num_local_experts=3),
    "gpt_oss": _of("GptOssForCausalLM", "GptOssConfig", **MOE, head_dim=4, num_local_experts=3, sliding_window=8),
    "llama4_text": _of(
        "Llama4ForCausalLM", "Llama4TextConfig", **MOE, head_dim=4, num_local_experts=3, intermediate_size_mlp=20
    ),
    # vision and language
    "gemma3": _composite(
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        ("Gemma3TextConfig", HEAD_DIM),
        ("SiglipVisionConfig", VISION),
        mm_tokens_per_image=4,
    ),
    "llava": _composite(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        ("LlamaConfig", TEXT),
        ("CLIPVisionConfig", {**VISION, "projection_dim": 16}),
        image_token_index=66,
    ),
    "qwen2_vl": _composite(
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        ("Qwen2VLTextConfig", {**TEXT, "rope_parameters": QWEN_ROPE}),
        ("Qwen2VLVisionConfig", {**QWEN_VISION, "embed_dim": 16, "hidden_size": 16, "mlp_ratio": 2}),
    ),
    "qwen2_5_vl": _composite(
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLConfig",
        ("Qwen2_5_VLTextConfig", {**TEXT, "rope_parameters": QWEN_ROPE}),
        ("Qwen2_5_VLVisionConfig", {**QWEN_VISION, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 16}),
    ),
    "qwen3_vl_moe": _composite(
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3VLMoeConfig",
        (
            "Qwen3VLMoeTextConfig",
            {**MOE, "head_dim": 4, "num_experts": 3, "moe_intermediate_size": 8, "rope_parameters": QWEN_ROPE},
        ),
        (
            "Qwen3VLMoeVisionConfig",
            {
                **QWEN_VISION,
                "hidden_size": 16,
                "intermediate_size": 24,
                "out_hidden_size": 16,
                "deepstack_visual_indexes": [0],
                "num_position_embeddings": 16,
            },
        ),
    ),
}
