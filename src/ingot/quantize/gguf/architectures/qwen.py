"""Qwen2 and 2.5, Qwen3, and their mixtures of experts: GGUF's "qwen2", "qwen3", "qwen2moe", "qwen3moe"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingot.quantize.gguf.architecture import Config
from ingot.quantize.gguf.architectures.family import Family, graph_differs

if TYPE_CHECKING:
    from gguf import GGUFWriter


def describe_qwen2_experts(config: Config, writer: GGUFWriter) -> None:
    """Sizes of the experts' hidden layers. Raises BaseError where the router's weights would be scaled otherwise."""
    _check_router(config, normalizes=False)
    _describe_experts(config, writer)


def describe_qwen3_experts(config: Config, writer: GGUFWriter) -> None:
    """As those of Qwen2, whose router does not normalize the weights of the chosen experts."""
    _check_router(config, normalizes=True)
    _describe_experts(config, writer)


def _check_router(config: Config, *, normalizes: bool) -> None:
    found = bool(config.get("norm_topk_prob", False))
    if found is not normalizes:
        raise graph_differs("norm_topk_prob", normalizes, found)


def _describe_experts(config: Config, writer: GGUFWriter) -> None:
    if config.get("moe_intermediate_size") is not None:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if config.get("shared_expert_intermediate_size") is not None:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


QWEN2 = Family("qwen2", ("Qwen2ForCausalLM",))
QWEN3 = Family("qwen3", ("Qwen3ForCausalLM",))
QWEN2_MOE = Family("qwen2moe", ("Qwen2MoeForCausalLM",), describe_more=describe_qwen2_experts)
QWEN3_MOE = Family("qwen3moe", ("Qwen3MoeForCausalLM",), describe_more=describe_qwen3_experts)
ARCHITECTURES = (QWEN2, QWEN3, QWEN2_MOE, QWEN3_MOE)
