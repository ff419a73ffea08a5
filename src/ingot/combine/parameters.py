"""How several adapters become one: the methods by name, and what each takes.

    method             each delta is thinned out by          and they become one by
    linear             -                                     Σ wᵢ·Δᵢ
    sequential         -                                     one after the other: each sees what the former left
    magnitude_prune    magnitude: the largest are kept       Σ
    ties               magnitude                             the mean of those that agree with the elected sign
    dare_linear        chance                                Σ
    dare_ties          chance                                the mean of those that agree
    della_linear       chance, the larger the likelier kept  Σ
    della              chance, the larger the likelier kept  the mean of those that agree
    breadcrumbs        magnitude, without the very largest   Σ
    breadcrumbs_ties   magnitude, without the very largest   the mean of those that agree
    sce                variance between the adapters         a mean weighted by energy of those that agree

Needs no torch: plans are made of this. The formulas stand in `keeping`, `consensus`, `sce` and docs/combining.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ingot.errors import UsageError


class Method(StrEnum):
    """How several deltas become one."""

    LINEAR = "linear"
    SEQUENTIAL = "sequential"
    TIES = "ties"
    DARE_LINEAR = "dare_linear"
    DARE_TIES = "dare_ties"
    MAGNITUDE_PRUNE = "magnitude_prune"
    DELLA = "della"
    DELLA_LINEAR = "della_linear"
    BREADCRUMBS = "breadcrumbs"
    BREADCRUMBS_TIES = "breadcrumbs_ties"
    SCE = "sce"

    @property
    def exact(self) -> bool:
        """Whether every delta is in the result as it is, so that nothing is thinned out."""
        return self in (Method.LINEAR, Method.SEQUENTIAL)

    @property
    def by_chance(self) -> bool:
        return self in (Method.DARE_LINEAR, Method.DARE_TIES, Method.DELLA, Method.DELLA_LINEAR)

    @property
    def ranked_in_rows(self) -> bool:
        return self in (Method.DELLA, Method.DELLA_LINEAR)

    @property
    def without_largest(self) -> bool:
        return self in (Method.BREADCRUMBS, Method.BREADCRUMBS_TIES)

    @property
    def elects(self) -> bool:
        """Whether the adapters vote on a sign for each element, by `majority`."""
        return self in (Method.TIES, Method.DARE_TIES, Method.DELLA, Method.BREADCRUMBS_TIES)


class Majority(StrEnum):
    """What an election counts: the weighted values themselves, or their signs."""

    TOTAL = "total"
    FREQUENCY = "frequency"


#: Where none is asked for; see docs/combining.md for what the figures say.
DENSITY = 0.5
GAMMA = 0.01
EPSILON = 0.15
#: 0.8 + 0.2 and its like are 1, whatever float64 makes of them.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Combination:
    """A method with every number that it uses.

    Attributes:
        density: the share of each delta that is kept; of `sce`, the share of elements that is selected.
        scale: λ, by which the combined delta is multiplied.
        gamma: the share of each delta that is dropped because it is largest (`breadcrumbs`).
        epsilon: the smallest of a row is kept with probability density - epsilon, the largest with density + epsilon
            (`della`).
    """

    method: Method = Method.LINEAR
    density: float = 1.0
    scale: float = 1.0
    majority: Majority = Majority.TOTAL
    gamma: float = 0.0
    epsilon: float = 0.0


def combination(
    method: str,
    weights: Sequence[float],
    *,
    density: float | None = None,
    scale: float = 1.0,
    majority: str = Majority.TOTAL,
    gamma: float | None = None,
    epsilon: float | None = None,
) -> Combination:
    """What was asked for, resolved and checked. None stands for the method's own number.

    Raises:
        UsageError: no such method, a number out of its range, or one that this method does not use.
    """
    if method not in tuple(Method):
        raise UsageError("no such method", expected=", ".join(Method), found=repr(method))
    if majority not in tuple(Majority):
        raise UsageError("no such majority", expected=" or ".join(Majority), found=repr(majority))
    chosen = Method(method)
    _check_used(chosen, density=density, scale=scale, majority=majority, gamma=gamma, epsilon=epsilon)
    _check_weights(chosen, weights)
    if not math.isfinite(scale) or scale == 0:
        raise UsageError("--lambda is no number to multiply by", expected="a finite number, not 0", found=scale)
    if chosen.exact:
        return Combination(chosen)
    share = DENSITY if density is None else density
    if not 0 < share <= 1:
        raise UsageError("--density is out of its range", expected="above 0 and at most 1", found=share,
                         hint="It is the share of each update that is kept: 0.5 for half of it.")  # fmt: skip
    return Combination(
        chosen,
        share,
        scale,
        Majority(majority),
        _gamma(share, gamma) if chosen.without_largest else 0.0,
        _epsilon(share, epsilon) if chosen.ranked_in_rows else 0.0,
    )


def _check_used(
    method: Method, *, density: float | None, scale: float, majority: str, gamma: float | None, epsilon: float | None
) -> None:
    unused = [
        name
        for name, given, used in (
            ("--density", density is not None, not method.exact),
            ("--lambda", scale != 1, not method.exact),
            ("--majority-sign", majority != Majority.TOTAL, method.elects),
            ("--gamma", gamma is not None, method.without_largest),
            ("--epsilon", epsilon is not None, method.ranked_in_rows),
        )
        if given and not used
    ]
    if unused:
        hint = "Leave it out, or choose another --method."
        if unused[0] == "--lambda":
            hint = "The weights do the same here: ADAPTER=0.5 halves an update."
        raise UsageError(f"the method {method} does not use {unused[0]}", where=f"--method {method}", hint=hint)


def _check_weights(method: Method, weights: Sequence[float]) -> None:
    wrong = [weight for weight in weights if not math.isfinite(weight) or weight == 0]
    if wrong:
        raise UsageError("the weight of an adapter must be a finite number other than 0", found=wrong[0])
    if method is not Method.SCE:
        return
    if len(weights) < 2:
        raise UsageError("sce compares adapters, and only one was named", where="--method sce",
                         hint="Name several adapters, or leave --method out.")  # fmt: skip
    weighted = [weight for weight in weights if weight != 1]
    if weighted:
        raise UsageError("sce finds the weights of the adapters itself", where="--method sce",
                         found=f"weight {weighted[0]:g}",
                         hint="Leave =WEIGHT away; --lambda scales the result.")  # fmt: skip


def _gamma(density: float, asked: float | None) -> float:
    gamma = min(GAMMA, 1 - density) if asked is None else asked
    if not (gamma >= 0 and density + gamma <= 1 + _ROUNDING):
        raise UsageError("--gamma is out of its range", expected=f"0 to {1 - density:g}: 1 - density", found=gamma,
                         hint="It is the share of the largest values that is dropped; --density is the share "
                         "that stays.")  # fmt: skip
    return gamma


def _epsilon(density: float, asked: float | None) -> float:
    epsilon = min(EPSILON, density / 2, 1 - density) if asked is None else asked
    if not (0 <= epsilon < density and density + epsilon <= 1 + _ROUNDING):
        raise UsageError("--epsilon is out of its range", found=epsilon,
                         expected="density - epsilon above 0, and density + epsilon at most 1",
                         hint="It spreads the probability of being kept around --density.")  # fmt: skip
    return epsilon
