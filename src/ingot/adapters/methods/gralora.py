"""GraLoRA: a low-rank product in every cell of a grid (Jung et al. 2025, arXiv:2505.20355).

    Linear  W[out, in] + s * D      Conv1D  W[in, out] + s * D^T

D is cut into k * k cells; the one in output band j and input band n is

    D[j, n] = B[j, n t : (n + 1) t]^T @ A[n, :, j t : (j + 1) t]^T        with t = r / k

from gralora_A[k, in / k, r] and gralora_B[k, r, out / k]. With `hybrid_r` h > 0 a plain product is added,
gralora_B_general[out, h] @ gralora_A_general[h, in]. s = alpha / (r + h). Source: PEFT's tuners/gralora.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.edit import Edit
from ingot.adapters.factor import Factor
from ingot.adapters.fields import Fields
from ingot.adapters.forms import Plus, Rows
from ingot.adapters.methods.method import Layer, Method
from ingot.adapters.module import Module, ModuleKind
from ingot.adapters.terms import Load, LowRank

if TYPE_CHECKING:
    import torch

_A, _B = "gralora_A_general.weight", "gralora_B_general.weight"


@dataclass(frozen=True)
class Grid:
    """D whose cell in row band p and column band q is left[p, :, q t : (q + 1) t] @ right[q, p t : (p + 1) t, :]."""

    left: Factor  # [k, rows / k, r]
    right: Factor  # [k, r, columns / k]
    formula = "W + s·grid(B@A)"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.left.shape[0] * self.left.shape[1], self.right.shape[0] * self.right.shape[2])

    @property
    def rank(self) -> int:
        return self.left.shape[2]

    def factors(self) -> tuple[Factor, ...]:
        return (self.left, self.right)

    def make(self, load: Load, /) -> Rows:
        left, right = load(self.left), load(self.right)
        return lambda begin, end: _rows(left, right, begin, end)

    def flops(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns * self.rank // self.left.shape[0]


def _rows(left: torch.Tensor, right: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    """Rows [begin, end) of D, band after band."""
    import torch

    bands, height, rank = left.shape
    cell = rank // bands
    parts = []
    for band in range(begin // height, -(-end // height)):
        top, bottom = max(begin - band * height, 0), min(end - band * height, height)
        own = left[band, top:bottom].view(bottom - top, bands, cell).transpose(0, 1)  # [q, rows, t]
        cells = torch.bmm(own, right[:, band * cell : (band + 1) * cell])  # [q, rows, columns / k]
        parts.append(cells.transpose(0, 1).reshape(bottom - top, -1))
    return torch.cat(parts)


def edits(layer: Layer, module: Module) -> tuple[Edit, ...]:
    fields = layer.fields
    bands, rank, hybrid = fields.integer("gralora_k", 2), fields.integer("r", 32), fields.count("hybrid_r", 0)
    outputs = bands * layer.axis("gralora_B", module, 2, of=3)
    inputs = bands * layer.axis("gralora_A", module, 1, of=3)
    a = layer.check_shape("gralora_A", module, bands, inputs // bands, rank)
    b = layer.check_shape("gralora_B", module, bands, rank, outputs // bands)
    transposed = layer.is_transposed(module, outputs, inputs)
    grid = Grid(a, b) if transposed else Grid(b.then("transpose", 1, 2), a.then("transpose", 1, 2))
    _, rows, columns = module.view("weight")
    if grid.shape != (rows, columns):
        raise layer.mismatch("gralora_A", module, f"{bands} bands of inputs and of outputs")
    scaling = fields.real("alpha", 64) / (rank + hybrid)
    found = (Edit("weight", 0, Plus(grid, scaling)),)
    if not hybrid:
        return found
    general = LowRank(
        layer.check_shape(_B, module, outputs, hybrid), layer.check_shape(_A, module, hybrid, inputs), scaling
    )
    return (*found, Edit("weight", 0, general.transposed() if transposed else general))


def check(fields: Fields) -> None:
    bands, rank = fields.integer("gralora_k", 2), fields.integer("r", 32)
    fields.count("hybrid_r", 0)
    fields.real("alpha", 64)
    fields.boolean("fan_in_fan_out")
    if rank % bands:
        fields.refuse("r", f"a multiple of `gralora_k`, {bands}")


METHOD = Method(
    peft_type="GRALORA",
    title="GraLoRA",
    roles=("gralora_A", "gralora_B", _A, _B),
    edits=edits,
    kinds=frozenset({ModuleKind.LINEAR, ModuleKind.CONV1D}),
    check=check,
)
