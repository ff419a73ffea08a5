"""Llama 2 and 3, Mistral, Mixtral, SmolLM: GGUF's "llama".

Rows of q_proj and k_proj are interleaved by rotary pairs. Llama 3's rotary scaling is a tensor of one factor for each
pair (`rope_freqs.weight`), by the rule of `_compute_llama3_parameters` of transformers' modeling_rope_utils.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ingot.quantize.gguf.architecture import Config, GgufTensor
from ingot.quantize.gguf.architectures.family import Family, head_dim, rope_parameters

if TYPE_CHECKING:
    from gguf import GGUFWriter


def describe(config: Config, writer: GGUFWriter) -> None:
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(head_dim(config))


def llama3_factors(config: Config) -> tuple[GgufTensor, ...]:
    """The factor by which each rotary frequency is divided, float32[head_dim / 2]; none for other kinds of scaling."""
    rope = rope_parameters(config)
    if str(rope.get("rope_type")).lower() != "llama3":
        return ()
    import torch

    size = head_dim(config)
    # subtle: in torch's float32 to the last bit, as transformers and llama.cpp's converter compute it
    exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
    frequencies = 1.0 / (rope.get("rope_theta", 10000.0) ** exponents)
    factor, context = rope.get("factor", 8.0), rope.get("original_max_position_embeddings", 8192)
    low, high = rope.get("low_freq_factor", 1.0), rope.get("high_freq_factor", 4.0)
    factors = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / frequency
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(float(factor))
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(float(1 / ((1 - smooth) / factor + smooth)))
    return (GgufTensor("rope_freqs.weight", (len(factors),), values=tuple(factors)),)


ARCHITECTURES = (
    Family(
        name="llama",
        classes=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
        interleaves=True,
        describe_more=describe,
        computed=llama3_factors,
        # the library's map knows Mixtral's experts by the names of the first Llama release
        renamed=((r"^model\.(layers\.\d+)\.block_sparse_moe\.experts\.(w\d)", r"\1.feed_forward.experts.\2"),),
    ),
)
