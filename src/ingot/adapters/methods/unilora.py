"""Uni-LoRA: the factors of all layers put together of the elements of one trained vector (arXiv:2506.00799).

    W[out, in] + B[out, r] @ A[r, in]
    A = θ[i_A] * c[i_A],  B = θ[i_B] * c[i_B],  c[k] = 1 / sqrt(how many elements of all layers are θ[k])

θ = unilora_theta_d. With `save_indices` a layer's i_A, i_B and its scales, c[i_A] and c[i_B], are in the file.
Otherwise they follow from `proj_seed` for all layers at once, in the order of the model, and the config alone says
which layers those are; PEFT rounds c to the dtype of the weight under the layer. There is no scaling. Source:
`_get_lora_matrices` of PEFT's tuners/unilora/layer.py, `_assign_unilora_indices_and_scales` and `generate_index` of its
model.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor, Indices
from ingot.adapters.fields import Fields
from ingot.adapters.methods.drawn import PEFT_NBYTES, Drawn, need_peft, once
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.products import Product, check_range
from ingot.adapters.methods.weights import Weight, number_of, refuse_unsaved, shared, weight_of
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Load

if TYPE_CHECKING:
    import torch


class Choice(Protocol):
    """Which elements of θ a factor is made of: data until `read`."""

    def factors(self) -> tuple[Factor, ...]: ...

    def read(self, load: Load, theta: torch.Tensor, /) -> torch.Tensor:
        """θ[i] * c[i], in the shape of the factor."""


@dataclass(frozen=True)
class Stored:
    """As the file says."""

    indices: Indices
    scales: Factor

    def factors(self) -> tuple[Factor, ...]:
        return (self.indices, self.scales)

    def read(self, load: Load, theta: torch.Tensor, /) -> torch.Tensor:
        indices = load(self.indices)
        check_range(indices, len(theta), self.indices)
        return theta[indices] * load(self.scales)


@dataclass(frozen=True)
class Numbering:
    """One element of θ for each of `total` elements of all factors, each of θ equally often."""

    total: int
    length: int
    seed: int

    def read(self, load: Load, theta: torch.Tensor, /) -> Drawn:
        """The indices of all, and c."""
        return tuple(part.to(theta.device) for part in once(load, self, self.draw))

    def draw(self) -> Drawn:
        import torch
        from peft.tuners.unilora.model import UniLoraModel

        indices: torch.Tensor = UniLoraModel.generate_index(self.total, self.length, self.seed)
        counts = torch.bincount(indices, minlength=self.length)
        scales = torch.where(counts > 0, counts.float().rsqrt(), 0.0)
        return indices.to(torch.int32), scales


@dataclass(frozen=True)
class Seeded:
    """The elements from `begin` on of a numbering; scales are rounded to `dtype`."""

    numbering: Numbering
    begin: int
    shape: tuple[int, int]
    dtype: str | None

    def factors(self) -> tuple[Factor, ...]:
        return ()

    def read(self, load: Load, theta: torch.Tensor, /) -> torch.Tensor:
        from ingot.kernels.dtypes import TORCH_DTYPE

        indices, scales = self.numbering.read(load, theta)
        rows, columns = self.shape
        mine = indices[self.begin : self.begin + rows * columns].view(self.shape).long()
        if self.dtype is not None:
            scales = scales.to(TORCH_DTYPE[self.dtype])
        return theta[mine] * scales.to(theta)[mine]


@dataclass(frozen=True)
class Chosen(Product):
    """B @ A."""

    theta: Factor
    a: Choice
    b: Choice
    formula = "W + B@A, of a shared vector"

    @property
    def drawn_nbytes(self) -> int:
        """PEFT shuffles the indices of all layers, int64, in two steps."""
        return PEFT_NBYTES + 24 * self.a.numbering.total if isinstance(self.a, Seeded) else 0

    def factors(self) -> tuple[Factor, ...]:
        return (self.theta, *self.a.factors(), *self.b.factors())

    def matrices(self, load: Load, /) -> tuple[torch.Tensor, torch.Tensor]:
        theta = load(self.theta)
        return self.b.read(load, theta), self.a.read(load, theta)


def is_implicit(fields: Fields) -> bool:
    return not fields.boolean("save_indices")


def check(fields: Fields) -> None:
    fields.integer("r", 4)
    fields.integer("theta_d_length", 256)
    fields.boolean("fan_in_fan_out")
    if is_implicit(fields):
        fields.seed("proj_seed", 42)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    weight, fields = Weight.of(layer, module), layer.fields
    rank = fields.integer("r", 4)
    theta = shared(layer, "unilora_theta_d", fields.integer("theta_d_length", 256))
    choose = _seeded if is_implicit(fields) else _stored
    a, b = choose(layer, module, (rank, weight.inputs), (weight.outputs, rank))
    return weight.plus(Chosen(weight.shape, rank, theta, a, b))


def _stored(layer: Layer, module: Module, a: tuple[int, int], b: tuple[int, int]) -> tuple[Choice, Choice]:
    def side(name: str, shape: tuple[int, int]) -> Stored:
        indices = layer.check_shape(f"unilora_indices_{name}", module, *shape).as_indices()
        return Stored(indices, layer.check_shape(f"unilora_scales_{name}", module, *shape))

    return side("A", a), side("B", b)


def _seeded(layer: Layer, module: Module, a: tuple[int, int], b: tuple[int, int]) -> tuple[Choice, Choice]:
    need_peft()
    refuse_unsaved("save_indices", layer.tensors.values())
    number, fields = number_of(layer), layer.fields
    sizes = [fields.integer("r", 4) * sum(weight_of(other).shape) for other in layer.modules.values()]
    numbering = Numbering(sum(sizes), fields.integer("theta_d_length", 256), fields.seed("proj_seed", 42))
    begin, dtype = sum(sizes[:number]), module.dtypes.get("weight")
    return Seeded(numbering, begin, a, dtype), Seeded(numbering, begin + math.prod(a), b, dtype)


METHOD = Method(
    peft_type="UNILORA",
    title="Uni-LoRA",
    roles=("unilora_indices_A", "unilora_indices_B", "unilora_scales_A", "unilora_scales_B"),
    edits=edits,
    shared=("unilora_theta_d",),
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D}),
    check=check,
    implicit=is_implicit,
)
