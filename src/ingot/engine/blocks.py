"""The blocks of a tensor in which one row space holds all updates: where `--rounding preserve` works."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

from ingot.adapters.terms import Load, LowRank
from ingot.plan.model import Op, PlacedTerm


@dataclass(frozen=True)
class Block:
    """Rows [rows[0], rows[1]) and columns [columns[0], columns[1]), and the products that change all of its rows."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    terms: tuple[PlacedTerm, ...]

    def factor(self, load: Load) -> torch.Tensor:
        """The right factors of all terms, one on the other: [Σ r, columns of the block], zero outside a term's own."""
        parts = []
        for placed in self.terms:
            assert isinstance(placed.term, LowRank)
            right = load(placed.term.right)
            part = right.new_zeros(len(right), self.columns[1] - self.columns[0])
            part[:, placed.columns[0] - self.columns[0] : placed.columns[1] - self.columns[0]] = right
            parts.append(part)
        return torch.cat(parts)


def blocks_of(op: Op) -> tuple[Block, ...]:
    """Disjoint blocks that hold all products of an op: from one edge of a term to the next, whatever overlaps as one.

    The order is that of their rows. Blocks depend on the plan alone, not on tiles.
    """
    products = [placed for placed in op.terms if isinstance(placed.term, LowRank)]
    edges = sorted({edge for placed in products for edge in placed.rows})
    blocks: list[Block] = []
    for band in pairwise(edges):
        inside = [placed for placed in products if placed.rows[0] <= band[0] and band[1] <= placed.rows[1]]
        blocks += (Block(band, columns, terms) for columns, terms in _joined(inside))
    return tuple(blocks)


def _joined(terms: Iterable[PlacedTerm]) -> Iterator[tuple[tuple[int, int], tuple[PlacedTerm, ...]]]:
    """Terms whose columns overlap, together, with the columns of all."""
    together: list[PlacedTerm] = []
    end = 0
    for placed in sorted(terms, key=lambda placed: placed.columns):
        if together and placed.columns[0] >= end:
            yield (together[0].columns[0], end), tuple(together)
            together = []
        end = max(end, placed.columns[1]) if together else placed.columns[1]
        together.append(placed)
    if together:
        yield (together[0].columns[0], end), tuple(together)
