"""Gemma 1, 2 and 3 (text): GGUF's "gemma", "gemma2", "gemma3". Their norms multiply by 1 + w: the 1 is added here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingot.quantize.gguf.architecture import Config
from ingot.quantize.gguf.architectures.family import Family, first, rope_parameters

if TYPE_CHECKING:
    from gguf import GGUFWriter


def describe_gemma2(config: Config, writer: GGUFWriter) -> None:
    """Soft caps of logits, and the window of every other layer."""
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_sliding_window(config["sliding_window"])


def describe_gemma3(config: Config, writer: GGUFWriter) -> None:
    """The window, and the rotary base of the layers that have it."""
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


GEMMA = Family("gemma", ("GemmaForCausalLM",), shifted=("norm.weight",), always_tied=True)
GEMMA2 = Family(
    "gemma2", ("Gemma2ForCausalLM",), shifted=("norm.weight",), always_tied=True, describe_more=describe_gemma2
)
GEMMA3 = Family("gemma3", ("Gemma3ForCausalLM",), shifted=("norm.weight",), describe_more=describe_gemma3)
ARCHITECTURES = (GEMMA, GEMMA2, GEMMA3)
