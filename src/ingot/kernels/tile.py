"""One tile of one tensor: where the formula happens.

    W'[rows, columns] = round( W + Σ sᵢ · Bᵢ[rows, r] @ Aᵢ[r, columns] )

All terms of all adapters accumulate in one float32 tile, and the tile is rounded once into the output dtype: to
nearest even, or as `rounding` says.

Law: an element's value does not depend on how a run was cut into chunks, on the number of workers, or on a resume,
because the rows of a tile are fixed by the tensor's own shape (`grid.TileGrid`) and a tile is always computed whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ingot.kernels.rounding import Round, nearest


@dataclass(frozen=True, slots=True)
class BlockChange:
    """`apply(block[rows, columns], row)` changes rows [rows[0], rows[1]) and columns [columns[0], columns[1])."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    apply: Callable[[torch.Tensor, int], object]

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
    weight: torch.Tensor | None,
    row: int,
    changes: Sequence[BlockChange],
    scratch: torch.Tensor,
    out: torch.Tensor,
    rounding: Round = nearest,
) -> None:
    """out[rows, columns] = rounding(weight + changes), through float32 `scratch` (flat, on the compute device).

    `weight` and `out` may be the same memory, in any float dtype; with no weight the tile starts at zero.
    """
    tile = scratch[: out.numel()].view(out.shape)
    if weight is None:
        tile.zero_()
    else:
        tile.copy_(weight)
    apply_changes(tile, row, changes)
    rounding(tile, row, out)
