"""The names and shapes of small decoders as transformers stores them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Shapes = dict[str, tuple[int, ...]]

TEXT: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "rms_norm_eps": 1e-5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 10000.0,
}  # fmt: skip
MLP: Shapes = {"gate_proj": (24, 16), "up_proj": (24, 16), "down_proj": (16, 24)}
#: An expert's three matrices in Mixtral's names.
OF_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_ATTENTION: Shapes = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}


def decoder(layer: Callable[[str], Shapes], *, tied: bool) -> dict[str, list[int]]:
    """A decoder of two layers; `layer` gives what stands beside the attention of one, by its stem."""
    shapes: Shapes = {"model.embed_tokens.weight": (31, 16), "model.norm.weight": (16,)}
    if not tied:
        shapes["lm_head.weight"] = (31, 16)
    for number in range(2):
        stem = f"model.layers.{number}"
        shapes |= {f"{stem}.self_attn.{name}.weight": shape for name, shape in _ATTENTION.items()}
        shapes |= {f"{stem}.{name}.weight": (16,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= layer(stem)
    return {name: list(shape) for name, shape in shapes.items()}


def dense(stem: str) -> Shapes:
    return {f"{stem}.mlp.{name}.weight": shape for name, shape in MLP.items()}


def experts_of_mixtral(stem: str) -> Shapes:
    moe = f"{stem}.block_sparse_moe"
    own = {f"{moe}.experts.{e}.{OF_MIXTRAL[name]}.weight": shape for e in range(4) for name, shape in MLP.items()}
    return {f"{moe}.gate.weight": (4, 16), **own}


def experts_of_qwen(stem: str) -> Shapes:
    own = {f"{stem}.mlp.experts.{e}.{name}.weight": shape for e in range(4) for name, shape in MLP.items()}
    norms: Shapes = {f"{stem}.self_attn.{name}.weight": (4,) for name in ("q_norm", "k_norm")}
    return {f"{stem}.mlp.gate.weight": (4, 16), **own, **norms}
