"""Families that need a line or two: OLMo 2, StarCoder2, SmolLM3."""

from __future__ import annotations

from ingot.quantize.gguf.architectures import llama
from ingot.quantize.gguf.architectures.family import Family

ARCHITECTURES = (
    Family("olmo2", ("Olmo2ForCausalLM",)),
    Family("starcoder2", ("Starcoder2ForCausalLM",), activation="gelu"),
    Family(
        "smollm3",
        ("SmolLM3ForCausalLM",),
        interleaves=True,
        describe_more=llama.describe,
        computed=llama.llama3_factors,
    ),
)
