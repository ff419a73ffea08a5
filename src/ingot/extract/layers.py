"""How PEFT stores the factors of each kind of layer. Δ = L[rows, r] @ R[r, columns], as the parameter stands in memory.

    LINEAR     Δ[out, in]          lora_A.weight = R[r, in]               lora_B.weight = L[out, r]
    CONV1D     Δ[in, out]          lora_A.weight = Lᵀ[r, in]              lora_B.weight = Rᵀ[out, r]
    CONV       Δ[out, in·kernel]   lora_A.weight = R[r, in, *kernel]      lora_B.weight = L[out, r, 1, …]
    EMBEDDING  Δ[tokens, dim]      lora_embedding_A = Lᵀ[r, tokens]       lora_embedding_B = Rᵀ[dim, r]
    OUT_IN     Δₑ[out, in]         lora_A.weight = [Rₑ][E·r, in]          lora_B.weight = [Lₑ][out, r·E]
    IN_OUT     Δₑ[in, out]         lora_A.weight = [Lₑᵀ][E·r, in]         lora_B.weight = [Rₑᵀ][out, r·E]

A stack of E experts has the expert as the slow index of A's rows and as the fast one of B's columns. Several parameters
of one module are wrapped one in the other, the first one declared innermost, which its key shows by `base_layer`.
Source: PEFT 0.21.2, tuners/lora/layer.py; `adapters/lora.py` and `adapters/experts.py` read the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from ingot.adapters.keys import PREFIX, Role
from ingot.adapters.module import Module, ModuleKind
from ingot.extract.model import Parameter

#: Classes that PEFT wraps; a subclass may do more than its parent, so it is not taken for one.
_WRAPPED = {
    "Linear": ModuleKind.LINEAR, "Conv1D": ModuleKind.CONV1D, "Embedding": ModuleKind.EMBEDDING,
    "Conv1d": ModuleKind.CONV, "Conv2d": ModuleKind.CONV, "Conv3d": ModuleKind.CONV,
}  # fmt: skip


class Layout(StrEnum):
    """See above."""

    LINEAR = "linear"
    CONV1D = "conv1d"
    CONV = "conv"
    EMBEDDING = "embedding"
    OUT_IN = "out_in"
    IN_OUT = "in_out"

    @property
    def transposed(self) -> bool:
        """Whether A is made of L."""
        return self in (Layout.CONV1D, Layout.EMBEDDING, Layout.IN_OUT)

    @property
    def stacked(self) -> bool:
        return self in (Layout.OUT_IN, Layout.IN_OUT)


def layout_of(module: Module, parameter: Parameter) -> Layout | None:
    """The layer that PEFT puts on this parameter; None where it has none that can be merged."""
    if module.kind is ModuleKind.EXPERTS:
        return _layout_in_stack(module, parameter)
    if parameter.name != "weight":
        return None
    if module.kind is ModuleKind.UNKNOWN:  # only names are known; a weight matrix that is no embedding is a Linear
        return Layout.LINEAR if len(parameter.tuned.shape) == 2 and not _is_named_embedding(module.path) else None
    if module.class_name and _WRAPPED.get(module.class_name) is not module.kind:
        return None
    if module.kind is ModuleKind.CONV:
        return Layout.CONV if module.groups == 1 else None
    kinds = {ModuleKind.LINEAR: Layout.LINEAR, ModuleKind.CONV1D: Layout.CONV1D,
             ModuleKind.EMBEDDING: Layout.EMBEDDING}  # fmt: skip
    return kinds.get(module.kind)


def _layout_in_stack(module: Module, parameter: Parameter) -> Layout | None:
    shape = parameter.tuned.shape
    if len(shape) == 2:
        return Layout.LINEAR
    if len(shape) != 3 or shape[0] < 2:
        return None
    return Layout.IN_OUT if module.transposed_experts else Layout.OUT_IN


def _is_named_embedding(path: str) -> bool:
    from ingot.adapters.saved import is_embedding

    return is_embedding(path) and not path.endswith(("lm_head", "embed_out", "output_layer"))


@dataclass(frozen=True)
class Target:
    """A parameter that gets factors.

    Attributes:
        key: names of its tensors up to the role, without PEFT's prefix.
        bare: PEFT wraps the parameter and not its module (`target_parameters`).
    """

    parameter: Parameter
    layout: Layout
    key: str
    bare: bool = False

    @property
    def named(self) -> str:
        """What `rank_pattern` calls it."""
        return self.parameter.full if self.bare else self.parameter.path

    def shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of A and B, in this order."""
        stack, rows, columns = self.parameter.view
        ins, outs = (rows, columns) if self.layout.transposed else (columns, rows)
        a: tuple[int, ...] = (stack * rank, ins)
        b: tuple[int, ...] = (outs, rank * stack)
        if self.layout is Layout.CONV:
            kernel = self.parameter.tuned.shape[2:]
            a, b = (rank, self.parameter.tuned.shape[1], *kernel), (outs, rank, *(1 for _ in kernel))
        embedding = self.layout is Layout.EMBEDDING
        roles = (Role.EMBEDDING_A, Role.EMBEDDING_B) if embedding else (Role.A, Role.B)
        return {f"{PREFIX}{self.key}.{role}": shape for role, shape in zip(roles, (a, b), strict=True)}

    def arrange(self, factors: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """A and B by name, from (L, R) of each matrix of the stack."""
        pairs = [(left.T, right.T) if self.layout.transposed else (right, left) for left, right in factors]
        a = torch.cat([a for a, _ in pairs])
        b = torch.stack([b for _, b in pairs], 2)
        shapes = self.shapes(pairs[0][0].shape[0])
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), (a, b), strict=True)}
