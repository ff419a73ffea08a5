"""HiRA: the weight changed in proportion to itself (Huang et al. 2025, openreview.net/forum?id=TwJrTz9cRS).

    Linear       W[out, in]              + W ∘ (B[out, r] @ A[r, in])
    Conv1D       W[in, out]              + W ∘ (B[out, r] @ A[r, in]).T          transformers' layer of GPT-2
    Embedding    W[num, dim]             + W ∘ (B[dim, r] @ A[r, num]).T
    Conv1d/2d/3d W[out, in * kernel]     + W ∘ (B[out, r] @ A[r, in * kernel])   without groups

There is no scaling. Source: `HiraLayer._merge` and `get_delta_weight` of PEFT's tuners/hira.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.patterns import compile_pattern, pattern_value
from ingot.adapters.terms import Apply, Load, Needs
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Modulated:
    """W + W ∘ (left @ right)."""

    left: Factor  # [rows, r]
    right: Factor  # [r, columns]
    needs = Needs.TILE
    formula = "W + W∘(B@A)"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.left.shape[0], self.right.shape[1])

    def factors(self) -> tuple[Factor, ...]:
        return (self.left, self.right)

    def make(self, load: Load, _whole: Whole, /) -> Apply:
        left, right = map(load, self.factors())

        def apply(tile: torch.Tensor, row: int) -> None:
            tile.addcmul_(tile, left[row : row + len(tile)] @ right)

        return apply

    def flops(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns * (self.right.shape[0] + 1)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    unknown = module.kind is ModuleKind.UNKNOWN
    if module.kind is ModuleKind.EMBEDDING or (unknown and layer.get("hira_embedding_A") is not None):
        left, right = _of_embedding(layer, module)
    elif len(module.parameters["weight"]) > 2:
        left, right = _of_convolution(layer, module)
    else:
        left, right = _of_matrix(layer, module)
    return (Edit("weight", 0, Rewritten(Modulated(left, right))),)


def _of_matrix(layer: Layer, module: Module) -> tuple[Factor, Factor]:
    rank = _rank(layer, "hira_A", layer.axis("hira_A", module, 0, of=2))
    outputs, inputs = layer.axis("hira_B", module, 0, of=2), layer.axis("hira_A", module, 1, of=2)
    transposed = layer.is_transposed(module, outputs, inputs)
    _, rows, columns = module.view("weight")
    outputs, inputs = (columns, rows) if transposed else (rows, columns)
    b, a = layer.check_shape("hira_B", module, outputs, rank), layer.check_shape("hira_A", module, rank, inputs)
    return (a.T, b.T) if transposed else (b, a)


def _of_embedding(layer: Layer, module: Module) -> tuple[Factor, Factor]:
    rank = _rank(layer, "hira_embedding_A", layer.axis("hira_embedding_A", module, 0, of=2))
    _, rows, columns = module.view("weight")
    a = layer.check_shape("hira_embedding_A", module, rank, rows)
    return a.T, layer.check_shape("hira_embedding_B", module, columns, rank).T


def _of_convolution(layer: Layer, module: Module) -> tuple[Factor, Factor]:
    outputs, inputs, *kernel = module.parameters["weight"]
    if module.groups != 1:
        what, found = "HiRA has no form for a convolution with groups", f"{module.groups} groups in `{module.path}`"
        raise AdapterError(what, where=f"`{layer.need('hira_A').ref.name}`", found=found)
    rank = _rank(layer, "hira_A", layer.axis("hira_A", module, 0, of=2 + len(kernel)))
    b = layer.check_shape("hira_B", module, outputs, rank, *(1,) * len(kernel))
    a = layer.check_shape("hira_A", module, rank, inputs, *kernel)
    return b.then("reshape", outputs, rank), a.then("reshape", rank, inputs * math.prod(kernel))


def _rank(layer: Layer, role: str, found: int) -> int:
    fields = layer.fields
    own = pattern_value(layer.path, fields.mapping_of_integers("rank_pattern"), None)
    # subtle: PEFT heeds rank_pattern only for an adapter that is added to another one. The rank scales nothing.
    return found if found == own else layer.check_rank(role, found, fields.integer("r", 32))


def check(fields: Fields) -> None:
    fields.integer("r", 32)
    fields.boolean("fan_in_fan_out")
    for pattern in fields.mapping_of_integers("rank_pattern"):
        compile_pattern(pattern)


METHOD = Method(
    peft_type="HIRA",
    title="HiRA",
    roles=("hira_A", "hira_B", "hira_embedding_A", "hira_embedding_B"),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D, ModuleKind.EMBEDDING, ModuleKind.CONV}),
    check=check,
)
