"""How kept deltas δᵢ become one, with weights wᵢ:

    total       Σ wᵢ·δᵢ
    agreement   Σ wᵢ·δᵢ / Σ |wᵢ| over those i where wᵢ·δᵢ has the elected sign; 0 where none is elected

A sign is elected for each element: that of Σ wᵢ·δᵢ ("total"), or of Σ sign(wᵢ·δᵢ) ("frequency"), a draw by the total.
Source: TIES (Yadav et al. 2023, arXiv:2306.01708), whose mean over those that agree this is for equal weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ingot.combine.parameters import Majority


def total(kept: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """See above."""
    combined = torch.zeros_like(kept[0])
    for delta, weight in zip(kept, weights, strict=True):
        combined.add_(delta, alpha=weight)
    return combined


def agreement(kept: Sequence[torch.Tensor], weights: Sequence[float], majority: Majority) -> torch.Tensor:
    """See above."""
    weighted = [delta * weight for delta, weight in zip(kept, weights, strict=True)]
    sign = elected(weighted, majority)
    combined, voices = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, weight in zip(weighted, weights, strict=True):
        agrees = (delta * sign > 0).to(delta.dtype)
        combined.addcmul_(delta, agrees)
        voices.add_(agrees, alpha=abs(weight))
    # where none agrees nothing was added, and the divisor only must not be zero
    return combined.div_(voices.add_((voices == 0).to(voices.dtype)))


def elected(weighted: Sequence[torch.Tensor], majority: Majority) -> torch.Tensor:
    """1, -1, or 0 where no sign has a majority."""
    sign = total(weighted, [1.0] * len(weighted)).sign_()
    if majority is Majority.FREQUENCY:
        votes = total([delta.sign() for delta in weighted], [1.0] * len(weighted)).sign_()
        sign = torch.where(votes == 0, sign, votes)
    return sign
