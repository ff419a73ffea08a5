"""One parameter's difference -> factors in the dtype that they are stored in, and how well those hold it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ingot.extract.decompose import Spectrum, choose_rank, decompose, residual_energy
from ingot.extract.layers import Target
from ingot.extract.model import Budget
from ingot.extract.source import Source, difference, rounding_energy
from ingot.kernels.dtypes import TORCH_DTYPE


@dataclass(frozen=True)
class Fit:
    """How well the factors of one parameter hold its difference. Energies are sums of squares of elements.

    Attributes:
        name: of the module, or of the parameter where that is what has factors.
        total: of the difference.
        held: of the best product of this rank, in float64.
        left: of what remains of the difference beside the factors as they are stored: measured, not derived.
        rounding: about what the rounding of TUNED to its own dtype has put into the difference.
        nbytes: of the factors.
    """

    name: str
    rank: int
    total: float
    held: float
    left: float
    rounding: float
    nbytes: int

    @property
    def energy(self) -> float:
        """The share of the difference that is held."""
        return self.held / self.total


def fit(
    base: Source, tuned: Source, target: Target, budget: Budget, dtype: str, tick: Callable[[int], None]
) -> tuple[Fit, dict[str, torch.Tensor]]:
    """Decompose the difference of one parameter; the tensors of its layer by their names in the adapter.

    `tick` is told of every matrix that is done. Memory: the largest matrix of the stack in float32, and the factors.
    """
    parameter, stored = target.parameter, TORCH_DTYPE[dtype]
    count = parameter.view[0]
    spectra: list[Spectrum] = []
    rounding = 0.0
    kept = None  # the only one; those of a stack are read again
    for index in range(count):
        delta = _difference(base, tuned, target, index)
        rounding += rounding_energy(tuned, parameter, index, delta)
        spectra.append(decompose(delta, budget, f"{parameter.full}[{index}]"))
        kept = delta if count == 1 else None
        del delta
        tick(1)
    rank = choose_rank(spectra, budget)
    factors = []
    left = 0.0
    for index, spectrum in enumerate(spectra):
        one, other = (part.to(stored) for part in spectrum.cut(rank))
        factors.append((one, other))
        left += residual_energy(_difference(base, tuned, target, index) if kept is None else kept, one, other)
    tensors = target.arrange(factors)
    held = sum(float(spectrum.energies[:rank].sum()) for spectrum in spectra)
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    total = sum(spectrum.total for spectrum in spectra)
    return Fit(target.named, rank, total, held, left, rounding, nbytes), tensors


def _difference(base: Source, tuned: Source, target: Target, index: int) -> torch.Tensor:
    return difference(base, tuned, target.parameter, index, lambda _: None)
