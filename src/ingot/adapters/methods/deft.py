"""DEFT: a subspace of a layer's outputs taken out and filled anew; PaRa only takes it out.

    Linear  W[out, in] + Q[out, r] @ (s * R[r, in] - P^T W)
    Conv1D  W[in, out] + (s * R^T - W P) @ Q^T

From deft_P: Q = P_stored and P = max(P_stored, 0) with `decomposition_method` relu, Q = P = the orthonormal factor of
its QR decomposition with qr. R = deft_R; with `para` there is none, and 0 stands in its place. s = alpha / r where the
config has an alpha, 1 otherwise. Source: `DeftLinear` of PEFT's tuners/deft.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Rewritten, Whole
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Apply, Load, Needs

if TYPE_CHECKING:
    import torch

_DECOMPOSITIONS = ("relu", "qr")


@dataclass(frozen=True)
class Replaced:
    """W + Q (s R - P^T W), or of W^T where `transposed`."""

    direction: Factor  # [out, r]
    injection: Factor | None  # [r, in]
    inputs: int
    scaling: float
    orthonormal: bool
    transposed: bool
    formula = "W + Q@(s·R - Pᵀ@W)"

    @property
    def needs(self) -> Needs:
        return Needs.TILE if self.transposed else Needs.TILES

    @property
    def shape(self) -> tuple[int, int]:
        outputs = self.direction.shape[0]
        return (self.inputs, outputs) if self.transposed else (outputs, self.inputs)

    def factors(self) -> tuple[Factor, ...]:
        return (self.direction,) if self.injection is None else (self.direction, self.injection)

    @property
    def kept_nbytes(self) -> int:
        return 4 * self.direction.shape[1] * (self.inputs + 2 * self.direction.shape[0])

    def make(self, load: Load, whole: Whole, /) -> Apply:
        left, right = self._project(load(self.direction))
        filling = left.new_zeros(left.shape[1], self.inputs)
        if self.injection is not None:
            filling += self.scaling * load(self.injection)

        def change_inputs(tile: torch.Tensor, row: int) -> None:
            tile.addmm_(filling.T[row : row + len(tile)] - tile @ right, left.T)

        if self.transposed:
            return change_inputs
        for row, tile in whole.tiles():
            filling.addmm_(right[row : row + len(tile)].T, tile, alpha=-1)
        return lambda tile, row: tile.addmm_(left[row : row + len(tile)], filling)

    def _project(self, stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Q and P."""
        import torch

        if self.orthonormal:
            basis, _ = torch.linalg.qr(stored)
            return basis, basis
        return stored, stored.clamp(min=0)

    def flops(self) -> int:
        rows, columns = self.shape
        return 4 * rows * columns * self.direction.shape[1]


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    fields = layer.fields
    outputs = layer.axis("deft_P", module, 0, of=2)
    rank = min(fields.integer("r", 8), outputs)
    direction = layer.check_shape("deft_P", module, outputs, rank)
    _, rows, columns = module.view("weight")
    inputs = rows * columns // outputs if outputs else 0
    transposed = layer.is_transposed(module, outputs, inputs)
    injection = None if fields.boolean("para") else layer.check_shape("deft_R", module, rank, inputs)
    scaling = (_alpha(fields) or rank) / rank
    change = Replaced(direction, injection, inputs, scaling, _decomposition(fields) == "qr", transposed)
    if change.shape != (rows, columns):
        raise layer.mismatch("deft_P", module, f"{columns if transposed else rows} outputs")
    return (Edit("weight", 0, Rewritten(change)),)


def _alpha(fields: Fields) -> float:
    return 0.0 if fields.raw.get("alpha") is None else fields.real("alpha", 0)


def _decomposition(fields: Fields) -> str:
    return fields.choice("decomposition_method", _DECOMPOSITIONS)


def check(fields: Fields) -> None:
    fields.integer("r", 8)
    fields.boolean("para")
    fields.boolean("fan_in_fan_out")
    _alpha(fields)
    _decomposition(fields)


METHOD = Method(
    peft_type="DEFT",
    title="DEFT",
    roles=("deft_P", "deft_R"),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D}),
    check=check,
)
