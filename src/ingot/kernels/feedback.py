"""Rounding that keeps an update: the errors of each row cancel inside the update's own row space.

An update W + s·B[out, r] @ A[r, in] acts on inputs through A's rows alone. Rounding to nearest makes in errors a row
that add up at random there; error feedback chooses up or down so that they cancel there, and lets them fall elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ingot.kernels.rounding import STRIP_NBYTES, chosen, nearest, neighbours

#: Columns that are decided at once: as good as one at a time (docs/rounding.md) at a fraction of the calls.
STEP = 16
#: λ·qⱼ·qⱼ on average: how much an error inside the subspace weighs beside one outside. With less a small
#: update loses more, since nothing is corrected before p is large; with more nothing changes (docs/rounding.md).
WEIGHT = 16
#: Bits of an error in fixed point, relative to the largest unit in the last place of its row.
_ERROR_BITS = 12
#: Directions of a factor whose singular value is less than this part of the largest one are not in its span.
_NEGLIGIBLE = 1e-5


@dataclass(frozen=True)
class Subspace:
    """The row space of an update of rows [rows[0], rows[1]) and columns [columns[0], columns[1]) of a tensor.

    Attributes:
        basis: Q[columns, r], orthonormal columns, in fixed point: integers in float64, to be divided by `scale`.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    basis: torch.Tensor
    scale: float

    @classmethod
    def of(cls, rows: tuple[int, int], columns: tuple[int, int], factor: torch.Tensor) -> Subspace:
        """The span of the rows of `factor`[r, columns], without directions that are all but a sum of the others."""
        exact = factor.to("cpu", torch.float64)
        squares, directions = torch.linalg.eigh(exact @ exact.T)
        kept = squares > _NEGLIGIBLE**2 * squares.max() if len(squares) else squares > 0
        basis = (directions[:, kept] / squares[kept].sqrt()).T @ exact
        largest, count = float(basis.abs().max()) if basis.numel() else 1.0, max(1, basis.numel())
        # subtle: with so many bits the sums of `feedback` stay below 2^53, where float64 adds integers without an error
        bits = (53 - _ERROR_BITS - count.bit_length()) // 2
        scale = 2.0**bits / largest
        return cls(rows, columns, (basis.T * scale).round().contiguous().to(factor.device), scale)


@dataclass(frozen=True)
class Preserve:
    """`feedback` in each subspace that meets the tile; nearest outside of them, where no update is."""

    subspaces: tuple[Subspace, ...]

    def __call__(self, tile: torch.Tensor, row: int, out: torch.Tensor) -> None:
        """See `Round`."""
        nearest(tile, row, out)
        if out.dtype is torch.float32:
            return
        for space in self.subspaces:
            first, last = max(row, space.rows[0]) - row, min(row + len(tile), space.rows[1]) - row
            if first < last:
                block = slice(first, last), slice(*space.columns)
                feedback(tile[block], out[block], space)


def feedback(values: torch.Tensor, out: torch.Tensor, space: Subspace) -> None:
    """Round values[rows, columns] into `out`, the errors of each row cancelled inside the subspace.

    With e = rounded - value and Q[columns, r] orthonormal, p = Σ eⱼ·qⱼ over the columns so far is the error that an
    input from the subspace meets. Going along the columns, of the two neighbours the one is taken that minimises

        e² + λ·(2·e·p·qⱼ + e²·qⱼ·qⱼ),    λ = WEIGHT·columns / r, so that λ·qⱼ·qⱼ is WEIGHT on average

    which is error diffusion (Floyd and Steinberg 1976) in r dimensions. Solved for the choice: up where
    p·qⱼ < -(e_low + e_high)·(1/λ + qⱼ·qⱼ)/2. One p decides `STEP` columns.

    p is kept in fixed point, errors in units of the row's largest one: sums of integers in float64 are exact in any
    order, so that no matrix library, thread or tile can change a decision.
    """
    columns, rank = space.basis.shape
    per_unit = 2.0**_ERROR_BITS / _largest_gap(values, out.dtype)
    cost = (space.basis.square().sum(dim=1) + space.scale**2 * max(1, rank) / (WEIGHT * columns)) / -2
    p = torch.zeros(len(values), rank, dtype=torch.float64, device=values.device)
    width = max(1, STRIP_NBYTES // 8 // max(1, len(values)) // STEP) * STEP
    for first in range(0, columns, width):
        part = slice(first, first + width)
        low, gap = neighbours(values[:, part], out.dtype)
        below = (low - values[:, part]).double().mul_(per_unit)
        span = gap.double().mul_(per_unit)
        bound = torch.add(span, below, alpha=2).mul_(cost[part])
        below.round_()
        span.round_()
        up = torch.empty_like(bound)
        steps = (torch.split(x, STEP, dim=1) for x in (below, span, bound, up))
        for q, below_step, span_step, bound_step, up_step in zip(
            torch.split(space.basis[part], STEP), *steps, strict=True
        ):
            torch.lt(p @ q.T, bound_step, out=up_step)
            p.addmm_(torch.addcmul(below_step, span_step, up_step), q)
        out[:, part] = chosen(values[:, part], low, gap, up.float())


def _largest_gap(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float64[rows, 1]: the distance of two numbers of `dtype` at the largest magnitude of each row, a power of two."""
    largest = values.abs().amax(dim=1, keepdim=True).double()
    fraction = torch.frexp(largest).mantissa  # in [0.5, 1), exact, so that the quotient is a power of two
    limits = torch.finfo(dtype)
    return (largest / fraction * (limits.eps / 2)).nan_to_num_(nan=0).clamp_(min=limits.tiny * limits.eps)
