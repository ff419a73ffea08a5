"""Terms: what an adapter does to one matrix of a parameter.

A term is data until `prepare` reads its factors; then it changes tiles in place, in the dtype of its factors: float32
for a merge, float64 where one is held against the exact sum. Each says what it must see of the weight besides the tile
that it changes: nothing (`Needs.TILE`), other tiles one at a time (`Needs.TILES`), or the whole matrix at once
(`Needs.WHOLE`). The rows of a tile are whole rows of the term's matrix W[rows, columns].

    LowRank          W + s * left[rows, r] @ right[r, columns]
    Dora             (m / norm(W + s * left @ right)) * (W + s * left @ right)      in `dora`
    Principal        round(W - its own principal part)                              in `principal`
    Replace          V
    ReplaceRows      V on some rows
    Add              W + s * V
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from ingot.adapters.factor import Factor
from ingot.errors import AdapterError, MismatchError

if TYPE_CHECKING:
    import torch


FLOAT32_MAX = (2 - 2**-23) * 2.0**127
#: Reads a factor as a matrix on the compute device, in the tiles' dtype; refuses non-finite values.
Load = Callable[[Factor], "torch.Tensor"]
#: Changes a tile in place: rows [row, row + len(tile)) of the term's matrix. What it returns means nothing.
Apply = Callable[["torch.Tensor", int], object]


class Needs(StrEnum):
    """What a term must see of its matrix besides the tile that it changes."""

    TILE = "tile"  # nothing
    TILES = "tiles"  # other tiles, one at a time: a sum over all rows, or rows that stand in a neighbour
    WHOLE = "whole"  # the whole matrix in memory


class Tiles(Protocol):
    """What a term may see of the base; everything is read again at every call."""

    def __call__(self, begin: int = 0, end: int | None = None, /) -> Iterator[tuple[int, torch.Tensor]]:
        """The term's own matrix as tiles (first row, tile[rows, columns]), every term before this one applied.

        Of rows [begin, end) alone, cut to them; all rows by default.
        """

    def beside(self, parameter: str, /) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Another parameter of the module, as the base stores it, one that the term names in `beside`.

        Blocks (first row, first column, block[rows, columns]), which cover the matrix `Module.view` shows once.
        """


class Term(Protocol):
    """One change of one matrix W[rows, columns].

    A term that must see other parameters of its module has their names in an attribute `beside`.
    """

    @property
    def needs(self) -> Needs: ...

    @property
    def formula(self) -> str:
        """The change in one short line, for the plan: the same for all terms of one kind."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the matrix that it changes."""

    def factors(self) -> tuple[Factor, ...]:
        """All factors that it reads."""

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Term:
        """The same change of the block W[rows, columns] alone. Raises MismatchError when the block is not enough."""

    def transposed(self) -> Term:
        """The same change of W's transpose."""

    def prepare(self, load: Load, tiles: Tiles, /) -> Apply:
        """Read the factors, look at the weight if need be, and return what changes a tile."""

    def flops(self) -> int:
        """Floating point operations to apply it to the whole matrix."""


@dataclass(frozen=True)
class LowRank:
    """W + scaling * left[rows, r] @ right[r, columns].

    For a Linear layer left = B[out, r] and right = A[r, in] (Hu et al. 2021, arXiv:2106.09685).
    """

    left: Factor
    right: Factor
    scaling: float

    def __post_init__(self) -> None:
        if len(self.left.shape) != 2 or len(self.right.shape) != 2 or self.left.shape[1] != self.right.shape[0]:
            raise MismatchError(
                "the two factors of an update do not multiply",
                where=self.left.ref.name,
                expected="B[out, r] and A[r, in] of one rank r",
                found=f"{list(self.left.shape)} and {list(self.right.shape)}",
            )
        if not abs(self.scaling) <= FLOAT32_MAX:
            raise AdapterError(
                "the scaling of an update is beyond the range of float32",
                where=self.left.ref.name,
                found=self.scaling,
                hint="Look at lora_alpha in adapter_config.json, and at the weight behind ADAPTER=.",
            )

    needs = Needs.TILE
    formula = "W + s·B@A"

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        return (self.left.shape[0], self.right.shape[1])

    def factors(self) -> tuple[Factor, ...]:
        return (self.left, self.right)

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> LowRank:
        return replace(self, left=self.left.rows(*rows), right=self.right.columns(*columns))

    def transposed(self) -> LowRank:
        return replace(self, left=self.right.T, right=self.left.T)

    def prepare(self, load: Load, _tiles: Tiles, /) -> Apply:
        left, right = load(self.left), load(self.right)

        def apply(tile: torch.Tensor, row: int) -> None:
            tile.addmm_(left[row : row + len(tile)], right, alpha=self.scaling)

        return apply

    def flops(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns * self.rank


@dataclass(frozen=True)
class Replace:
    """The adapter's own values instead of the base's: `modules_to_save`, trained biases, resized embeddings."""

    values: Factor
    needs = Needs.TILE
    formula = "the adapter's tensor"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.values.shape[0], self.values.shape[1])

    def factors(self) -> tuple[Factor, ...]:
        return (self.values,)

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Replace:
        return Replace(self.values.rows(*rows).columns(*columns))

    def transposed(self) -> Replace:
        return Replace(self.values.T)

    def prepare(self, load: Load, _tiles: Tiles, /) -> Apply:
        values = load(self.values)

        def apply(tile: torch.Tensor, row: int) -> None:
            tile.copy_(values[row : row + len(tile)])

        return apply

    def flops(self) -> int:
        return 0


@dataclass(frozen=True)
class ReplaceRows:
    """Some rows of an embedding replaced by trained ones (PEFT's `trainable_token_indices`)."""

    indices: tuple[int, ...]
    values: Factor  # [len(indices), columns]
    height: int
    needs = Needs.TILE
    formula = "rows of trained tokens"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.height, self.values.shape[1])

    def factors(self) -> tuple[Factor, ...]:
        return (self.values,)

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> ReplaceRows:
        if rows != (0, self.height):
            raise MismatchError(
                "token rows of an embedding that is cut into several tensors", where=f"`{self.values.ref.name}`"
            )
        return replace(self, values=self.values.columns(*columns))

    def transposed(self) -> ReplaceRows:
        raise MismatchError("token rows of an embedding that is stored transposed", where=f"`{self.values.ref.name}`")

    def prepare(self, load: Load, _tiles: Tiles, /) -> Apply:
        values = load(self.values)

        def apply(tile: torch.Tensor, row: int) -> None:
            for at, index in enumerate(self.indices):
                if row <= index < row + len(tile):
                    tile[index - row] = values[at]

        return apply

    def flops(self) -> int:
        return 0


@dataclass(frozen=True)
class Add:
    """W + scaling * values: `lora_bias` adds its trained bias like this."""

    values: Factor
    scaling: float
    needs = Needs.TILE
    formula = "b + s·b_B"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.values.shape[0], self.values.shape[1])

    def factors(self) -> tuple[Factor, ...]:
        return (self.values,)

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Add:
        return replace(self, values=self.values.rows(*rows).columns(*columns))

    def transposed(self) -> Add:
        return replace(self, values=self.values.T)

    def prepare(self, load: Load, _tiles: Tiles, /) -> Apply:
        values = load(self.values)

        def apply(tile: torch.Tensor, row: int) -> None:
            tile.add_(values[row : row + len(tile)], alpha=self.scaling)

        return apply

    def flops(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns
