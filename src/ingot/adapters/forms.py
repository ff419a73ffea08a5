"""The two forms that a change can take which is no product of two stored factors.

    Plus        W + s * D, where D[rows, columns] follows from the adapter alone
    Rewritten   f(W), where the change depends on the weight itself

A method writes the formula as a small `Delta` or `Rewrite`; what makes a Term of it (blocks, transposes, weights) is
here, once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ingot.adapters.factor import Factor
from ingot.adapters.terms import Apply, Load, Needs, Tiles
from ingot.errors import MismatchError

if TYPE_CHECKING:
    import torch

#: Rows [begin, end) of a delta, all its columns, in the dtype that `load` gave.
Rows = Callable[[int, int], "torch.Tensor"]
#: The whole matrix that a term starts from, every term before it applied.
Whole = Callable[[], "torch.Tensor"]


class Delta(Protocol):
    """D[rows, columns] of W + s * D: data until `make` reads its factors."""

    @property
    def formula(self) -> str:
        """The change in one short line for the plan, the same for all of one kind: "W + s·(w1∘w2)"."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), as the module's own parameter has them in memory (`Module.view`)."""

    def factors(self) -> tuple[Factor, ...]:
        """All factors that it reads."""

    def make(self, load: Load, /) -> Rows:
        """Read the factors; then give any rows of D, computed in their dtype. Must not depend on how rows are cut."""

    def flops(self) -> int:
        """Floating point operations for the whole of D."""


class Rewrite(Protocol):
    """f(W[rows, columns]): data until `make` reads its factors."""

    @property
    def formula(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def needs(self) -> Needs:
        """TILE where each row of f(W) follows from that row of W alone; WHOLE where it takes more of W."""

    def factors(self) -> tuple[Factor, ...]: ...

    def make(self, load: Load, whole: Whole, /) -> Apply:
        """Read the factors, and `whole()` where the change needs it; return what changes rows of W in place."""

    def flops(self) -> int: ...


@dataclass(frozen=True)
class Plus:
    """W + scaling * D, or the block D[rows, columns] of it, or the transpose of that block."""

    delta: Delta
    scaling: float = 1.0
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    flipped: bool = False
    needs = Needs.TILE

    @property
    def formula(self) -> str:
        return self.delta.formula

    @property
    def rank(self) -> int | None:
        return getattr(self.delta, "rank", None)

    @property
    def shape(self) -> tuple[int, int]:
        (top, bottom), (first, last) = self._block
        size = (bottom - top, last - first)
        return (size[1], size[0]) if self.flipped else size

    @property
    def _block(self) -> tuple[tuple[int, int], tuple[int, int]]:
        height, width = self.delta.shape
        return self.rows or (0, height), self.columns or (0, width)

    def factors(self) -> tuple[Factor, ...]:
        return self.delta.factors()

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Plus:
        down, across = (columns, rows) if self.flipped else (rows, columns)
        (top, _), (first, _) = self._block
        return replace(self, rows=(top + down[0], top + down[1]), columns=(first + across[0], first + across[1]))

    def transposed(self) -> Plus:
        return replace(self, flipped=not self.flipped)

    def prepare(self, load: Load, _tiles: Tiles, /) -> Apply:
        make = self.delta.make(load)
        (top, bottom), (first, last) = self._block
        # Rows of the transpose are columns of D, which takes all of its rows.
        turned = make(top, bottom)[:, first:last].T if self.flipped else None

        def apply(tile: torch.Tensor, row: int) -> None:
            end = row + len(tile)
            block = make(top + row, top + end)[:, first:last] if turned is None else turned[row:end]
            tile.add_(block.to(tile.dtype), alpha=self.scaling)

        return apply

    def flops(self) -> int:
        return self.delta.flops()


@dataclass(frozen=True)
class Rewritten:
    """f(W) of one whole parameter, or of its transpose."""

    rewrite: Rewrite
    flipped: bool = False

    @property
    def formula(self) -> str:
        return self.rewrite.formula

    @property
    def needs(self) -> Needs:
        return Needs.WHOLE if self.flipped else self.rewrite.needs

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.rewrite.shape
        return (columns, rows) if self.flipped else (rows, columns)

    def factors(self) -> tuple[Factor, ...]:
        return self.rewrite.factors()

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Rewritten:
        if (rows, columns) != ((0, self.shape[0]), (0, self.shape[1])):
            raise MismatchError(
                f"'{self.formula}' changes a weight that stands in several tensors on disk",
                where=f"`{self.factors()[0].ref.name}`",
                found=f"rows {list(rows)} and columns {list(columns)} of {list(self.shape)}",
                hint="Load the base with transformers, save it with save_pretrained, and merge into that checkpoint.",
            )
        return self

    def transposed(self) -> Rewritten:
        return replace(self, flipped=not self.flipped)

    def prepare(self, load: Load, tiles: Tiles, /) -> Apply:
        if not self.flipped:
            return self.rewrite.make(load, lambda: gather(self.shape, tiles))
        weight = gather(self.shape, tiles).T.contiguous()
        self.rewrite.make(load, lambda: weight.clone())(weight, 0)
        changed = weight.T

        def apply(tile: torch.Tensor, row: int) -> None:
            tile.copy_(changed[row : row + len(tile)])

        return apply

    def flops(self) -> int:
        return self.rewrite.flops()


def gather(shape: tuple[int, int], tiles: Tiles) -> torch.Tensor:
    """The tiles of a matrix put together, in their own dtype: rows * columns * 4 bytes in float32."""
    import torch

    matrix: torch.Tensor | None = None
    for row, tile in tiles():
        if matrix is None:
            matrix = torch.empty(shape, dtype=tile.dtype, device=tile.device)
        matrix[row : row + len(tile)] = tile
    return torch.empty(shape) if matrix is None else matrix
