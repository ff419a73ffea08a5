"""Granite 3: Llama with four multipliers, GGUF's "granite"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingot.quantize.gguf.architecture import Config
from ingot.quantize.gguf.architectures import llama
from ingot.quantize.gguf.architectures.family import Family

if TYPE_CHECKING:
    from gguf import GGUFWriter


def describe(config: Config, writer: GGUFWriter) -> None:
    """Llama's keys, and the multipliers where they are set."""
    llama.describe(config, writer)
    for key, add in (
        ("attention_multiplier", writer.add_attention_scale),
        ("embedding_multiplier", writer.add_embedding_scale),
        ("residual_multiplier", writer.add_residual_scale),
        ("logits_scaling", writer.add_logit_scale),
    ):
        if config.get(key):
            add(config[key])


ARCHITECTURES = (
    Family("granite", ("GraniteForCausalLM",), interleaves=True, describe_more=describe, computed=llama.llama3_factors),
)
