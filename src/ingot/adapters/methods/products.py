"""Two shapes that a delta often has: a product of two matrices that are computed, and single elements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.adapters.factor import Factor, Indices
from ingot.adapters.forms import Rows
from ingot.adapters.terms import Load
from ingot.errors import AdapterError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Product(ABC):
    """D[rows, columns] = left[rows, rank] @ right[rank, columns]."""

    shape: tuple[int, int]
    rank: int

    @property
    @abstractmethod
    def formula(self) -> str: ...

    @abstractmethod
    def factors(self) -> tuple[Factor, ...]: ...

    @abstractmethod
    def matrices(self, load: Load, /) -> tuple[torch.Tensor, torch.Tensor]:
        """left and right."""

    def make(self, load: Load, /) -> Rows:
        left, right = self.matrices(load)
        return lambda begin, end: left[begin:end] @ right

    @property
    def kept_nbytes(self) -> int:
        return 4 * self.rank * sum(self.shape)

    def flops(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns * self.rank


@dataclass(frozen=True)
class Elements:
    """D[rows, columns] = 0 but for values[n] at indices[n] of the flattened matrix, or at row indices[0, n] and column
    indices[1, n]. Values that meet are added, as PEFT adds them."""

    shape: tuple[int, int]
    values: Factor
    indices: Indices
    formula = "W + v at i"

    @property
    def kept_nbytes(self) -> int:
        return 20 * self.values.shape[0]

    def factors(self) -> tuple[Factor, ...]:
        return (self.values, self.indices)

    def make(self, load: Load, /) -> Rows:
        values, indices = load(self.values), load(self.indices)
        height, width = self.shape
        if indices.ndim == 1:
            check_range(indices, height * width, self.indices)
            return scattered(values, indices // width, indices % width, width)
        check_range(indices[0], height, self.indices)
        check_range(indices[1], width, self.indices)
        return scattered(values, indices[0], indices[1], width)

    def flops(self) -> int:
        return self.values.shape[0]


def scattered(values: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, width: int) -> Rows:
    """Rows, `width` long, of a matrix of zeros with values[n] at rows[n] and columns[n], int64; see `Elements`."""
    import torch

    order = torch.argsort(rows, stable=True)
    rows, columns, values = rows[order].contiguous(), columns[order], values[order]

    def block(begin: int, end: int) -> torch.Tensor:
        ends = torch.tensor([begin, end], device=rows.device)
        first, last = torch.searchsorted(rows, ends).tolist()
        dense = values.new_zeros(end - begin, width)
        return dense.index_put_((rows[first:last] - begin, columns[first:last]), values[first:last], accumulate=True)

    return block


def check_range(indices: torch.Tensor, count: int, factor: Factor) -> None:
    """Raise AdapterError unless every index is one of `count`, which start from 0."""
    wrong = (indices < 0) | (indices >= count)
    if wrong.any():
        raise AdapterError(
            "an index of the adapter is out of range",
            where=f"`{factor.ref.name}`",
            expected=f"0 to {count - 1}",
            found=int(indices[wrong][0]),
            hint="The adapter was trained on another base model, or the file is damaged.",
        )
