"""VB-LoRA: both factors put together of vectors from one bank that all layers share (Li et al. 2024, arXiv:2405.15179).

    W[out, in] + B[out, r] @ A[r, in]

A row of A is in/d tiles of d elements, a column of B is out/d tiles. A tile is a mixture of `topk` vectors of the bank
V[count, d]: of the largest logits, by their softmax. There is no scaling. The file holds the logits, logits_A[r, in/d,
count] and logits_B[out/d, r, count]; or, with `save_only_topk_weights`, the vectors' numbers and all weights but the
last, which is what is left of 1. Source: `_get_lora_matrices` of PEFT's tuners/vblora/layer.py,
`_remap_adapter_state_dict_for_load` of its model.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor, Indices
from ingot.adapters.fields import Fields
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.products import Product, check_range
from ingot.adapters.methods.weights import Weight, shared
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Load
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


class Mixture(Protocol):
    """The tiles of a factor: data until `read`."""

    def factors(self) -> tuple[Factor, ...]: ...

    def read(self, load: Load, count: int, /) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights and numbers of `count` vectors, both [..., ..., topk]."""


@dataclass(frozen=True)
class Logits:
    """All logits, of which the `topk` largest count."""

    logits: Factor
    topk: int

    def factors(self) -> tuple[Factor, ...]:
        return (self.logits,)

    def read(self, load: Load, _count: int, /) -> tuple[torch.Tensor, torch.Tensor]:
        values, numbers = load(self.logits).topk(self.topk, dim=-1)
        return values.softmax(dim=-1), numbers


@dataclass(frozen=True)
class TopWeights:
    """The numbers of the `topk` vectors, and their weights without the last."""

    numbers: Indices
    weights: Factor

    def factors(self) -> tuple[Factor, ...]:
        return (self.numbers, self.weights)

    def read(self, load: Load, count: int, /) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        numbers, weights = load(self.numbers), load(self.weights)
        check_range(numbers, count, self.numbers)
        return torch.cat([weights, 1 - weights.sum(dim=-1, keepdim=True)], dim=-1), numbers


@dataclass(frozen=True)
class Mixed(Product):
    """B @ A, each tile a mixture of vectors of the bank."""

    a: Mixture
    b: Mixture
    bank: Factor  # [count, d]
    formula = "W + B@A, of a vector bank"

    def factors(self) -> tuple[Factor, ...]:
        return (*self.a.factors(), *self.b.factors(), self.bank)

    def matrices(self, load: Load, /) -> tuple[torch.Tensor, torch.Tensor]:
        bank = load(self.bank)
        a, b = (_mixed(*mixture.read(load, len(bank)), bank) for mixture in (self.a, self.b))
        return b.transpose(1, 2).reshape(-1, self.rank), a.reshape(self.rank, -1)


def _mixed(weights: torch.Tensor, numbers: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """[..., ..., topk] to [..., ..., d]."""
    tiles = weights.new_zeros(*numbers.shape[:-1], bank.shape[1])
    for at in range(numbers.shape[-1]):
        tiles += weights[..., at, None] * bank[numbers[..., at]]
    return tiles


def check(fields: Fields) -> None:
    count, topk = fields.integer("num_vectors", 256), fields.integer("topk", 2)
    fields.integer("r", 4)
    fields.integer("vector_length", 256)
    fields.boolean("save_only_topk_weights")
    fields.boolean("fan_in_fan_out")
    if topk > count:
        fields.refuse("topk", f"at most `num_vectors`, {count}")


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    weight, rank = Weight.of(layer, module), layer.fields.integer("r", 4)
    length, count = layer.fields.integer("vector_length", 256), layer.fields.integer("num_vectors", 256)
    if weight.outputs % length or weight.inputs % length:
        raise AdapterError(
            "`vector_length` does not divide a weight into tiles", where=f"`{layer.path}`",
            expected=f"a divisor of {weight.outputs} and {weight.inputs}", found=length,
        )  # fmt: skip
    bank = shared(layer, "vblora_vector_bank", count, length)
    a = _mixture(layer, module, "vblora_logits_A", rank, weight.inputs // length)
    b = _mixture(layer, module, "vblora_logits_B", weight.outputs // length, rank)
    return weight.plus(Mixed(weight.shape, rank, a, b, bank))


def _mixture(layer: Layer, module: Module, role: str, *tiles: int) -> Mixture:
    topk = layer.fields.integer("topk", 2)
    if not layer.fields.boolean("save_only_topk_weights"):
        count = layer.fields.integer("num_vectors", 256)
        return Logits(layer.check_shape(role, module, *tiles, count), topk)
    numbers = layer.check_shape(f"{role}_topk_indices", module, *tiles, topk)
    weights = layer.check_shape(f"{role}_topk_weights", module, *tiles, topk - 1)
    return TopWeights(numbers.as_indices(), weights)


METHOD = Method(
    peft_type="VBLORA",
    title="VB-LoRA",
    roles=tuple(f"vblora_logits_{side}{part}" for side in "AB" for part in ("", "_topk_indices", "_topk_weights")),
    edits=edits,
    shared=("vblora_vector_bank",),
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D}),
    check=check,
)
