"""The part of an update that its adapter can see: a matrix projected on what A[r, in] reads of the input.

    |M Q|² with Q[in, q] an orthonormal basis of A's rows, of all adapters on one block together

A tensor that holds several modules (fused projections, expert stacks) has a Q for each block; the squares add up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch

from ingot.adapters.dora import Dora
from ingot.adapters.factor import Factor
from ingot.adapters.terms import Load, LowRank, Term
from ingot.plan.model import Op

_IS_A = re.compile(r"(^|\.)lora_(embedding_)?A(\.|$)")


@dataclass
class Block:
    """A block of a tensor that one module's LoRA changes.

    Attributes:
        flipped: the inputs run along the rows, as in Conv1D's W[in, out] and in embeddings W[tokens, dim].
        squares: of error and delta, in the subspace.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    flipped: bool
    load: Load
    factors: list[Factor] = field(default_factory=list)
    squares: tuple[float, float] = (0.0, 0.0)
    _basis: torch.Tensor | None = None
    _sums: list[torch.Tensor] = field(default_factory=list)

    def add(self, begin: int, error: torch.Tensor, delta: torch.Tensor) -> None:
        """Count in the part of a float64 tile[rows, columns] that lies in the block; `begin` is the tile's first row.

        Tiles come in order, each once.
        """
        first, last = max(begin, self.rows[0]), min(begin + len(error), self.rows[1])
        if first >= last:
            return
        if self._basis is None:
            self._basis = basis([self.load(factor) for factor in self.factors])
        parts = [tile[first - begin : last - begin, self.columns[0] : self.columns[1]] for tile in (error, delta)]
        if self.flipped:
            here = self._basis[first - self.rows[0] : last - self.rows[0]].T
            self._sums = [here @ part + (self._sums[i] if self._sums else 0.0) for i, part in enumerate(parts)]
        else:
            self._count([part @ self._basis for part in parts])
        if last == self.rows[1]:  # nothing more will come: an expert stack has many blocks, and few at a time
            self._count(self._sums)
            self._basis, self._sums = None, []

    def _count(self, projected: list[torch.Tensor]) -> None:
        if projected:
            error, delta = (float(part.square().sum()) for part in projected)
            self.squares = (self.squares[0] + error, self.squares[1] + delta)


def blocks_of(op: Op, load: Load) -> list[Block]:
    """The blocks of an op that have a subspace; `load` reads a factor in float64."""
    blocks: dict[tuple[object, ...], Block] = {}
    for placed in op.terms:
        update = _low_rank(placed.term)
        if update is not None:
            flipped = _IS_A.search(update.left.ref.name) is not None
            key = (placed.rows, placed.columns, flipped)
            block = blocks.setdefault(key, Block(placed.rows, placed.columns, flipped, load))
            block.factors.append(update.left.T if flipped else update.right)
    return list(blocks.values())


def basis(rows: list[torch.Tensor]) -> torch.Tensor:
    """Q[in, q], orthonormal, spanning the rows of all A[r, in]; q is their rank."""
    stacked = torch.cat(rows)
    _, sizes, directions = torch.linalg.svd(stacked, full_matrices=False)
    least = sizes.max() * max(stacked.shape) * torch.finfo(sizes.dtype).eps if len(sizes) else 0.0
    return torch.as_tensor(directions[sizes > least].T.contiguous())


def _low_rank(term: Term) -> LowRank | None:
    inner = term.update if isinstance(term, Dora) else term
    return inner if isinstance(inner, LowRank) else None
