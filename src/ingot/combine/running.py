"""A `Combined` at work: its deltas made tile by tile, looked at as often as the method asks, and combined.

Whatever is decided of an element (is it among the largest? does it agree?) is decided by float32 deltas of the very
tiles that are changed later, so that both passes decide alike.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ingot.adapters.terms import Apply, Load, Tiles
from ingot.combine import sce
from ingot.combine.combined import Combined
from ingot.combine.consensus import agreement, total
from ingot.combine.deltas import Delta
from ingot.combine.keeping import keep
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
        census = Census(
            lambda: ((row, [delta.abs_().float() for delta in found]) for row, found in self._sweep()), size
        )
        return Found(tuple(census.cuts([ranks] * len(self._deltas))))

    def _find_sce(self, size: int) -> Found:
        combined, cut = self._combined, None
        if combined.combination.density < 1:
            census = Census(self._variances, size)
            ((cut,),) = census.cuts([(int(census.nonzero[0] * combined.combination.density),)])
        energies = [0.0] * len(self._deltas)
        for row, deltas in self._sweep():
            for first, parts in _strips(deltas):
                selected = self._selected(parts, row + first, cut)
                for number, part in enumerate(parts):
                    energies[number] += sce.energy(part, selected)
        return Found(() if cut is None else ((cut,),), sce.coefficients(energies))

    def _variances(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        for row, deltas in self._sweep():
            scores = deltas[0]  # its own rows are not needed any more when their variance is put there
            for first, parts in _strips(deltas):
                variance = sce.variance(parts, self._combined.adapters)
                scores[first : first + len(variance)] = variance
            yield row, [scores.float()]

    def _selected(self, deltas: Sequence[torch.Tensor], row: int, cut: Cut | None) -> torch.Tensor | None:
        return None if cut is None else cut.holds(sce.variance(deltas, self._combined.adapters), row)

    def _sweep(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """All deltas, tile by tile, in the tiles in which the tensor is changed; each in the memory of the last."""
        for row, tile in self._whole_tiles():
            with _rooms(tile, len(self._deltas)) as rooms:
                yield row, [delta.of(tile, row, room) for delta, room in zip(self._deltas, rooms, strict=True)]

    def _whole_tiles(self) -> Iterator[tuple[int, torch.Tensor]]:
        if not all(delta.additive for delta in self._deltas):
            yield from self._tiles()
            return
        grid = TileGrid(*self._combined.shape)
        nothing = torch.empty(grid.height, grid.columns, device=self._device)  # what adds looks at no values
        for begin, end in map(grid.rows_of, range(grid.count)):
            yield begin, nothing[: end - begin]

    # -- changing -----------------------------------------------------------------------------------------------

    def changing(self, found: Found) -> Apply:
        """What changes tiles, by what was found."""
        scale = self._combined.combination.scale

        def apply(tile: torch.Tensor, row: int) -> None:
            with _rooms(tile, len(self._deltas)) as rooms:
                deltas = [delta.of(tile, row, room) for delta, room in zip(self._deltas, rooms, strict=True)]
                for first, parts in _strips(deltas):
                    change = self._combine(parts, row + first, found)
                    tile[first : first + len(change)].add_(change, alpha=scale)

        return apply

    def _combine(self, deltas: Sequence[torch.Tensor], row: int, found: Found) -> torch.Tensor:
        combination = self._combined.combination
        if combination.method is Method.SCE:
            cut = found.cuts[0][0] if found.cuts else None
            return sce.erased(deltas, self._selected(deltas, row, cut), found.coefficients)
        if not combination.method.exact:
            deltas = [
                delta * self._keep.factor(delta, row, cuts, key)
                for delta, cuts, key in zip(deltas, found.cuts, self._keys, strict=True)
            ]
        if combination.method.elects:
            return agreement(deltas, self._weights, combination.majority)
        return total(deltas, self._weights)


def _strips(tiles: Sequence[torch.Tensor]) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Rows of the tiles, some at a time, so that temporaries stay in a core's cache: (first row, rows of each tile)."""
    height = max(1, STRIP_NBYTES // 4 // max(1, tiles[0].shape[1]))
    for first in range(0, len(tiles[0]), height):
        yield first, [tile[first : first + height] for tile in tiles]


class _Free(threading.local):
    """Memory of tiles that this thread has used and will use again; the system would map it anew each time."""

    def __init__(self) -> None:
        self.rooms: list[torch.Tensor] = []


_FREE = _Free()


@contextmanager
def _rooms(tile: torch.Tensor, count: int) -> Iterator[list[torch.Tensor]]:
    """Room for `count` tiles of this shape. A term may look at tiles itself, and then takes other rooms."""
    taken = []
    for _ in range(count):
        room = _FREE.rooms.pop() if _FREE.rooms else tile.new_empty(0)
        fits = room.numel() >= tile.numel() and (room.dtype, room.device) == (tile.dtype, tile.device)
        taken.append(room if fits else tile.new_empty(tile.numel()))
    try:
        yield [room[: tile.numel()].view(tile.shape) for room in taken]
    finally:
        _FREE.rooms.extend(taken)
