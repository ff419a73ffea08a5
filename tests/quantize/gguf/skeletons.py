"""Models reduced to what decides about types: names, columns, layers and keys; every matrix has two rows.

The rules look at nothing else, so that llama.cpp's own answer for a 70B costs a few hundred kilobytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np

from ingot.quantize.gguf.mixtures import Model, unquantized_type

LLAMA = "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate ffn_up ffn_down"
MOE = "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate_inp ffn_gate_exps ffn_up_exps ffn_down_exps"
NEOX = "attn_norm attn_qkv attn_output ffn_up ffn_down attn_norm.bias attn_qkv.bias"


@dataclass(frozen=True)
class Skeleton:
    """A model of `n_layer` times `layer`; `dense` layers before them, `extra` tensors beside them.

    Attributes:
        width, ff: columns of the matrices, and of those that go down from the hidden layer of the MLP.
        keys: more of the architecture's keys; floats, integers or booleans.
    """

    architecture: str
    n_layer: int
    n_head: int = 8
    n_head_kv: int = 8
    n_expert: int = 0
    layer: str = LLAMA
    tied: bool = False
    width: int = 256
    ff: int = 512
    extra: str = ""
    dense: tuple[str, int] = ("", 0)
    keys: Mapping[str, float] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        return Model(self.architecture, self.n_layer, self.n_head, self.n_head_kv, self.n_expert)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape."""
        names = ["token_embd.weight", "output_norm.weight", *(_full(stem) for stem in self.extra.split())]
        names += [] if self.tied else ["output.weight"]
        for at in range(self.n_layer):
            stems = self.dense[0] if at < self.dense[1] else self.layer
            names += [f"blk.{at}.{_full(stem)}" for stem in stems.split()]
        return {name: self._shape(name) for name in names}

    def _shape(self, name: str) -> tuple[int, ...]:
        columns = self.ff if "ffn_down" in name else self.width
        if name.endswith((".bias", "norm.weight")) or "ffn_gate_inp_shexp" in name or name == "rope_freqs.weight":
            return (columns,)
        return (2, 2, columns) if "_exps" in name or "attn_k_b" in name else (2, columns)

    def write(self, path: Path, source: str) -> None:
        """The file that llama-quantize is given: random values, unquantized types by `source`."""
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self._keys().items():
            name = f"{self.architecture}.{key}"
            if isinstance(value, bool):
                writer.add_bool(name, value)
            elif isinstance(value, int):
                writer.add_uint32(name, value)
            else:
                writer.add_float32(name, value)
        random = np.random.default_rng(0)
        for name, shape in self.tensors().items():
            kind = gguf.GGMLQuantizationType[unquantized_type(name, shape, source)]
            values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def _keys(self) -> dict[str, float]:
        keys: dict[str, float] = {
            "context_length": 128, "embedding_length": 64 * self.n_head or self.width, "block_count": self.n_layer,
            "feed_forward_length": self.ff, "attention.head_count": self.n_head,
            "attention.head_count_kv": self.n_head_kv, "attention.layer_norm_rms_epsilon": 1e-5,
            "attention.layer_norm_epsilon": 1e-5, "vocab_size": 2,
        }  # fmt: skip
        if self.n_expert:
            keys |= {"expert_count": self.n_expert, "expert_used_count": 2}
        return {**keys, **self.keys}


def _full(stem: str) -> str:
    return stem if stem.endswith((".bias", ".weight")) else f"{stem}.weight"


