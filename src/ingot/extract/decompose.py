"""The best product of two thin matrices for a difference, and exactly how much of it that holds.

    Δ[m, n] ≈ L[m, r] @ R[r, n]        L = U √Σ,  R = √Σ Vᵀ        energy = Σ σᵢ² / ‖Δ‖²_F   (i ≤ r)

By Eckart and Young no rank-r matrix is nearer. V is found in one of two ways and then treated alike:

    exact     n ≤ 512, or most of the spectrum is asked for: the eigenvectors of ΔᵀΔ in float64
    sketched  subspace iteration from a random start (Halko, Martinsson, Tropp 2011, arXiv:0909.4061, algorithm 4.4),
              until another step gains less than a millionth of ‖Δ‖²

Whichever it was, L @ R = Δ V Vᵀ with V orthonormal in float64, a projection of Δ: so the energy is a sum of squares
of numbers that were computed, not an estimate. The random start is drawn from a seed: the same input and number of
threads give the same factors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ingot.extract.model import Budget

#: Up to this many columns an eigendecomposition costs less than the matrix products of a sketch.
EXACT_SIDE = 512
#: Rows that are converted to float64 at once, times columns.
TILE_ELEMENTS = 1 << 20
_OVERSAMPLING = 16
_FIRST_RANK = 48
_MOST_STEPS = 12
_GAIN = 1e-6


@dataclass(frozen=True)
class Spectrum:
    """The leading part of a matrix: `left`[m, k] and `right`[k, n] are balanced factors, best first.

    Attributes:
        energies: σᵢ² of each column, float64, descending.
        total: ‖Δ‖²_F.
    """

    left: torch.Tensor
    right: torch.Tensor
    energies: torch.Tensor
    total: float

    def cut(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """L[m, rank] and R[rank, n]; zeros where the matrix has no more to give."""
        missing = rank - len(self.energies)
        if missing <= 0:
            return self.left[:, :rank], self.right[:rank]
        left, right = self.left, self.right
        return (
            torch.cat([left, left.new_zeros(len(left), missing)], 1),
            torch.cat([right, right.new_zeros(missing, right.shape[1])]),
        )


def total_energy(delta: torch.Tensor) -> float:
    """‖Δ‖²_F, accumulated in float64."""
    return sum(float(torch.linalg.vector_norm(tile)) ** 2 for tile in _tiles(delta))


def choose_rank(spectra: Sequence[Spectrum], budget: Budget) -> int:
    """The rank that all matrices of a stack get: the budget's, or the smallest that holds its energy of them together.

    Where that energy is not reached, the largest rank that was computed.
    """
    most = max(len(spectrum.energies) for spectrum in spectra)
    if budget.energy is None:
        return most
    held = torch.zeros(most, dtype=torch.float64)
    for spectrum in spectra:
        held[: len(spectrum.energies)] += spectrum.energies
    enough = held.cumsum(0) >= _wanted(budget.energy, sum(spectrum.total for spectrum in spectra))
    return int(enough.int().argmax()) + 1 if bool(enough.any()) else most


def _wanted(energy: float, total: float) -> float:
    """What must be held, with room for the rounding of sums: a share of 1 is never reached to the last bit."""
    return energy * total * (1 - 1e-12)


def decompose(delta: torch.Tensor, budget: Budget, seed: str) -> Spectrum:
    """The leading part of Δ[m, n] that the budget asks for.

    Args:
        delta: float32 or float64, finite, not zero.
        seed: whatever tells this matrix from others; it seeds the random start.
    """
    wide = delta.shape[1] > delta.shape[0]
    matrix = delta.T if wide else delta  # the basis is one of the shorter side
    total = total_energy(delta)
    basis = _basis(matrix, budget.cap(*matrix.shape), budget.energy, total, seed)
    products, basis = _diagonal(_times(matrix, basis), basis)
    energies = products.square().sum(0)
    keep = min(budget.cap(*matrix.shape), len(energies))
    energies, products, basis = energies[:keep], products[:, :keep], basis[:, :keep]
    roots = energies.pow(0.25)
    left = torch.where(roots > 0, products / roots, 0.0)
    right = (basis * roots).T
    return Spectrum(right.T, left.T, energies, total) if wide else Spectrum(left, right, energies, total)


def _basis(matrix: torch.Tensor, cap: int, energy: float | None, total: float, seed: str) -> torch.Tensor:
    """An orthonormal float64 basis[n, k] that the leading rows of Δ[m, n] lie in."""
    columns = matrix.shape[1]
    rank = cap if energy is None else min(cap, _FIRST_RANK)
    sketch: torch.Tensor | None = None
    while columns > EXACT_SIDE and rank + _OVERSAMPLING <= columns // 4:
        sketch = _sketch(matrix, rank, total, seed, sketch)
        if energy is None or rank == cap:
            return _orthonormal(sketch.double())
        held = torch.linalg.svdvals(_times(matrix, _orthonormal(sketch.double())))[:rank].square().sum()
        if float(held) >= _wanted(energy, total):
            return _orthonormal(sketch.double())
        rank = min(cap, 2 * rank)
    _, vectors = torch.linalg.eigh(_gram(matrix))
    found: torch.Tensor = vectors.flip(1)[:, :cap]
    return found


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """A basis of the same space, in the same dtype."""
    basis: torch.Tensor = torch.linalg.qr(columns).Q
    return basis


def _sketch(matrix: torch.Tensor, rank: int, total: float, seed: str, start: torch.Tensor | None) -> torch.Tensor:
    """Subspace iteration: float32[n, rank + oversampling], columns orthonormal to float32."""
    columns, size = matrix.shape[1], rank + _OVERSAMPLING
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little") >> 1)
    basis = torch.randn(columns, size, generator=generator)
    if start is not None:
        basis[:, : start.shape[1]] = start
    matrix = matrix.float()
    held = 0.0
    for _ in range(_MOST_STEPS):
        across = _orthonormal(matrix @ basis)
        back = matrix.T @ across
        before, held = held, float(torch.linalg.svdvals(back)[:rank].double().square().sum())
        basis = _orthonormal(back)
        if held - before <= _GAIN * total:
            break
    return basis


def _tiles(matrix: torch.Tensor) -> Iterator[torch.Tensor]:
    """All rows in float64, some at a time; each tile is overwritten by the next."""
    step = max(1, TILE_ELEMENTS // max(1, matrix.shape[1]))
    scratch = torch.empty(min(step, len(matrix)), matrix.shape[1], dtype=torch.float64)
    for row in range(0, len(matrix), step):
        part = matrix[row : row + step]
        yield scratch[: len(part)].copy_(part)


def _gram(matrix: torch.Tensor) -> torch.Tensor:
    """ΔᵀΔ[n, n] in float64."""
    gram = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64)
    for tile in _tiles(matrix):
        gram.addmm_(tile.T, tile)
    return gram


def _times(matrix: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Δ[m, n] @ basis[n, k] in float64."""
    return torch.cat([tile @ basis for tile in _tiles(matrix)])


def _diagonal(products: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both turned so that the columns of the products are orthogonal, the longest first."""
    _, turn = torch.linalg.eigh(products.T @ products)
    turn = turn.flip(1)
    return products @ turn, basis @ turn


def residual_energy(delta: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> float:
    """‖Δ - L @ R‖²_F in float64, of factors as they are stored."""
    left, right = left.double(), right.double()
    energy, row = 0.0, 0
    for tile in _tiles(delta):
        tile.addmm_(left[row : row + len(tile)], right, alpha=-1)
        energy += float(torch.linalg.vector_norm(tile)) ** 2
        row += len(tile)
    return energy
