"""Tensors that are never quantized, and the type that they keep."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Pieces of the names of weights that stay as they are.
_KEPT_PIECES = (
    "_norm.weight",
    "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight",  # routers
    "altup", "laurel", "per_layer_model_proj",  # Gemma 3n: small
    "ssm_conv1d", "shortconv.conv.weight",  # convolutions
    "indexer.k_proj.weight", "indexer.q_proj.weight",
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",  # RWKV: small
    "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight",
    "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",  # T5's positions
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",  # vision
    "a.rvq.codebook", "mm.a.code_embd",  # audio
)  # fmt: skip
_KEPT_NAMES = ("position_embd.weight", "token_types.weight")
#: The same for one architecture.
_KEPT_IN = {
    "glm5-next": (
        "hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj",
        "indexer_compressor_gate", "indexer_compressor_ape",
        "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight", "ssm_beta.weight",
        "attn_kv_a_mqa.weight", "attn_k_b.weight", "attn_v_b.weight",
    ),
}  # fmt: skip

#: Weights of two axes that the converter writes in float32, whatever is asked for, without `blk.N.` and `.weight`.
_FLOAT32 = frozenset({
    "ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd", "token_types", "ssm_conv1d", "ssm_conv1d_q", "ssm_conv1d_k",
    "ssm_conv1d_v", "shortconv.conv", "time_mix_first", "time_mix_w1", "time_mix_w2", "time_mix_decay_w1",
    "time_mix_decay_w2", "time_mix_lerp_fused", "altup_correct_coef", "altup_predict_coef", "indexer.proj",
})  # fmt: skip


def is_kept(architecture: str, name: str, shape: Sequence[int]) -> bool:
    """Whether the tensor keeps its type, whatever the file type. Source: `tensor_allows_quantization`."""
    pieces = _KEPT_PIECES + _KEPT_IN.get(architecture, ())
    return (
        n_axes(shape) < 2
        or not name.endswith("weight")
        or name in _KEPT_NAMES
        or any(piece in name for piece in pieces)
    )


def unquantized_type(name: str, shape: Sequence[int], source: str) -> str:
    """The type in a GGUF that is not quantized: F32 for vectors, norms and routers, else `source`.

    Args:
        source: "F32", "F16" or "BF16", as in `convert_hf_to_gguf.py --outtype`.

    Source: llama.cpp, conversion/base.py: `prepare_tensors`.
    """
    stem = re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")
    if len(shape) < 2 or name.endswith("_norm.weight") or not name.endswith(".weight") or stem in _FLOAT32:
        return "F32"
    return source


def n_axes(shape: Sequence[int]) -> int:
    """Axes as ggml counts them: leading ones of length 1 are none."""
    return next((len(shape) - at for at, size in enumerate(shape) if size > 1), 1)
