"""Which rows of a tensor belong to which tile. Apart from `tile`, so that counting tiles needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Elements of a tile: 2 MiB of float32. Larger tiles fall out of a core's cache between reading, adding and rounding;
#: smaller ones cost more calls than they save (measured: 2^18 takes an eighth more CPU time for a whole merge).
TILE_ELEMENTS = 1 << 19


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
