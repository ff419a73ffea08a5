"""What is wrong with a tensor, in plain words, from the sums of `fidelity`; nothing where all that differs is rounding.

The error Ŵ - W - Δ is split in two: the part along Δ, which a wrong scale makes, and the rest. Rounding makes little of
either; a scale that is off makes only the first; other weights make the second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ingot.adapters.dora import Dora
from ingot.adapters.terms import LowRank
from ingot.plan.model import Op
from ingot.validate.weights.fidelity import Sums

#: Survival under which a tensor is named although it is rounded as well as its dtype can.
LOST = 0.9
#: How close a scale must be to one that has a name.
_NEAR = 0.02
#: The correlation of error and Δ counts when its t statistic is beyond this; chance reaches it once in two million.
_SURE = 5.0
#: A share of elements up to which they are counted and not called a different tensor.
_FEW = 0.01


@dataclass(frozen=True)
class Finding:
    """`said` is empty when nothing is wrong; `lost`: every element is as near as it can be, and that was not enough."""

    said: str = ""
    lost: bool = False


def diagnose(op: Op, sums: Sums) -> Finding:
    """What is wrong with the tensor that `op` makes."""
    if sums.not_finite:
        return Finding(f"{_elements(sums.not_finite, sums)} not finite")
    if sums.beyond == 0:
        return _about_rounding(op, sums)
    return Finding(_about_values(op, sums))


def _about_values(op: Op, sums: Sums) -> str:
    survival = sums.survival
    if survival is not None and _only_scaled(sums, survival):
        return _about_scale(op, survival)
    far = f"by up to {sums.worst:,} ulp"
    if sums.beyond <= _FEW * sums.elements:
        return f"{_elements(sums.beyond, sums)} off, {far}"
    share = f"{_percent(sums.beyond / sums.elements)} of the elements are off, {far}"
    if survival is None:
        return f"{share}: the adapter changes nothing here, and these are not the base's weights"
    size = math.sqrt(sums.error / sums.delta)
    return f"{share}: an error of {size:.2g} times the update, of which {survival:.2f} is there"


def _about_rounding(op: Op, sums: Sums) -> Finding:
    """Every element is next to where it should be: is the update lost between them, or was it never there?"""
    survival, nearest = sums.survival, sums.nearest_survival
    if survival is None or nearest is None or LOST <= survival <= 2 - LOST or not _along(sums):
        return Finding()
    if survival > 1 or survival < nearest - max(0.05, 0.1 * abs(nearest)):
        return Finding(_about_scale(op, survival))
    share = _percent(1 - survival)
    return Finding(f"{share} of the update was lost to rounding: merge with --rounding preserve", lost=True)


def _about_scale(op: Op, survival: float) -> str:
    if abs(survival) < _NEAR:
        return f"the update is not there (survival {abs(survival):.2f})"
    near = [mistake for mistake, scale in mistakes(op).items() if abs(survival - scale) <= _NEAR * abs(scale)]
    return f"the update was {' or '.join(near) or f'scaled by {survival:.2f}'} (survival {survival:.2f})"


def mistakes(op: Op) -> dict[str, float]:
    """What may happen to an update on its way, and the scale that it then has, given the op's ranks and scalings."""
    found = {"subtracted": -1.0, "added twice": 2.0, "added three times": 3.0}
    terms = (placed.term.update if isinstance(placed.term, Dora) else placed.term for placed in op.terms)
    for rank, scaling in sorted({(term.rank, term.scaling) for term in terms if isinstance(term, LowRank)}):
        if rank > 1:
            root, of = math.sqrt(rank), f", r = {rank}"
            found |= {f"scaled by 1/√r{of}": 1 / root, f"scaled by √r{of}": root}
            found |= {f"scaled by 1/r{of}": 1 / rank, f"scaled by r{of}": float(rank)}
        if scaling not in (0.0, 1.0):
            found |= {f"added without its scaling of {scaling:g}": 1 / scaling, f"scaled by {scaling:g} again": scaling}
    return found


def _only_scaled(sums: Sums, survival: float) -> bool:
    """Whether the error is a multiple of Δ, but for what rounding explains."""
    rest = sums.error - (survival - 1) ** 2 * sums.delta
    explained = max(1.0, survival**2) * (2 * sums.rounding + 1e-6 * sums.delta)
    return abs(survival - 1) > 0.005 and rest <= explained and _along(sums)


def _along(sums: Sums) -> bool:
    """Whether error and Δ go together by more than chance: Student's t of their correlation over the elements."""
    if sums.elements < 3 or not sums.error or not sums.delta:
        return False
    square = min(1.0, sums.error_along**2 / (sums.error * sums.delta))
    return square * (sums.elements - 2) > _SURE**2 * (1 - square)


def _elements(count: int, sums: Sums) -> str:
    return f"{count:,} of {sums.elements:,} elements {'is' if count == 1 else 'are'}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"
