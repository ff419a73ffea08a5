"""Phi-3, Phi-3.5 and Phi-4: GGUF's "phi3". The projections stay fused; long contexts bring two lists of factors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ingot.errors import BaseError
from ingot.quantize.gguf.architecture import Config, GgufTensor
from ingot.quantize.gguf.architectures.family import Family, rope_parameters

if TYPE_CHECKING:
    from gguf import GGUFWriter


def describe(config: Config, writer: GGUFWriter) -> None:
    """The original context, rotary dimensions, and a window of 0 where the model has none (Phi-4)."""
    writer.add_rope_scaling_orig_ctx_len(_original_context(config))
    writer.add_rope_dimension_count(_rope_dimensions(config))
    writer.add_sliding_window(config.get("sliding_window") or 0)
    # llama.cpp takes the long factors from their tensors, without a kind of scaling
    writer.kv_data[0].pop("phi3.rope.scaling.type", None)
    rope, scale = rope_parameters(config), config["max_position_embeddings"] / _original_context(config)
    if rope.get("long_factor"):
        kind = str(rope.get("rope_type")).lower()
        longer = math.log(scale) if scale > 1.0 else 0.0
        if kind in ("su", "longrope"):
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + longer / math.log(_original_context(config))))
        else:
            writer.add_rope_scaling_attn_factors(0.1 * longer + 1.0)


def long_and_short_factors(config: Config) -> tuple[GgufTensor, ...]:
    """`rope_factors_long.weight` and `rope_factors_short.weight`, float32[rotary dimensions / 2]; none without them."""
    rope = rope_parameters(config)
    found = []
    for name in ("long", "short"):
        factors = rope.get(f"{name}_factor")
        if not factors:
            return ()
        if len(factors) != _rope_dimensions(config) // 2:
            raise BaseError(
                "the rotary factors do not fit the heads", where=f"{name}_factor in config.json",
                expected=_rope_dimensions(config) // 2, found=len(factors),
            )  # fmt: skip
        found.append(GgufTensor(f"rope_factors_{name}.weight", (len(factors),), values=tuple(map(float, factors))))
    return tuple(found)


def _original_context(config: Config) -> int:
    rope = rope_parameters(config)
    own = rope.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    return int(own or config["max_position_embeddings"])


def _rope_dimensions(config: Config) -> int:
    share = rope_parameters(config).get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    return int(share * config["hidden_size"]) // int(config["num_attention_heads"])


ARCHITECTURES = (Family("phi3", ("Phi3ForCausalLM",), describe_more=describe, computed=long_and_short_factors),)
