"""Several adapters on one base: whose whole tensors win, and what all updates make of each tensor.

`settle` decides on what cannot be added up: tensors and rows that an adapter brings whole. `terms` then makes the terms
of one tensor, by the method that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingot.adapters.terms import Replace, ReplaceRows, Term
from ingot.combine.combined import Combined, Contribution
from ingot.combine.parameters import Combination, Method, combination
from ingot.errors import MismatchError, UsageError
from ingot.naming.placed import PlacedTerm
from ingot.plan.model import Options
from ingot.plan.resolve import PlacedTensor, ResolvedEdit, Weighted, whole
from ingot.plan.ties import SameValues


@dataclass(frozen=True)
class Combining:
    """How these adapters become one.

    Attributes:
        take: numbers of adapters, counted from 0: the first that brings a tensor whole is the one that is used.
    """

    adapters: tuple[Weighted, ...]
    how: Combination
    take: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, options: Options, adapters: Sequence[Weighted]) -> Combining:
        """Raises UsageError: the options contradict one another, or `take` names no adapter."""
        how = combination(
            options.method, [weighted.weight for weighted in adapters], density=options.density,
            scale=options.lambda_, majority=options.majority_sign, gamma=options.gamma, epsilon=options.epsilon,
        )  # fmt: skip
        wrong = [number for number in options.take if not 1 <= number <= len(adapters)]
        if wrong:
            raise UsageError("--take names no adapter", expected=f"1 to {len(adapters)}", found=wrong[0])
        return cls(tuple(adapters), how, tuple(number - 1 for number in options.take), options.seed)

    # -- what an adapter brings whole ---------------------------------------------------------------------------

    def settle(self, edits: Sequence[ResolvedEdit], same: SameValues) -> tuple[list[ResolvedEdit], Mapping[str, str]]:
        """The edits that are made, and the adapter tensors that are left out for them: `number:name` -> why.

        A tensor that one adapter brings whole is changed by no other, or `take` says whose it is. Several may bring
        the same values, or different rows; and where adapters follow one another (`sequential`), later ones may change
        what the first has brought.

        Raises:
            MismatchError: several adapters change one parameter and one of them brings it whole; or what is brought
                whole has a weight other than 1.
        """
        lost: set[int] = set()
        left_out: dict[str, str] = {}
        for parameter, items in _with_whole(edits):
            winner = self._winner(items)
            if winner is None:
                self._check_weights(parameter, items)
                self._check_alone(parameter, items, same)
                continue
            losers = [item for item in items if item.adapter != winner]
            why = f"--take: {parameter} is that of adapter {self._title(winner)}"
            lost |= {id(item) for item in losers}
            left_out |= {f"{item.adapter}:{f.ref.name}": why for item in losers for f in item.edit.term.factors()}
        return [item for item in edits if id(item) not in lost], left_out

    def _winner(self, items: Sequence[ResolvedEdit]) -> int | None:
        bringing = {item.adapter for item in items if _is_whole(item.edit.term)}
        return next((number for number in self.take if number in bringing), None)

    def _check_weights(self, parameter: str, items: Sequence[ResolvedEdit]) -> None:
        for item in items:
            weight = self.adapters[item.adapter].weight
            if _is_whole(item.edit.term) and weight != 1:
                raise MismatchError(
                    f"a weight other than 1 has no meaning for '{item.edit.term.formula}'",
                    where=f"{parameter}, of adapter {self._title(item.adapter)}",
                    found=f"weight {weight:g}",
                    hint=f"Merge this adapter with weight 1, or pass --take {item.adapter + 1}: then its whole tensors "
                    "are used as they are.",
                )

    def _check_alone(self, parameter: str, items: Sequence[ResolvedEdit], same: SameValues) -> None:
        wholes = [item for item in items if _is_whole(item.edit.term)]
        bringing, changing = {item.adapter for item in wholes}, sorted({item.adapter for item in items})
        first_alone = self.how.method is Method.SEQUENTIAL and bringing == {changing[0]}
        if len(changing) == 1 or first_alone or (bringing == set(changing) and _agree(wholes, same)):
            return
        raise MismatchError(
            f"several adapters change one parameter, and one of them by '{wholes[0].edit.term.formula}'",
            where=parameter,
            found=f"adapters {' and '.join(map(self._title, changing))}",
            hint=f"Say whose it shall be with --take {wholes[0].adapter + 1}; what the others say of it is left out.",
        )

    def _title(self, number: int) -> str:
        return f"{number + 1} ({self.adapters[number].location.name})"

    # -- the terms of one tensor --------------------------------------------------------------------------------

    def terms(self, name: str, placed: PlacedTensor) -> tuple[PlacedTerm, ...]:
        """The terms of the tensor that is written as `name`, in the order in which they apply."""
        if self.how.method is Method.SEQUENTIAL:
            own = {number: [term for term in placed.terms if term[0] == number] for number, _ in placed.terms}
            return tuple(term for number in sorted(own) for term in self._terms(name, placed.view, own[number]))
        return self._terms(name, placed.view, placed.terms)

    def _terms(
        self, name: str, view: tuple[int, int], terms: Sequence[tuple[int, PlacedTerm]]
    ) -> tuple[PlacedTerm, ...]:
        updates: dict[int, list[PlacedTerm]] = {}
        before: list[PlacedTerm] = []
        after: list[PlacedTerm] = []
        for adapter, term in terms:
            if not _is_whole(term.term):
                updates.setdefault(adapter, []).append(term)
            elif adapter in updates:
                after.append(term)
            else:
                before.append(term)  # a resized embedding, under its own update
        parts = [
            Contribution(number, self.adapters[number].weight, tuple(own)) for number, own in sorted(updates.items())
        ]
        return (*before, *(self._combined(name, parts, view) if parts else ()), *after)

    def _combined(self, name: str, parts: Sequence[Contribution], view: tuple[int, int]) -> tuple[PlacedTerm, ...]:
        method = self.how.method
        if method.exact and all(part.additive for part in parts):
            return tuple(term for part in parts for term in part.scaled())
        if method.exact and len(parts) == 1 and parts[0].weight == 1:
            return parts[0].terms
        how = Combination() if method.exact else self.how
        seed = self.seed if method.by_chance else 0
        combined = Combined(how, tuple(parts), view, name, seed, len(self.adapters))
        return (whole(combined, combined.beside),)


def _with_whole(edits: Sequence[ResolvedEdit]) -> list[tuple[str, list[ResolvedEdit]]]:
    """The edits of each parameter that some adapter brings whole, or of which it brings rows."""
    found: dict[tuple[str, int, int | None], list[ResolvedEdit]] = {}
    for item in edits:
        found.setdefault((item.parameter, item.edit.index, item.layer), []).append(item)
    return [(key[0], items) for key, items in found.items() if any(_is_whole(item.edit.term) for item in items)]


def _is_whole(term: Term) -> bool:
    return isinstance(term, Replace | ReplaceRows)


def _agree(wholes: Sequence[ResolvedEdit], same: SameValues) -> bool:
    """Whether all bring the same values, or rows that have nothing to do with one another."""
    return all(
        one.adapter == other.adapter or _compatible(one.edit.term, other.edit.term, same)
        for number, one in enumerate(wholes)
        for other in wholes[:number]
    )


def _compatible(one: Term, other: Term, same: SameValues) -> bool:
    if isinstance(one, ReplaceRows) and isinstance(other, ReplaceRows):
        if not set(one.indices) & set(other.indices):
            return True
        return one.indices == other.indices and same(one.values, other.values)
    return isinstance(one, Replace) and isinstance(other, Replace) and same(one.values, other.values)
