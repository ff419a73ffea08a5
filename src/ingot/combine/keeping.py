"""What of each delta is kept. A kept delta is K ∘ Δ:

    everything  K is 1
    magnitude   K is 1 for the k = int(density · n) largest |Δ| of a tensor of n elements, at least one; else 0
    outliers    K is 1 for the k largest after the int(gamma · n) very largest; else 0
    chance      K is 1/density with probability density, else 0
    ranked      K is 1/p with probability p, else 0: p goes by the rank of |Δ| among the n of its row, in equal steps
                from density - epsilon for the smallest to density + epsilon for the largest

Sources: magnitude TIES (Yadav et al. 2023, arXiv:2306.01708), outliers Model Breadcrumbs (Davari and Belilovsky 2023,
arXiv:2312.06795), chance DARE (Yu et al. 2023, arXiv:2311.03099), ranked DELLA (Deep et al. 2024, arXiv:2406.11617).
Where they leave it open, `int` and the order of equal values, mergekit's definition is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ingot.combine.parameters import Combination
from ingot.combine.selection import Cut
from ingot.kernels.rounding import uniform

#: Of `kernels.rounding.uniform`.
Key = tuple[int, int]


class Keep(Protocol):
    """How a delta is thinned out."""

    def ranks(self, size: int) -> tuple[int, ...]:
        """The numbers of largest elements, among `size`, whose cuts `factor` must know."""

    def factor(self, delta: torch.Tensor, row: int, cuts: Sequence[Cut], key: Key) -> torch.Tensor:
        """K of delta[rows, columns], in its dtype; its first row is row `row` of the tensor."""


def keep(combination: Combination) -> Keep:
    """The one that belongs to a combination."""
    method, density = combination.method, combination.density
    if density == 1:
        return Everything()
    if method.ranked_in_rows:
        return Ranked(density, combination.epsilon)
    if method.by_chance:
        return Chance(density)
    return Outliers(density, combination.gamma) if method.without_largest else Magnitude(density)


class Everything:
    """See above."""

    def ranks(self, size: int) -> tuple[int, ...]:  # noqa: ARG002
        return ()

    def factor(self, delta: torch.Tensor, row: int, cuts: Sequence[Cut], key: Key) -> torch.Tensor:  # noqa: ARG002
        return torch.ones_like(delta)


@dataclass(frozen=True)
class Magnitude:
    """See above."""

    density: float

    def ranks(self, size: int) -> tuple[int, ...]:
        return (max(1, int(self.density * size)),)

    def factor(self, delta: torch.Tensor, row: int, cuts: Sequence[Cut], key: Key) -> torch.Tensor:  # noqa: ARG002
        return cuts[0].holds(magnitudes(delta), row).to(delta.dtype)


@dataclass(frozen=True)
class Outliers:
    """See above."""

    density: float
    gamma: float

    def ranks(self, size: int) -> tuple[int, ...]:
        largest = int(self.gamma * size)
        return (largest, min(size, largest + max(1, int(self.density * size))))

    def factor(self, delta: torch.Tensor, row: int, cuts: Sequence[Cut], key: Key) -> torch.Tensor:  # noqa: ARG002
        sizes = magnitudes(delta)
        return (cuts[1].holds(sizes, row) & ~cuts[0].holds(sizes, row)).to(delta.dtype)


@dataclass(frozen=True)
class Chance:
    """See above."""

    density: float

    def ranks(self, size: int) -> tuple[int, ...]:  # noqa: ARG002
        return ()

    def factor(self, delta: torch.Tensor, row: int, cuts: Sequence[Cut], key: Key) -> torch.Tensor:  # noqa: ARG002
        kept = uniform(key, row, delta.shape, delta.device) < self.density
        return kept.to(delta.dtype).div_(self.density)


@dataclass(frozen=True)
class Ranked:
    """See above."""

    density: float
    epsilon: float

    def ranks(self, size: int) -> tuple[int, ...]:  # noqa: ARG002
        return ()

    def factor(self, delta: torch.Tensor, row: int, cuts: Sequence[Cut], key: Key) -> torch.Tensor:  # noqa: ARG002
        steps = max(1, delta.shape[1] - 1)
        place = ranks_in_rows(delta).to(delta.dtype) if delta.shape[1] > 1 else torch.full_like(delta, 0.5)
        chance = place.mul_(2 * self.epsilon / steps).add_(self.density - self.epsilon)
        kept = uniform(key, row, delta.shape, delta.device) < chance
        return kept.to(delta.dtype).div_(chance)


def magnitudes(delta: torch.Tensor) -> torch.Tensor:
    """|Δ| as `selection` takes it."""
    return delta.abs().float()


def ranks_in_rows(delta: torch.Tensor) -> torch.Tensor:
    """int64[rows, columns]: how many |Δ| of the same row come before it in ascending order; equal ones by column."""
    bits = magnitudes(delta).view(torch.int32).long()
    columns = torch.arange(delta.shape[1], device=delta.device)
    order = _sorted_rows(bits << 32 | columns) & 0xFFFF_FFFF
    return torch.empty_like(order).scatter_(1, order, columns.expand_as(order))


def _sorted_rows(keys: torch.Tensor) -> torch.Tensor:
    # numpy sorts integers seven times as fast as torch does on a CPU
    return keys.sort(dim=1).values if keys.is_cuda else torch.from_numpy(np.sort(keys.numpy(), axis=1))
