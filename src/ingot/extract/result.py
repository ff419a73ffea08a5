"""What an extraction came to, and the same as a table of groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingot.extract.fit import Fit
from ingot.extract.model import Budget
from ingot.plan.figures import collapse, counted

#: Below this share of the difference a rank is a poor fit, and the user is told.
POOR_ENERGY = 0.9
#: From this share of the difference on, the rounding of TUNED is named as the reason.
LOUD_ROUNDING = 0.02


@dataclass(frozen=True)
class Whole:
    """Tensors of one module that are stored as TUNED has them, and why."""

    path: str
    reason: str
    nbytes: int


@dataclass(frozen=True)
class FitGroup:
    """Modules whose names differ in numbers only. Shares are of the groups' differences, taken together."""

    pattern: str
    fits: tuple[Fit, ...]

    @property
    def ranks(self) -> tuple[int, int]:
        ranks = [fit.rank for fit in self.fits]
        return min(ranks), max(ranks)

    @property
    def energy(self) -> float:
        """The mean over modules."""
        return sum(fit.energy for fit in self.fits) / len(self.fits)

    @property
    def worst(self) -> Fit:
        return min(self.fits, key=lambda fit: fit.energy)

    @property
    def rounding(self) -> float:
        """About the share of the difference that TUNED's own rounding has made."""
        return sum(fit.rounding for fit in self.fits) / self._total

    @property
    def left(self) -> float:
        """rms(Δ - B A) / rms(Δ), measured with the factors as stored."""
        return math.sqrt(sum(fit.left for fit in self.fits) / self._total)

    @property
    def nbytes(self) -> int:
        return sum(fit.nbytes for fit in self.fits)

    @property
    def _total(self) -> float:
        return math.fsum(fit.total for fit in self.fits)


@dataclass(frozen=True)
class WholeGroup:
    """Modules that are stored whole for one reason, their names the same but for numbers."""

    pattern: str
    reason: str
    count: int
    nbytes: int


@dataclass(frozen=True)
class Extraction:
    """What was written.

    Attributes:
        parameters, equal: of the model, and how many of them are the same in both.
        adapter_nbytes, model_nbytes: of the adapter's directory without its record, and of TUNED's weights.
        files: names in the directory.
        identity: of the record.
    """

    target: Path
    base: str
    tuned: str
    model_class: str | None
    budget: Budget
    dtype: str
    fits: tuple[Fit, ...]
    whole: tuple[Whole, ...]
    parameters: int
    equal: int
    adapter_nbytes: int
    model_nbytes: int
    files: tuple[str, ...]
    identity: str
    seconds: float
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def fit_groups(self) -> tuple[FitGroup, ...]:
        return group_fits(self.fits)

    @property
    def whole_groups(self) -> tuple[WholeGroup, ...]:
        found: dict[tuple[str, str], list[Whole]] = {}
        for one in self.whole:
            found.setdefault((collapse(one.path), one.reason), []).append(one)
        return tuple(
            WholeGroup(pattern if len(ones) > 1 else ones[0].path, reason, len(ones), sum(one.nbytes for one in ones))
            for (pattern, reason), ones in found.items()
        )


def group_fits(fits: Iterable[Fit]) -> tuple[FitGroup, ...]:
    """In the order of the model."""
    found: dict[str, list[Fit]] = {}
    for fit in fits:
        found.setdefault(collapse(fit.name), []).append(fit)
    return tuple(FitGroup(pattern if len(ones) > 1 else ones[0].name, tuple(ones)) for pattern, ones in found.items())


def warnings(fits: Sequence[Fit], budget: Budget, dtype: str) -> tuple[str, ...]:
    """Where the factors hold too little, and what to do about it; `dtype` is TUNED's."""
    if budget.energy is None:
        poor = [fit for fit in fits if fit.energy < POOR_ENERGY]
        what, way = f"{POOR_ENERGY:.0%} of their difference", "Take a higher --rank"
    else:
        poor = [fit for fit in fits if fit.energy < budget.energy * (1 - 1e-9)]
        what, way = (
            f"the {budget.energy:g} that was asked for, at the largest rank of {budget.max_rank}",
            "Raise --max-rank",
        )
    if not poor:
        return ()
    worst = min(poor, key=lambda fit: fit.energy)
    text = (
        f"{len(poor)} of {counted(len(fits), 'module')} hold less than {what}; the least is {worst.energy:.1%}, in "
        f"{worst.name}. {way}, or --save-module {worst.name.rpartition('.')[2]}."
    )
    noise = math.fsum(fit.rounding for fit in poor) / math.fsum(fit.total for fit in poor)
    if noise > LOUD_ROUNDING:
        text += f" At least {noise:.0%} of their difference is TUNED's rounding to {dtype}, which no low rank holds."
    return (text,)
