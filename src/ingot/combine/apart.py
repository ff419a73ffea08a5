"""Whose is which term of a tensor: the terms of a plan, taken apart by adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ingot.adapters.roundtrip import RoundTrip
from ingot.adapters.terms import Replace, ReplaceRows
from ingot.combine.combined import Combined, Contribution
from ingot.naming.placed import PlacedTerm


def apart(terms: Sequence[PlacedTerm]) -> tuple[tuple[PlacedTerm, ...], tuple[Contribution, ...]]:
    """(what makes the base's values, what each adapter does to them, in the order of the adapters).

    A term that adds has its weight in its scaling; in a `Combined` each contribution has its own. Whatever an adapter
    brings whole after its updates is left out.
    """
    base: list[PlacedTerm] = []
    own: dict[int, list[Contribution]] = {}
    waiting: list[PlacedTerm] = []  # a term that reads nothing of its adapter stands before one that does
    for placed in terms:
        if isinstance(placed.term, Combined):
            for one in placed.term.contributions:
                own.setdefault(one.adapter, []).append(one)
        elif isinstance(placed.term, RoundTrip | Replace | ReplaceRows):
            if not own:
                base.append(placed)
        elif not placed.term.factors():
            waiting.append(placed)
        else:
            adapter = placed.term.factors()[0].adapter
            own.setdefault(adapter, []).append(Contribution(adapter, 1.0, (*waiting, placed)))
            waiting = []
    return tuple(base), tuple(_joined(own[number]) for number in sorted(own))


def _joined(parts: Sequence[Contribution]) -> Contribution:
    """What one adapter does, in one; its parts have one weight, or only one of them has any but 1."""
    return replace(parts[0], terms=tuple(placed for part in parts for placed in part.terms))
