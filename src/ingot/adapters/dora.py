"""DoRA: a weight as magnitude times direction, the direction changed by LoRA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ingot.adapters.factor import Factor
from ingot.adapters.terms import Apply, Load, LowRank, Needs, Tiles
from ingot.errors import MismatchError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Dora:
    """magnitude / norm(V) * V with V = W + scaling * left @ right (Liu et al. 2024, arXiv:2402.09353).

    `axis` is the one that the norm runs over: 1 for Linear and convolutions (a norm for each output row, the magnitude
    has one value a row), 0 for embeddings and for Conv1D, whose outputs are columns.
    """

    update: LowRank
    magnitude: Factor
    axis: int = 1

    def __post_init__(self) -> None:
        if self.magnitude.shape != (self.shape[1 - self.axis],):
            raise MismatchError(
                "the DoRA magnitude does not fit its weight",
                where=self.magnitude.ref.name,
                expected=f"{self.shape[1 - self.axis]} values",
                found=list(self.magnitude.ref.shape),
            )

    @property
    def needs(self) -> Needs:
        return Needs.TILE if self.axis == 1 else Needs.WHOLE

    formula = "m/‖W + s·B@A‖ · (W + s·B@A)"

    @property
    def shape(self) -> tuple[int, int]:
        return self.update.shape

    def factors(self) -> tuple[Factor, ...]:
        return (*self.update.factors(), self.magnitude)

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Dora:
        kept = (rows, columns)[1 - self.axis]
        across = (rows, columns)[self.axis]
        if across != (0, self.shape[self.axis]):
            raise MismatchError(
                "a DoRA norm runs over a weight that stands in several tensors on disk", where=self.magnitude.ref.name
            )
        return replace(self, update=self.update.part(rows, columns), magnitude=self.magnitude.then("narrow", 0, *kept))

    def transposed(self) -> Dora:
        return replace(self, update=self.update.transposed(), axis=1 - self.axis)

    def prepare(self, load: Load, tiles: Tiles, /) -> Apply:
        import torch

        add = self.update.prepare(load, tiles)
        magnitude = load(self.magnitude)
        if self.axis == 0:
            squares = torch.zeros(self.shape[1], dtype=torch.float64, device=magnitude.device)
            for row, tile in tiles():
                add(tile, row)
                squares += tile.double().square_().sum(dim=0)
            factor = (magnitude / squares.sqrt_()).to(magnitude.dtype)

        def apply(tile: torch.Tensor, row: int) -> None:
            add(tile, row)
            if self.axis == 0:
                tile.mul_(factor)
            else:
                norm = torch.linalg.vector_norm(tile, dim=1)
                tile.mul_((magnitude[row : row + len(tile)] / norm).unsqueeze(1))

        return apply

    def flops(self) -> int:
        rows, columns = self.shape
        return self.update.flops() + 3 * rows * columns
