"""What several adapters do to one tensor, as one term.

    W + λ · combine(w₁·Δ₁, w₂·Δ₂, ...)      Δᵢ = fᵢ(W) - W, fᵢ: all terms of adapter i, in order

The term is of the whole tensor, since thresholds are: it is made when all terms have their places, and never cut. No
matrix is held for it: what it must know of all elements is counted over tiles (`find`), and tiles are made again when
they are changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ingot.adapters.factor import Factor
from ingot.adapters.forms import Plus
from ingot.adapters.terms import Add, Apply, Load, LowRank, Needs, Term, Tiles
from ingot.combine.parameters import Combination, Method
from ingot.errors import MismatchError
from ingot.naming.placed import Beside, PlacedTerm

if TYPE_CHECKING:
    from ingot.combine.running import Running

#: Terms that add to W whatever W is.
Additive = LowRank | Add | Plus


@dataclass(frozen=True)
class Contribution:
    """What one adapter does to one tensor: its terms, in the order in which they apply, and its weight."""

    adapter: int
    weight: float
    terms: tuple[PlacedTerm, ...]

    @property
    def additive(self) -> bool:
        """Whether Δ follows from the adapter alone."""
        return all(isinstance(placed.term, Additive) for placed in self.terms)

    def scaled(self) -> tuple[PlacedTerm, ...]:
        """The terms of weight * Δ, where they are additive."""
        return tuple(replace(placed, term=scaled(placed.term, self.weight)) for placed in self.terms)


@dataclass(frozen=True)
class Combined:
    """The change of a whole tensor W[rows, columns] by several adapters; or by one, thinned out or weighted.

    Attributes:
        tensor, seed: what chance is drawn from, with the adapter's number and the element's place; the seed is 0 where
            nothing is left to chance.
        adapters: how many are merged, of which some may leave this tensor alone.
    """

    combination: Combination
    contributions: tuple[Contribution, ...]
    shape: tuple[int, int]
    tensor: str
    seed: int
    adapters: int

    @property
    def formula(self) -> str:
        inner = " and ".join(dict.fromkeys(placed.term.formula for one in self.contributions for placed in one.terms))
        names = [f"Δ{one.adapter + 1}" for one in self.contributions]
        if self.combination.method is Method.LINEAR:
            return f"W + {' + '.join(f'w·{name}' for name in names)}, Δ of {inner}"
        scale = "" if self.combination.scale == 1 else "λ·"
        return f"W + {scale}{self.combination.method}({', '.join(names)}), Δ of {inner}"

    @property
    def needs(self) -> Needs:
        inner = {placed.term.needs for one in self.contributions for placed in one.terms}
        if Needs.WHOLE in inner:
            return Needs.WHOLE
        return Needs.TILES if self.looks or Needs.TILES in inner else Needs.TILE

    @property
    def looks(self) -> bool:
        """Whether something must be known of all elements before the first is changed."""
        method, density = self.combination.method, self.combination.density
        return not method.exact and not method.by_chance and (density < 1 or method is Method.SCE)

    @property
    def beside(self) -> tuple[Beside, ...]:
        """What all terms must see of their modules, under names that tell whose it is."""
        return tuple(
            replace(near, parameter=beside_name(number, at, near.parameter))
            for number, one in enumerate(self.contributions)
            for at, placed in enumerate(one.terms)
            for near in placed.beside
        )

    @property
    def kept_nbytes(self) -> int:
        """What its terms hold between tiles, all at once; see `forms`."""
        return sum(getattr(placed.term, "kept_nbytes", 0) for one in self.contributions for placed in one.terms)

    @property
    def drawn_nbytes(self) -> int:
        """What they take for a moment, one at a time."""
        return max(getattr(placed.term, "drawn_nbytes", 0) for one in self.contributions for placed in one.terms)

    def factors(self) -> tuple[Factor, ...]:
        return tuple(factor for one in self.contributions for placed in one.terms for factor in placed.term.factors())

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Combined:
        if (rows, columns) != ((0, self.shape[0]), (0, self.shape[1])):
            raise MismatchError("a combined update is of a whole tensor", where=self.tensor)
        return self

    def transposed(self) -> Combined:
        raise MismatchError("a combined update is of a tensor as it is stored", where=self.tensor)

    def running(self, load: Load, tiles: Tiles) -> Running:
        """Its terms prepared. What `find` finds of all elements are some numbers, that may be kept for a whole run."""
        from ingot.combine.running import Running

        return Running(self, load, tiles)

    def prepare(self, load: Load, tiles: Tiles, /) -> Apply:
        running = self.running(load, tiles)
        return running.changing(running.find())

    def flops(self) -> int:
        once = sum(placed.term.flops() for one in self.contributions for placed in one.terms)
        return once * 3 if self.looks else once


def plain_terms(terms: Iterable[PlacedTerm]) -> Iterator[PlacedTerm]:
    """The terms, those of a `Combined` one by one: with its weight where a term adds, as it is where it does not."""
    for placed in terms:
        if isinstance(placed.term, Combined):
            for one in placed.term.contributions:
                yield from one.scaled() if one.additive else one.terms
        else:
            yield placed


def scaled(term: Term, weight: float) -> Term:
    """A term that adds, its update multiplied by `weight`."""
    assert isinstance(term, Additive)
    return term if weight == 1 else replace(term, scaling=term.scaling * weight)


def beside_name(number: int, at: int, parameter: str) -> str:
    """How a `Combined` calls a parameter that stands beside term `at` of contribution `number`."""
    return f"{number}.{at}.{parameter}"
