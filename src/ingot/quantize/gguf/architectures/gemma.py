"""Gemma 1, 2 and 3 (text): GGUF's "gemma", "gemma2", "gemma3". Their norms multiply by 1 + w: the 1 is added here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingot.quantize.gguf.architecture import Config
from ingot.quantize.gguf.architectures.family import (
    Family,
    block_count,
    first,
    graph_differs,
    head_dim,
    rope_parameters,
)

if TYPE_CHECKING:
    from gguf import GGUFWriter

#: Layers of the largest Gemma 2 and 3, by which llama.cpp knows them.
_LAYERS_27B = {"gemma2": 46, "gemma3": 62}


def _check_scale(config: Config, name: str) -> None:
    """Raises BaseError where attention is scaled otherwise than llama.cpp does it, which has no key for that."""
    largest = block_count(config) == _LAYERS_27B[name]
    built_in = config["hidden_size"] // config["num_attention_heads"] if largest else head_dim(config)
    found = config.get("query_pre_attn_scalar", built_in)
    if found != built_in:
        raise graph_differs("query_pre_attn_scalar", built_in, found)


def describe_gemma2(config: Config, writer: GGUFWriter) -> None:
    """Soft caps of logits, and the window of every other layer."""
    _check_scale(config, "gemma2")
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_sliding_window(config["sliding_window"])


def describe_gemma3(config: Config, writer: GGUFWriter) -> None:
    """The window, and the rotary base of the layers that have it."""
    _check_scale(config, "gemma3")
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if config.get("sliding_window_pattern") != 1:
        writer.add_sliding_window(config["sliding_window"])
    local = (first(config, "rope_parameters", "rope_scaling") or {}).get("sliding_attention")
    base = local.get("rope_theta") if isinstance(local, dict) else config.get("rope_local_base_freq")
    if base is not None:
        writer.add_rope_freq_base_swa(base)
    if rope_parameters(config).get("rope_theta") is None:
        writer.add_rope_freq_base(1_000_000.0)


GEMMA = Family("gemma", ("GemmaForCausalLM",), shifted=("norm.weight",), always_tied=True, activation="gelu")
GEMMA2 = Family(
    "gemma2",
    ("Gemma2ForCausalLM",),
    shifted=("norm.weight",),
    always_tied=True,
    activation="gelu",
    describe_more=describe_gemma2,
)
GEMMA3 = Family(
    "gemma3", ("Gemma3ForCausalLM",), shifted=("norm.weight",), activation="gelu", describe_more=describe_gemma3
)
ARCHITECTURES = (GEMMA, GEMMA2, GEMMA3)
