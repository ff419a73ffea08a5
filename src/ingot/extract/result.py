"""What an extraction came to, and the same as a table of groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingot.extract.fit import Fit
from ingot.extract.model import Budget
from ingot.plan.figures import collapse, listed

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
    """Where a low rank is a poor fit, and what to do about it; `dtype` is TUNED's."""
    found = []
    for group in group_fits(fits):
        if group.worst.energy < POOR_ENERGY:
            found.append(_poor(group, budget, dtype))
    missed = [fit.name for fit in fits if budget.energy and fit.energy < budget.energy * (1 - 1e-9)]
    if missed and budget.energy:
        found.append(
            f"{len(missed)} of {len(fits)} modules hold less than the {budget.energy:g} that was asked for at the "
            f"largest rank, {budget.max_rank}: {listed(missed, 3)}. Raise --max-rank, or save them whole with "
            "--save-module."
        )
    return tuple(found)


def _poor(group: FitGroup, budget: Budget, dtype: str) -> str:
    low, high = group.ranks
    rank = str(low) if low == high else f"{low} to {high}"
    option = "--rank" if budget.energy is None else "--energy"
    text = f"{group.pattern}: rank {rank} holds {group.energy:.1%} of the difference"
    if len(group.fits) > 1:
        text += f", and {group.worst.energy:.1%} in {group.worst.name}"
    text += f". Take a higher {option}, or --save-module {group.pattern.rpartition('.')[2]}."
    if group.rounding > LOUD_ROUNDING:
        text += f" About {group.rounding:.0%} of it is the rounding of TUNED to {dtype}, which no low rank holds."
    return text
