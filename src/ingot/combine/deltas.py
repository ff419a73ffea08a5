"""One adapter's delta of one tensor, Δ = f(W) - W, tile by tile.

What only adds (LoRA, biases, LoHa, ...) is added to zero, so that Δ has all the bits of float32 and W need not be read.
What changes W itself (DoRA, rotations, ...) is applied to a copy of W, and W is subtracted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ingot.adapters.terms import Load, Tiles
from ingot.combine.combined import Contribution, beside_name
from ingot.kernels.tile import BlockChange, apply_changes
from ingot.naming.placed import PlacedTerm


class Delta:
    """The delta of one contribution, its terms prepared."""

    def __init__(self, number: int, contribution: Contribution, load: Load, tiles: Tiles) -> None:
        """`number`: of the contribution in its `Combined`; `tiles`: of the whole tensor, unchanged."""
        self.additive = contribution.additive
        self._tiles = tiles
        self._changes: list[BlockChange] = []
        for at, placed in enumerate(contribution.terms):
            inner = _InnerTiles(placed, beside_name(number, at, ""), tiles, tuple(self._changes))
            apply = placed.term.prepare(load, inner)
            self._changes.append(BlockChange(placed.rows, placed.columns, apply))

    def of(self, tile: torch.Tensor, row: int, out: torch.Tensor) -> torch.Tensor:
        """Δ of the rows of tile[rows, columns], which begin at row `row` of W, in `out`; what adds needs no values."""
        if self.additive:
            apply_changes(out.zero_(), row, self._changes)
            return out
        apply_changes(out.copy_(tile), row, self._changes)
        return out.sub_(tile)


@dataclass(frozen=True)
class _InnerTiles:
    """What one term of a contribution sees of the base: see `Tiles`. Earlier terms of the same adapter are applied."""

    placed: PlacedTerm
    prefix: str
    outer: Tiles
    earlier: Sequence[BlockChange]

    def __call__(self, begin: int = 0, end: int | None = None, /) -> Iterator[tuple[int, torch.Tensor]]:
        top, bottom = self.placed.rows
        last = bottom if end is None else top + end
        first, final = self.placed.columns
        for row, tile in self.outer(top + begin, last):
            apply_changes(tile, row, self.earlier)
            yield row - top, tile[:, first:final]

    def beside(self, parameter: str, /) -> Iterator[tuple[int, int, torch.Tensor]]:
        return self.outer.beside(self.prefix + parameter)
