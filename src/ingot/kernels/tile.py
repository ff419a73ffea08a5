"""One tile of one tensor: where the formula happens.

    W'[rows, columns] = round( W + Σ sᵢ · Bᵢ[rows, r] @ Aᵢ[r, columns] )

All terms of all adapters accumulate in one float32 tile, and the tile is rounded once, to nearest even, into the
output dtype.

Law: an element's value does not depend on how a run was cut into chunks, on the number of workers, or on a resume,
because the rows of a tile are fixed by the tensor's own shape (`TileGrid`) and a tile is always computed whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

#: Elements of a tile: 1 MiB of float32 stays in a core's cache while it is read, added to and rounded.
TILE_ELEMENTS = 1 << 18


@dataclass(frozen=True, slots=True)
class TileGrid:
    """A tensor as tiles of whole rows: tile t holds rows [t * height, min((t + 1) * height, rows))."""

    rows: int
    columns: int

    @property
    def height(self) -> int:
        return max(1, min(self.rows, TILE_ELEMENTS // max(1, self.columns)))

    @property
    def count(self) -> int:
        return math.ceil(self.rows / self.height) if self.rows and self.columns else 0

    def rows_of(self, tile: int) -> tuple[int, int]:
        """Rows [begin, end) of a tile."""
        return tile * self.height, min((tile + 1) * self.height, self.rows)

    def over(self, begin: int, end: int) -> range:
        """The tiles that hold any element of [begin, end), in row-major order."""
        size = self.height * self.columns
        return range(begin // size, math.ceil(end / size)) if begin < end else range(0)


@dataclass(frozen=True, slots=True)
class BlockChange:
    """`apply(block[rows, columns], row)` changes rows [rows[0], rows[1]) and columns [columns[0], columns[1])."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    apply: Callable[[torch.Tensor, int], None]

    def meets(self, begin: int, end: int) -> bool:
        return self.rows[0] < end and begin < self.rows[1]


def apply_changes(tile: torch.Tensor, row: int, changes: Sequence[BlockChange]) -> None:
    """Apply in place to the float32 tile[rows, columns], whose first row is row `row` of the tensor."""
    end = row + len(tile)
    for change in changes:
        if change.meets(row, end):
            first, last = max(row, change.rows[0]), min(end, change.rows[1])
            block = tile[first - row : last - row, change.columns[0] : change.columns[1]]
            change.apply(block, first - change.rows[0])


def merge_tile(
    weight: torch.Tensor | None, row: int, changes: Sequence[BlockChange], scratch: torch.Tensor, out: torch.Tensor
) -> None:
    """out[rows, columns] = round(weight + changes), through float32 `scratch` (flat, on the compute device).

    `weight` and `out` may be the same memory, in any float dtype; with no weight the tile starts at zero.
    """
    tile = scratch[: out.numel()].view(out.shape)
    if weight is None:
        tile.zero_()
    else:
        tile.copy_(weight)
    apply_changes(tile, row, changes)
    out.copy_(tile)
