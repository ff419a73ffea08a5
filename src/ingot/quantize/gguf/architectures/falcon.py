"""Falcon: GGUF's "falcon".

Its fused attention stores heads in groups, each of some queries, a key and a value; llama.cpp wants all queries, then
all keys, then all values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ingot.errors import BaseError
from ingot.quantize.gguf.architecture import Config, GgufTensor, Rows
from ingot.quantize.gguf.architectures.family import Family, Shapes, block_count, check_activation, first, graph_differs

if TYPE_CHECKING:
    from gguf import GGUFWriter

#: Falcon's configs do not say it.
_CONTEXT = 2048


class Falcon(Family):
    """The family with its groups of heads taken apart."""

    def tensors(self, config: Config, shapes: Shapes) -> tuple[GgufTensor, ...]:
        """See `Architecture.tensors`."""
        return tuple(_regrouped(t, config) if ".attn_qkv." in t.name else t for t in super().tensors(config, shapes))

    def describe(self, config: Config, writer: GGUFWriter) -> None:
        """See `Architecture.describe`."""
        check_activation(config, "gelu")
        if config.get("alibi"):
            raise graph_differs("alibi", False, config["alibi"])
        writer.add_context_length(_CONTEXT)
        writer.add_tensor_data_layout("jploski")
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(4 * config["hidden_size"])
        writer.add_block_count(block_count(config))
        writer.add_head_count(first(config, "num_attention_heads", "n_head"))
        writer.add_head_count_kv(_key_heads(config))
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])


def _key_heads(config: Config) -> int:
    if config.get("new_decoder_architecture") or not config.get("multi_query", True):
        return int(first(config, "num_kv_heads", "n_head_kv") or 1)
    return 1


def _regrouped(tensor: GgufTensor, config: Config) -> GgufTensor:
    """Queries of all groups, then keys, then values."""
    heads, groups = int(first(config, "num_attention_heads", "n_head")), _key_heads(config)
    name, size = tensor.rows[0].tensor, config["hidden_size"] // heads
    each = heads // groups + 2
    if len(tensor.shape) != 2:
        raise BaseError("Falcon's attention has a bias, which is not written to GGUF here", where=name)
    if tensor.shape[0] != groups * each * size:
        raise BaseError("attention heads do not fit the tensor", where=name, found=list(tensor.shape))

    def part(group: int, begin: int, end: int) -> Rows:
        return Rows(name, (group * each + begin) * size, (group * each + end) * size)

    spans = ((0, each - 2), (each - 2, each - 1), (each - 1, each))
    return replace(tensor, rows=tuple(part(group, *span) for span in spans for group in range(groups)))


ARCHITECTURES = (Falcon("falcon", ("FalconForCausalLM", "RWForCausalLM")),)
