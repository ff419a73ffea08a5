"""A `Combined` at work: its deltas made tile by tile, looked at as often as the method asks, and combined.

Whatever is decided of an element (is it among the largest? does it agree?) is decided by float32 deltas of the very
tiles that are changed later, so that both passes decide alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ingot.adapters.terms import Apply, Load, Tiles
from ingot.combine import sce
from ingot.combine.combined import Combined
from ingot.combine.consensus import agreement, total
from ingot.combine.deltas import Delta
from ingot.combine.keeping import keep, magnitudes
from ingot.combine.parameters import Method
from ingot.combine.selection import Census, Cut
from ingot.kernels.grid import TileGrid
from ingot.kernels.rounding import STRIP_NBYTES, counter_key


@dataclass(frozen=True)
class Found:
    """What is known of all elements.

    Attributes:
        cuts: of each contribution, by `Keep.ranks`; of `sce` one for all.
        coefficients: ηᵢ of `sce`.
    """

    cuts: tuple[tuple[Cut, ...], ...] = ()
    coefficients: tuple[float, ...] = ()


class Running:
    """The deltas of one tensor, prepared."""

    def __init__(self, combined: Combined, load: Load, tiles: Tiles) -> None:
        self._combined = combined
        self._tiles = tiles
        self._device = next((load(factor).device for factor in combined.factors()), torch.device("cpu"))
        self._deltas = [Delta(n, one, load, tiles) for n, one in enumerate(combined.contributions)]
        self._weights = [one.weight for one in combined.contributions]
        self._keep = keep(combined.combination)
        self._keys = [
            counter_key(f"{combined.seed}\0{combined.tensor}\0{one.adapter}") for one in combined.contributions
        ]

    # -- looking ------------------------------------------------------------------------------------------------

    def find(self) -> Found:
        """What must be known of all elements before the first is changed: no pass over them, or two to four."""
        combined = self._combined
        if not combined.looks:
            return Found(tuple(() for _ in self._deltas))
        size = combined.shape[0] * combined.shape[1]
        if combined.combination.method is Method.SCE:
            return self._find_sce(size)
        ranks = self._keep.ranks(size)
        census = Census(lambda: ((row, [magnitudes(delta) for delta in deltas]) for row, deltas in self._sweep()), size)
        return Found(tuple(census.cuts([ranks] * len(self._deltas))))

    def _find_sce(self, size: int) -> Found:
        combined, cut = self._combined, None
        if combined.combination.density < 1:
            census = Census(
                lambda: ((row, [sce.variance(deltas, combined.adapters)]) for row, deltas in self._sweep()), size
            )
            ((cut,),) = census.cuts([(int(census.nonzero[0] * combined.combination.density),)])
        energies = [0.0] * len(self._deltas)
        for row, deltas in self._sweep():
            selected = None if cut is None else cut.holds(sce.variance(deltas, combined.adapters), row)
            for number, delta in enumerate(deltas):
                energies[number] += sce.energy(delta, selected)
        return Found(() if cut is None else ((cut,),), sce.coefficients(energies))

    def _sweep(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """All deltas, tile by tile, in the tiles in which the tensor is changed."""
        for row, tile in self._whole_tiles():
            yield row, [delta.of(tile, row) for delta in self._deltas]

    def _whole_tiles(self) -> Iterator[tuple[int, torch.Tensor]]:
        if not all(delta.additive for delta in self._deltas):
            yield from self._tiles()
            return
        grid = TileGrid(*self._combined.shape)
        for begin, end in map(grid.rows_of, range(grid.count)):
            yield begin, torch.empty(end - begin, grid.columns, device=self._device)

    # -- changing -----------------------------------------------------------------------------------------------

    def changing(self, found: Found) -> Apply:
        """What changes tiles, by what was found."""
        scale = self._combined.combination.scale

        def apply(tile: torch.Tensor, row: int) -> None:
            deltas = [delta.of(tile, row) for delta in self._deltas]
            # in strips: temporaries that stay in a core's cache
            height = max(1, STRIP_NBYTES // 4 // max(1, tile.shape[1]))
            for first in range(0, len(tile), height):
                strip = slice(first, first + height)
                change = self._combine([delta[strip] for delta in deltas], row + first, found)
                tile[strip].add_(change, alpha=scale)

        return apply

    def _combine(self, deltas: Sequence[torch.Tensor], row: int, found: Found) -> torch.Tensor:
        combination = self._combined.combination
        if combination.method is Method.SCE:
            cut = found.cuts[0][0] if found.cuts else None
            selected = None if cut is None else cut.holds(sce.variance(deltas, self._combined.adapters), row)
            return sce.erased(deltas, selected, found.coefficients)
        if not combination.method.exact:
            deltas = [
                delta * self._keep.factor(delta, row, cuts, key)
                for delta, cuts, key in zip(deltas, found.cuts, self._keys, strict=True)
            ]
        if combination.method.elects:
            return agreement(deltas, self._weights, combination.majority)
        return total(deltas, self._weights)
