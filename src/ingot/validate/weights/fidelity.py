"""One changed tensor, tile by tile in float64: how far the candidate's Ŵ is from W + Δ, and how much of Δ is in it.

    E = W + Δ                   the terms of the merge themselves, applied to float64 tiles
    survival                    <Ŵ - W, Δ> / <Δ, Δ>
    subspace error              |(Ŵ - E) Q| / |Δ Q|

Nothing depends on the tiles beyond the last bits of a float64 sum. For Q see `subspace`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ingot.adapters.terms import Load, Replace
from ingot.engine.changes import Changes, ReadSource
from ingot.formats.tensor_ref import TensorRef
from ingot.kernels.dtypes import as_tensor
from ingot.kernels.tile import apply_changes
from ingot.plan.model import Op
from ingot.validate.weights.subspace import blocks_of
from ingot.validate.weights.ulps import distance, half_ulp, rounded_once

#: Elements of a tile, just under 256 KiB of float64: about ten such tensors live at once, in a core's cache. Larger
#: ones would each be mapped anew (`storage.kernel`): with 2^18 elements a third of the time went into page faults.
TILE_ELEMENTS = (1 << 15) - 1
#: What sums in float32 of any order may be off by, relative to the largest numbers in them: 64 units in the last place.
FLOAT32_SUM = 2.0**-18


@dataclass
class Sums:
    """What adds up over the tiles of a tensor; squares and products in float64.

    Attributes:
        equal: elements that are E rounded once to nearest.
        beyond: elements farther from E than any rounding of it puts them.
        worst: the farthest, in units in the last place.
        moved: elements where Δ is more than half an ulp of W.
        not_finite: NaNs and infinities in the candidate, which are left out of the sums.
        delta, error: <Δ, Δ> and <Ŵ - E, Ŵ - E>.
        error_along, nearest_along: <Ŵ - E, Δ>, and the same had the candidate been rounded to nearest.
        half_ulp_of_base: squares of half an ulp of W, of E where W is 0.
        rounding: squares of half an ulp of the largest of W, E and Ŵ.
        subspace_error, subspace_delta: squares of (Ŵ - E) Q and Δ Q.
    """

    elements: int = 0
    equal: int = 0
    beyond: int = 0
    worst: int = 0
    moved: int = 0
    not_finite: int = 0
    delta: float = 0.0
    error: float = 0.0
    error_along: float = 0.0
    nearest_along: float = 0.0
    half_ulp_of_base: float = 0.0
    rounding: float = 0.0
    subspace_error: float = 0.0
    subspace_delta: float = 0.0

    @property
    def survival(self) -> float | None:
        return 1 + self.error_along / self.delta if self.delta else None

    @property
    def nearest_survival(self) -> float | None:
        """What nearest rounding would have left."""
        return 1 + self.nearest_along / self.delta if self.delta else None

    @property
    def subspace(self) -> float | None:
        return math.sqrt(self.subspace_error / self.subspace_delta) if self.subspace_delta else None


@dataclass(frozen=True)
class Reading:
    """Where the numbers come from: `base` and `candidate` as stored, factors and changes in float64."""

    base: ReadSource
    candidate: ReadSource
    load: Load
    changes: Changes


def measure(op: Op, ref: TensorRef, reading: Reading, *, roundings: int, tick: Callable[[int], None]) -> Sums:
    """Hold the candidate's tensor `ref`, of the op's shape, against what `op` makes.

    Args:
        roundings: how often a careful tool may round on its way: once for each adapter.
        tick: is told of the elements of each tile; may raise to stop.
    """
    sums, blocks = Sums(), blocks_of(op, reading.load)
    rows, columns = op.view
    height = max(1, TILE_ELEMENTS // max(1, columns))
    for begin in range(0, rows if columns else 0, height):
        end = min(begin + height, rows)
        base = _base_rows(op, begin, end, reading.base)
        exact = base.clone()
        apply_changes(exact, begin, reading.changes.of(op, begin, end))
        raw = reading.candidate(ref, begin * columns, end * columns)
        error, delta = _add(sums, base, exact, as_tensor(raw, ref.dtype, (end - begin, columns)), roundings)
        for block in blocks:
            block.add(begin, error, delta)
        tick((end - begin) * columns)
    if not sums.moved and all(isinstance(placed.term, Replace) for placed in op.terms):
        # a copy that was saved from a base in another dtype: what differs is rounding, and no update that could be lost
        sums.delta = sums.error_along = sums.nearest_along = 0.0
    sums.subspace_error = sum(block.squares[0] for block in blocks)
    sums.subspace_delta = sum(block.squares[1] for block in blocks)
    return sums


def _base_rows(op: Op, begin: int, end: int, read: ReadSource) -> torch.Tensor:
    """W in float64; zeros where the base has no such rows: a new head, the tokens that a resized vocabulary gained."""
    columns = op.view[1]
    base = torch.zeros(end - begin, columns, dtype=torch.float64)
    stored = min(end, op.source.numel // columns) - begin if op.source is not None else 0
    if op.source is not None and stored > 0 and op.source.numel % columns == 0:
        raw = read(op.source, begin * columns, (begin + stored) * columns)
        base[:stored] = as_tensor(raw, op.source.dtype, (stored, columns))
    return base


def _add(
    sums: Sums, base: torch.Tensor, exact: torch.Tensor, found: torch.Tensor, roundings: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count one tile in; returns Ŵ - E and Δ."""
    nearest = rounded_once(exact, found.dtype)
    apart = distance(found, nearest)
    value, delta = found.double(), exact - base
    finite = torch.isfinite(value)
    if not finite.all():
        value, apart = torch.where(finite, value, exact), torch.where(finite, apart, 1)
        sums.not_finite += int((~finite).sum())
    error = value - exact
    slip = nearest.double().sub_(exact).nan_to_num_(posinf=0.0, neginf=0.0)
    largest = torch.maximum(torch.maximum(base.abs(), exact.abs()), value.abs())
    half = half_ulp(largest, found.dtype)
    # the products that make a small Δ may be large: the largest Δ of the row tells
    summed = torch.maximum(largest, delta.abs().amax(dim=1, keepdim=True))
    allowed = half.mul(1 + roundings).add_(summed, alpha=FLOAT32_SUM)
    sums.elements += found.numel()
    sums.equal += int((apart == 0).sum())
    sums.worst = max(sums.worst, int(apart.max()))
    sums.beyond += int((error.abs() > allowed).sum())
    sums.delta += _dot(delta, delta)
    sums.error += _dot(error, error)
    sums.error_along += _dot(error, delta)
    sums.nearest_along += _dot(slip, delta)
    sums.rounding += _dot(half, half)
    ulp = half_ulp(torch.where(base == 0, exact, base), found.dtype)
    sums.moved += int((delta.abs() > ulp).sum())
    sums.half_ulp_of_base += _dot(ulp, ulp)
    return error, delta


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.dot(one.view(-1), other.view(-1)))
