"""SCE: select, calculate, erase (Wan et al. 2024, FuseChat, arXiv:2408.07990).

    select      the k elements of a tensor in which the deltas vary most between all adapters, k = int(density · the
                number of elements in which they vary at all); δᵢ = Δᵢ there, else 0
    calculate   ηᵢ = Σ δᵢ² / Σⱼ Σ δⱼ² over all elements of the tensor
    erase       Σ ηᵢ·δᵢ / Σ ηᵢ over those i where δᵢ has the sign of Σ δᵢ; 0 where that is 0

The division by Σ ηᵢ is that of the authors' code (github.com/fanqiwan/FuseAI) and of mergekit. An adapter that leaves
the tensor alone has a delta of 0 and takes part in the variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def variance(deltas: Sequence[torch.Tensor], adapters: int) -> torch.Tensor:
    """float32[rows, columns]: the variance of `adapters` deltas, those that are not given being zero."""
    count = float(adapters)
    mean = sum(deltas[1:], deltas[0]) / count
    squares = mean.square().mul_(adapters - len(deltas))
    for delta in deltas:
        squares.add_((delta - mean).square_())
    return squares.div_(count).float()


def energy(delta: torch.Tensor, selected: torch.Tensor | None) -> float:
    """Σ δ², in float64."""
    squares = delta.double().square_()
    return float((squares if selected is None else squares.mul_(selected)).sum())


def coefficients(energies: Sequence[float]) -> tuple[float, ...]:
    """ηᵢ; equal ones where no adapter changes anything."""
    total = sum(energies)
    return tuple(one / total if total else 1 / len(energies) for one in energies)


def erased(deltas: Sequence[torch.Tensor], selected: torch.Tensor | None, eta: Sequence[float]) -> torch.Tensor:
    """The last step of the above."""
    sign = sum(deltas[1:], deltas[0]).sign()
    combined, divisor = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, weight in zip(deltas, eta, strict=True):
        agrees = (delta * sign > 0).to(delta.dtype)
        combined.addcmul_(delta, agrees, value=weight)
        divisor.add_(agrees, alpha=weight)
    combined.div_(divisor.add_((divisor == 0).to(divisor.dtype)))
    return combined if selected is None else combined.mul_(selected)
