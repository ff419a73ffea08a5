"""HRA: a chain of Householder reflections of a layer's inputs (Yuan et al. 2024, arXiv:2405.17484).

    Linear  W[out, in]         @ H_1 H_2 ... H_r
    Conv2d  W[out, in * k * k] @ H_1 H_2 ... H_r

H_i = I - 2 u_i u_i^T with u_i the columns of hra_u[in, r] made to length 1; with `apply_GS` they are made orthogonal
first, by Gram and Schmidt. The product is I - U T U^T with T[r, r] upper triangular (Bischof and Van Loan 1987), so
that a row costs 4 r operations for each input, and no matrix [in, in] is made. Source: PEFT's tuners/hra.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.methods.rotation import refuse_convolution
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Apply, Load, Needs
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch

#: Of a vector's length: what Gram and Schmidt must leave of it. Below, float32 leaves PEFT's own result three digits.
INDEPENDENT = 1e-4


@dataclass(frozen=True)
class Reflections:
    """W @ H_1 ... H_r."""

    vectors: Factor  # U[columns, r]
    height: int
    orthogonal: bool
    formula = "W@Π(I-2uuᵀ)"
    needs = Needs.TILE

    @property
    def shape(self) -> tuple[int, int]:
        return (self.height, self.vectors.shape[0])

    def factors(self) -> tuple[Factor, ...]:
        return (self.vectors,)

    def make(self, load: Load, _whole: Whole, /) -> Apply:
        stored = load(self.vectors)
        units = self._orthogonalized(stored) if self.orthogonal else stored / stored.norm(dim=0)
        left, right = units @ triangle(units), units.T
        return lambda tile, _row: tile.addmm_(tile @ left, right, alpha=-1)

    def _orthogonalized(self, stored: torch.Tensor) -> torch.Tensor:
        """The columns one after the other without what lies along those before them, made to length 1."""
        import torch

        vectors: list[torch.Tensor] = []
        for column in stored.double().T:
            rest = column
            for before in vectors:
                rest = rest - (before @ rest) * before
            if not rest.norm() > INDEPENDENT * column.norm():
                raise AdapterError(
                    "two reflections nearly agree, so that rounding alone decides what Gram and Schmidt make of them",
                    where=f"`{self.vectors.ref.name}`",
                    found=f"column {len(vectors)} is a sum of those before it",
                    hint="Adapters start so: this one may never have been trained. Otherwise serve it unmerged.",
                )
            vectors.append(rest / rest.norm())
        return torch.stack(vectors, dim=1).to(stored.dtype)

    def flops(self) -> int:
        rows, columns = self.shape
        return 4 * rows * columns * self.vectors.shape[1]


def triangle(units: torch.Tensor) -> torch.Tensor:
    """T[r, r] with (I - 2 u_1 u_1^T) ... (I - 2 u_r u_r^T) = I - U T U^T, for columns u_i of length 1."""
    import torch

    rank = units.shape[1]
    matrix = 2 * torch.eye(rank, dtype=units.dtype, device=units.device)
    inner = units.T @ units
    for n in range(1, rank):
        matrix[:n, n] = -2 * (matrix[:n, :n] @ inner[:n, n])
    return matrix


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    refuse_convolution(layer, "hra_u", module)
    _, rows, columns = module.view("weight")
    vectors = layer.check_shape("hra_u", module, columns, layer.fields.integer("r", 8))
    return (Edit("weight", 0, Rewritten(Reflections(vectors, rows, layer.fields.boolean("apply_GS")))),)


def check(fields: Fields) -> None:
    fields.integer("r", 8)
    fields.boolean("apply_GS")


METHOD = Method(
    peft_type="HRA",
    title="HRA",
    roles=("hra_u",),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV}),
    kernels=(2,),
    check=check,
)
