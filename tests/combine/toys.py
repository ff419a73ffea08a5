"""Matrices with adapters on them, in memory: factors by name, tiles of any height, and a `Combined` applied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ingot.adapters.factor import Factor
from ingot.adapters.terms import LowRank, Term
from ingot.combine.combined import Combined, Contribution
from ingot.combine.parameters import combination
from ingot.formats.tensor_ref import TensorRef
from ingot.kernels.grid import TileGrid
from ingot.naming.placed import PlacedTerm

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Bench:
    """W[rows, columns] and what is loaded for it.

    With `whole` factors and weights are small integers: every sum and product is exact in float32, so that float64
    decides alike, and many values are equal.
    """

    rows: int
    columns: int
    whole: bool = False
    seed: int = 0
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        self.weight = self.random(self.rows, self.columns)

    def random(self, *shape: int) -> torch.Tensor:
        if self.whole:
            return torch.randint(-3, 4, shape, generator=self.generator).float()
        return torch.randn(*shape, generator=self.generator)

    def factor(self, adapter: int, *shape: int) -> Factor:
        name = f"factor{len(self.tensors)}"
        self.tensors[name] = self.random(*shape)
        return Factor(adapter, TensorRef(name, "F32", shape, "f", 0, 4 * self.tensors[name].numel()))

    def lora(self, adapter: int, rank: int = 3, scaling: float = 0.5) -> LowRank:
        return LowRank(self.factor(adapter, self.rows, rank), self.factor(adapter, rank, self.columns), scaling)

    def everywhere(self, term: Term) -> PlacedTerm:
        return PlacedTerm(term, (0, self.rows), (0, self.columns))

    def load(self, factor: Factor) -> torch.Tensor:
        return factor.of(self.tensors[factor.ref.name]).contiguous()

    def values(self, factor: Factor) -> Array:
        return self.load(factor).double().numpy()

    def delta(self, term: LowRank) -> Array:
        return term.scaling * self.values(term.left) @ self.values(term.right)

    def combined(self, method: str, terms: list[Term], weights: list[float], seed: int = 0, **how: Any) -> Combined:
        parts = tuple(
            Contribution(number, weight, (self.everywhere(term),))
            for number, (term, weight) in enumerate(zip(terms, weights, strict=True))
        )
        return Combined(combination(method, weights, **how), parts, (self.rows, self.columns), "w", seed, len(terms))

    def added(self, combined: Combined) -> Array:
        """What the term adds to W, tile by tile in the grid of the tensor."""
        grid, result = TileGrid(self.rows, self.columns), self.weight.clone()
        change = combined.prepare(self.load, Whole(self.weight, grid))
        for number in reversed(range(grid.count)):  # in whatever order
            begin, end = grid.rows_of(number)
            change(result[begin:end], begin)
        return (result.double() - self.weight.double()).numpy()


@dataclass
class Whole:
    """See `adapters.terms.Tiles`."""

    matrix: torch.Tensor
    grid: TileGrid

    def __call__(self, begin: int = 0, end: int | None = None, /) -> Iterator[tuple[int, torch.Tensor]]:
        last = len(self.matrix) if end is None else end
        for first, final in map(self.grid.rows_of, range(self.grid.count)):
            if first < last and begin < final:
                yield max(first, begin), self.matrix[max(first, begin) : min(final, last)].clone()

    def beside(self, parameter: str, /) -> Iterator[tuple[int, int, torch.Tensor]]:
        raise AssertionError(parameter)
