"""AdaLoRA: LoRA in the form of an SVD whose rank is pruned in training (Zhang et al. 2023, arXiv:2303.10512).

    Linear, Conv1D  W[out, in]           + s * B[out, r] @ (A[r, in] * E[r, 1])
    Conv2d          W[out, in * kernel]  + s * B[out, r] @ (A[r, in * kernel] * E[r, 1])

s = lora_alpha / (init_r + 1e-5), whatever rank is left; where lora_alpha is not above 0, r / (init_r + 1e-5).
`rank_pattern` lists which of a module's init_r ranks were kept: the file holds those alone, perhaps none.
Source: `SVDLinear`, `SVDConv2d` and `resize_modules_by_rank_pattern` of PEFT's tuners/adalora.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Plus
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.products import Product
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Load

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SingularProduct(Product):
    """D = (left[rows, r] * values[r]) @ right[r, columns]."""

    left: Factor
    values: Factor
    right: Factor
    formula = "W + s·B@(A·E)"

    def factors(self) -> tuple[Factor, ...]:
        return (self.left, self.values, self.right)

    def matrices(self, load: Load, /) -> tuple[torch.Tensor, torch.Tensor]:
        return load(self.left) * load(self.values), load(self.right)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    rank = layer.check_rank("lora_A", layer.axis("lora_A", module, 0, of=2), _kept(layer))
    outputs, inputs = layer.axis("lora_B", module, 0, of=2), layer.axis("lora_A", module, 1, of=2)
    transposed = layer.is_transposed(module, outputs, inputs)
    _, rows, columns = module.view("weight")
    out_in = (columns, rows) if transposed else (rows, columns)
    b = layer.check_shape("lora_B", module, out_in[0], rank)
    a = layer.check_shape("lora_A", module, rank, out_in[1])
    e = layer.check_shape("lora_E", module, rank, 1).then("reshape", rank)
    delta = SingularProduct((rows, columns), rank, *((a.T, e, b.T) if transposed else (b, e, a)))
    alpha = layer.fields.real("lora_alpha", 8)
    scaling = (alpha if alpha > 0 else rank) / (layer.fields.integer("init_r", 12) + 1e-5)
    return (Edit("weight", 0, Plus(delta, scaling)),)


def _kept(layer: Layer) -> int:
    """How many of its ranks a module kept."""
    return _patterns(layer.fields).get(f"{layer.path}.lora_E", layer.fields.integer("init_r", 12))


def _patterns(fields: Fields) -> dict[str, int]:
    """`rank_pattern`: of each name of an E, how many ranks are kept."""
    kept, count = {}, fields.integer("init_r", 12)
    for name, ranks in fields.mapping("rank_pattern").items():
        if not isinstance(ranks, list) or not all(isinstance(rank, bool) for rank in ranks) or len(ranks) != count:
            fields.refuse("rank_pattern", f"lists of {count} times true or false, by the names of tensors")
        kept[name] = sum(ranks)
    return kept


def check(fields: Fields) -> None:
    fields.integer("init_r", 12)
    fields.real("lora_alpha", 8)
    fields.boolean("fan_in_fan_out")
    _patterns(fields)


METHOD = Method(
    peft_type="ADALORA",
    title="AdaLoRA",
    roles=("lora_A", "lora_B", "lora_E"),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D, ModuleKind.CONV}),
    kernels=(2,),
    check=check,
)
