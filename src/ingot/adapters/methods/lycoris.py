"""What LoHa and LoKr share: rank, scaling, and the cores of convolutions. Source: PEFT's tuners/lycoris_utils."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingot.adapters.fields import Fields
from ingot.adapters.methods.method import Layer
from ingot.adapters.module import Module
from ingot.adapters.patterns import compile_pattern, pattern_value

if TYPE_CHECKING:
    import torch


def check_settings(fields: Fields) -> None:
    """Raise AdapterError for a rank or alpha of a wrong type, or a pattern that is none."""
    fields.integer("r", 8)
    fields.number("alpha", 8)
    for pattern in (*fields.mapping_of_integers("rank_pattern"), *fields.mapping_of_numbers("alpha_pattern")):
        compile_pattern(pattern)


def config_rank(layer: Layer) -> int:
    """The rank that the config gives to the layer."""
    fields = layer.fields
    return int(pattern_value(layer.path, fields.mapping_of_integers("rank_pattern"), fields.integer("r", 8)))


def scaling(layer: Layer) -> float:
    """alpha / r, both by the config."""
    fields = layer.fields
    alpha = pattern_value(layer.path, fields.mapping_of_numbers("alpha_pattern"), fields.number("alpha", 8))
    return float(alpha) / config_rank(layer)


def core_of(layer: Layer, role: str, module: Module, rank: int) -> tuple[int, tuple[int, ...]]:
    """Inputs of a convolution (of one group), and the shape of its weight's core: a Conv1d's has another axis of 1.

    Raises MismatchError where the module is no convolution.
    """
    _, inputs, *kernel = module.parameters["weight"]
    if not kernel:
        raise layer.mismatch(role, module, "a core for a convolution alone")
    return inputs, (rank, rank, *kernel, *(1,) * (2 - len(kernel)))


def core_product(core: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """M[r, in * kernel] = Σ_q core[p, q, *kernel] * right[q, in]: what a[p, out] is multiplied with."""
    import torch

    return torch.einsum("pqkl,qi->pikl", core, right).reshape(len(core), -1)
