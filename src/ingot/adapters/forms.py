"""The two forms that a change can take which is no product of two stored factors.

    Plus        W + s * D, where D[rows, columns] follows from the adapter alone
    Rewritten   f(W), where the change depends on the weight itself

A method writes the formula as a small `Delta` or `Rewrite`; what makes a Term of it (blocks, transposes, weights) is
here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ingot.adapters.factor import Factor
from ingot.adapters.terms import Apply, Load, Needs, Tiles
from ingot.errors import MismatchError

if TYPE_CHECKING:
    import torch

#: Rows [begin, end) of a delta, all its columns, in the dtype that `load` gave.
Rows = Callable[[int, int], "torch.Tensor"]


@dataclass(frozen=True)
class Whole:
    """What a rewrite may see of the base: the matrix that it starts from, every term before it applied, and more.

    Attributes:
        shape: (rows, columns) of the matrix.
        tiles: the matrix as tiles, and what stands beside it; see `terms.Tiles`.
    """

    shape: tuple[int, int]
    tiles: Tiles

    def __call__(self) -> torch.Tensor:
        """All of the matrix: rows * columns * 4 bytes in float32."""
        return gather(self.shape, self.tiles)

    def rows(self, begin: int, end: int) -> torch.Tensor:
        """Rows [begin, end) of the matrix."""
        import torch

        return torch.cat([tile for _, tile in self.tiles(begin, end)])

    def beside(self, parameter: str, /) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Another parameter of the module; see `Tiles.beside`."""
        return self.tiles.beside(parameter)


class Delta(Protocol):
    """D[rows, columns] of W + s * D: data until `make` reads its factors.

    One that needs more memory than its factors says so: `kept_nbytes` is what it holds between tiles in float32, and
    `drawn_nbytes` what it takes to draw anew what its layers share.
    """

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
    """f(W[rows, columns]): data until `make` reads its factors.

    One that must see other parameters of its module has their names in an attribute `beside`. One that needs more
    memory than its factors and, where it needs all of W, three times W says so: `kept_nbytes` is what it holds between
    tiles in float32, and `drawn_nbytes` what it takes besides while it gets ready.
    """

    @property
    def formula(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def needs(self) -> Needs:
        """TILE where each row of f(W) follows from that row of W alone, TILES where it takes more of W, a tile at a
        time (`whole.tiles`, `whole.rows`), WHOLE where it takes all of W at once (`whole()`)."""

    def factors(self) -> tuple[Factor, ...]: ...

    def make(self, load: Load, whole: Whole, /) -> Apply:
        """Read the factors, and of `whole` what the change needs; return what changes rows of W in place."""

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
    def kept_nbytes(self) -> int:
        """Bytes that it holds between tiles besides its factors; turned, all of D."""
        height, width = self.delta.shape
        own: int = getattr(self.delta, "kept_nbytes", 0)
        return own + (4 * height * width if self.flipped else 0)

    @property
    def drawn_nbytes(self) -> int:
        """Bytes for what is drawn once for several layers."""
        return getattr(self.delta, "drawn_nbytes", 0)

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
    """f(W), or the rows [rows[0], rows[1]) of it where each follows from one row of W; or the transpose of that."""

    rewrite: Rewrite
    flipped: bool = False
    rows: tuple[int, int] | None = None

    @property
    def formula(self) -> str:
        return self.rewrite.formula

    @property
    def needs(self) -> Needs:
        return Needs.WHOLE if self.flipped else self.rewrite.needs

    @property
    def beside(self) -> tuple[str, ...]:
        return getattr(self.rewrite, "beside", ())

    @property
    def kept_nbytes(self) -> int:
        """Bytes that it holds between tiles besides its factors: turned, all of the result."""
        rows, columns = self.rewrite.shape
        own: int = getattr(self.rewrite, "kept_nbytes", 0)
        return 4 * rows * columns if self.flipped else own

    @property
    def drawn_nbytes(self) -> int:
        """Bytes that it takes while it gets ready, besides its factors and the weight."""
        return getattr(self.rewrite, "drawn_nbytes", 0)

    @property
    def shape(self) -> tuple[int, int]:
        top, bottom = self._block
        size = (bottom - top, self.rewrite.shape[1])
        return (size[1], size[0]) if self.flipped else size

    @property
    def _block(self) -> tuple[int, int]:
        return self.rows or (0, self.rewrite.shape[0])

    def factors(self) -> tuple[Factor, ...]:
        return self.rewrite.factors()

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Rewritten:
        if (rows, columns) == ((0, self.shape[0]), (0, self.shape[1])):
            return self
        down, across = (columns, rows) if self.flipped else (rows, columns)
        if self.rewrite.needs is Needs.TILE and across == (0, self.rewrite.shape[1]):
            top, _ = self._block
            return replace(self, rows=(top + down[0], top + down[1]))
        raise MismatchError(
            f"'{self.formula}' changes a weight that stands in several tensors on disk",
            where=f"`{self.factors()[0].ref.name}`",
            found=f"rows {list(rows)} and columns {list(columns)} of {list(self.shape)}",
            hint="Load the base with transformers, save it with save_pretrained, and merge into that checkpoint.",
        )

    def transposed(self) -> Rewritten:
        return replace(self, flipped=not self.flipped)

    def prepare(self, load: Load, tiles: Tiles, /) -> Apply:
        top, _ = self._block
        if not self.flipped:
            change = self.rewrite.make(load, Whole(self.shape, tiles))
            return change if top == 0 else lambda tile, row: change(tile, top + row)
        weight = gather(self.shape, tiles).T.contiguous()
        original = Whole((weight.shape[0], weight.shape[1]), _Turned(weight, tiles))
        self.rewrite.make(load, original)(weight, top)
        changed = weight.T

        def apply(tile: torch.Tensor, row: int) -> None:
            tile.copy_(changed[row : row + len(tile)])

        return apply

    def flops(self) -> int:
        return self.rewrite.flops()


@dataclass(frozen=True)
class _Turned:
    """The `Tiles` of a matrix in memory; `base` knows what stands beside it."""

    matrix: torch.Tensor
    base: Tiles

    def __call__(self, begin: int = 0, end: int | None = None, /) -> Iterator[tuple[int, torch.Tensor]]:
        yield begin, self.matrix[begin:end].clone()

    def beside(self, parameter: str, /) -> Iterator[tuple[int, int, torch.Tensor]]:
        return self.base.beside(parameter)


def gather(shape: tuple[int, int], tiles: Tiles) -> torch.Tensor:
    """The tiles of a matrix put together, in their own dtype: rows * columns * 4 bytes in float32."""
    import torch

    matrix: torch.Tensor | None = None
    for row, tile in tiles():
        if matrix is None:
            matrix = torch.empty(shape, dtype=tile.dtype, device=tile.device)
        matrix[row : row + len(tile)] = tile
    return torch.empty(shape) if matrix is None else matrix