SKELETONS: Mapping[str, Skeleton] = {
    "llama-1b": Skeleton("llama", 16, 32, 8, tied=True, extra="rope_freqs"),
    "llama-8b": Skeleton("llama", 32, 32, 8),
    "llama-7b": Skeleton("llama", 32, 32, 32),
    "llama-70b": Skeleton("llama", 80, 64, 8),
    "llama-65b": Skeleton("llama", 80, 64, 64),
    "llama-3-layers": Skeleton("llama", 3, 4, 2, tied=True),
    "llama-320": Skeleton("llama", 9, 32, 8, width=320, ff=864),
    "llama-320-tied": Skeleton("llama", 9, 32, 8, width=320, ff=768, tied=True),
    "llama-80": Skeleton("llama", 4, 4, 4, width=80, ff=208),
    "mixtral": Skeleton("llama", 32, 32, 8, n_expert=8, layer=MOE),
    "mixtral-mha": Skeleton("llama", 17, 32, 32, n_expert=8, layer=MOE),
    "four-experts": Skeleton("llama", 24, 32, 32, n_expert=4, layer=MOE),
    "qwen2": Skeleton("qwen2", 28, 12, 2, tied=True, layer=LLAMA + " attn_q.bias attn_k.bias attn_v.bias"),
    "qwen2-72b": Skeleton("qwen2", 80, 64, 8),
    "qwen3": Skeleton("qwen3", 36, 32, 8, layer=LLAMA + " attn_q_norm attn_k_norm"),
    "qwen2moe": Skeleton(
        "qwen2moe", 24, 16, 16, n_expert=60,
        layer=MOE + " ffn_gate_inp_shexp ffn_gate_shexp ffn_up_shexp ffn_down_shexp",
        keys={"expert_feed_forward_length": 256, "expert_shared_feed_forward_length": 256},
    ),
    "qwen3moe": Skeleton("qwen3moe", 48, 32, 4, n_expert=128, layer=MOE + " attn_q_norm attn_k_norm",
                         keys={"expert_feed_forward_length": 256}),
    "gemma2": Skeleton("gemma2", 26, 8, 4, tied=True, layer=LLAMA + " post_attention_norm post_ffw_norm",
                       keys={"attention.sliding_window": 64}),
    "gemma3": Skeleton("gemma3", 34, 8, 4, tied=True, layer=LLAMA + " post_attention_norm post_ffw_norm attn_q_norm",
                       keys={"attention.sliding_window": 64}),
    "phi3": Skeleton("phi3", 32, 32, 32, layer="attn_norm attn_qkv attn_output ffn_norm ffn_up ffn_down",
                     keys={"attention.sliding_window": 64}),
    "granite": Skeleton("granite", 40, 32, 8, tied=True,
                        keys={"logit_scale": 1.0, "residual_scale": 1.0, "embedding_scale": 1.0,
                              "attention.scale": 1.0}),
    "olmo2": Skeleton("olmo2", 32, 32, 32, layer=LLAMA + " attn_q_norm attn_k_norm"),
    "olmo-80": Skeleton("olmo", 80, 64, 64, layer="attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down"),
    "starcoder2": Skeleton("starcoder2", 30, 24, 2, tied=True,
                           layer="attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_up ffn_down ffn_down.bias"),
    "falcon-7b": Skeleton("falcon", 32, 71, 1, layer=NEOX),
    "falcon-tied": Skeleton("falcon", 60, 64, 8, layer=NEOX, tied=True),
    "gpt2": Skeleton("gpt2", 12, 12, 12, layer=NEOX, extra="position_embd"),
    "stablelm": Skeleton("stablelm", 24, 32, 32),
    "command-r": Skeleton("command-r", 40, 64, 64, tied=True, keys={"logit_scale": 1.0}),
    "deepseek2": Skeleton(
        "deepseek2", 27, 16, 1, n_expert=64,
        layer="attn_norm attn_q attn_kv_a_mqa attn_kv_a_norm attn_k_b attn_kv_b attn_v_b attn_output ffn_norm "
        "ffn_gate_inp ffn_gate_exps ffn_up_exps ffn_down_exps ffn_gate_shexp ffn_up_shexp ffn_down_shexp",
        dense=("attn_norm attn_q attn_kv_a_mqa attn_kv_a_norm attn_k_b attn_kv_b attn_v_b attn_output ffn_norm "
               "ffn_gate ffn_up ffn_down", 1),
        keys={"leading_dense_block_count": 1, "attention.kv_lora_rank": 256, "expert_feed_forward_length": 256,
              "expert_shared_count": 2, "expert_weights_scale": 1.0, "attention.key_length": 192,
              "attention.value_length": 128, "attention.key_length_mla": 192, "attention.value_length_mla": 128,
              "attention.q_lora_rank": 0},
    ),
    "mamba": Skeleton("mamba", 24, 0, 0, layer="attn_norm ssm_in ssm_conv1d ssm_x ssm_dt ssm_out", tied=True,
                      keys={"ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 16,
                            "ssm.time_step_rank": 16}),
}  # fmt: skip
