"""What of a model the rules look at, and the part that a tensor plays in it."""

from __future__ import annotations

from dataclasses import dataclass

#: Layers of the models that llama.cpp calls "70B"; their values are shared by so many heads that more bits are cheap.
_LARGE = {"llama": 80, "llama-embed": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}


@dataclass(frozen=True)
class Model:
    """A model by the keys of its GGUF.

    Attributes:
        architecture: `general.architecture`.
        n_layer: `block_count`.
        n_head, n_head_kv: `attention.head_count` and `head_count_kv`; of the first layer, where each has its own.
        n_expert: `expert_count`; 0 for a dense model.
    """

    architecture: str
    n_layer: int
    n_head: int
    n_head_kv: int
    n_expert: int = 0

    @property
    def queries_per_value(self) -> int:
        """How many heads share a key and a value."""
        return self.n_head // self.n_head_kv if self.n_head_kv else 0

    @property
    def is_large(self) -> bool:
        """Whether llama.cpp takes it for a 70B."""
        if self.architecture.startswith("llama") and (self.n_head == self.n_head_kv or self.n_expert == 8):
            return False
        return _LARGE.get(self.architecture) == self.n_layer


#: A tensor's part -> what its name holds, in the order in which they are asked.
_PARTS = {
    "attention_qkv": "attn_qkv.weight",
    "attention_kv_b": "attn_kv_b.weight",
    "attention_v": "attn_v.weight",
    "attention_k": "attn_k.weight",
    "attention_q": "attn_q.weight",
    "attention_output": "attn_output.weight",
    "ffn_up": "ffn_up",
    "ffn_gate": "ffn_gate",
    "ffn_down": "ffn_down",
}
#: Parts that hold attention's values, alone or with others: the same rules are theirs.
VALUES = ("attention_qkv", "attention_kv_b", "attention_v")


def part_of(name: str) -> str:
    """The part of the tensor `name`: "output", "embedding", "attention_v", "ffn_down", …, or "other"."""
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "embedding"
    part = next((part for part, piece in _PARTS.items() if piece in name), "other")
    return "attention_v" if part in VALUES else part
