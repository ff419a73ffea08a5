"""The k largest of a matrix that is only ever seen as tiles: exactly k, in memory that does not grow with the matrix.

Scores are float32 and not negative, so that their bits are in the order of their values. One pass counts the upper 16
bits of all scores, another the lower 16 bits of those in whose upper ones the k-th score lies: that gives its bits.
Equal scores go by their place in the matrix, row by row: the first come first. Where not all that equal the k-th fit
in, a third pass finds the last of them that does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ingot.errors import NonFiniteError

#: Passes over the tiles of one or more matrices of the same shape: (first row, one score tile of each).
Sweep = Callable[[], Iterator[tuple[int, Sequence[torch.Tensor]]]]

_UPPER = 1 << 15  # values of the upper 16 bits of a float32 without a sign
_LOWER = 1 << 16
_INFINITY = 0x7F80  # the upper bits of infinity; those of NaNs are larger


@dataclass(frozen=True)
class Cut:
    """Where the k largest of a matrix end: those above `score`, and those equal to it whose place is below `end`."""

    score: float
    end: int

    def holds(self, scores: torch.Tensor, row: int) -> torch.Tensor:
        """Which elements of scores[rows, columns] are in, as booleans; its first row is row `row` of the matrix."""
        first, width = row * scores.shape[1], scores.shape[1]
        if self.end <= first:
            return scores > self.score
        if self.end >= first + scores.numel():
            return scores >= self.score
        inside = scores > self.score
        flat, equal = inside.view(-1), scores.view(-1) == self.score
        flat[: self.end - first] |= equal[: self.end - first]
        return flat.view(-1, width)


#: Holds nothing.
NONE = Cut(float("inf"), 0)


class Census:
    """All scores of some matrices counted by their upper bits: one pass.

    Attributes:
        nonzero: how many scores of each matrix are not zero, which those below 1e-40 are taken for.
    """

    def __init__(self, sweep: Sweep, size: int) -> None:
        """`size`: elements of a matrix. Raises NonFiniteError where a score is infinite or NaN."""
        self._sweep = sweep
        self._size = size
        self._counts: list[torch.Tensor] = []
        self._bits, self._flags = torch.empty(0, dtype=torch.int32), torch.empty(0, dtype=torch.bool)
        for _, scores in sweep():
            for number, tile in enumerate(scores):
                if number == len(self._counts):
                    self._counts.append(torch.zeros(_UPPER, dtype=torch.int64))
                self._counts[number] += torch.bincount(self._upper(tile), minlength=_UPPER).cpu()
        self.nonzero = [size - int(counts[0]) for counts in self._counts]
        if any(int(counts[_INFINITY:].sum()) for counts in self._counts):
            raise NonFiniteError(
                "an update is beyond the range of float32",
                hint="Look at lora_alpha in adapter_config.json, and at the values of the adapter.",
            )

    def cuts(self, wanted: Sequence[Sequence[int]]) -> list[tuple[Cut, ...]]:
        """For each matrix the cut behind its k largest, for each k of `wanted`: one or two passes."""
        places = [[self._bin(number, k) for k in ks] for number, ks in enumerate(wanted)]
        lower = self._lower([{upper for upper, _ in found if upper is not None} for found in places])
        found = [
            [_kth(upper, rest, lower[number]) for upper, rest in of_matrix] for number, of_matrix in enumerate(places)
        ]
        ends = self._ends(found)
        return [
            tuple(
                NONE if one is None else Cut(_value(one.bits), ends.get((number, one), self._size)) for one in of_matrix
            )
            for number, of_matrix in enumerate(found)
        ]

    def _bin(self, number: int, k: int) -> tuple[int | None, int]:
        """(upper bits of the k-th score, how many with these bits are among the k); no bits where k is 0."""
        if k <= 0:
            return None, 0
        descending = self._counts[number].flip(0).cumsum(0)
        at = int(torch.searchsorted(descending, k))
        before = int(descending[at - 1]) if at else 0
        return _UPPER - 1 - at, k - before

    def _lower(self, wanted: Sequence[set[int]]) -> list[dict[int, torch.Tensor]]:
        """The scores with these upper bits, counted by their lower bits."""
        counts = [{upper: torch.zeros(_LOWER, dtype=torch.int64) for upper in uppers} for uppers in wanted]
        if any(counts):
            for _, scores in self._sweep():
                for tile, of_matrix in zip(scores, counts, strict=True):
                    shifted, bits = self._upper(tile), tile.view(torch.int32).view(-1)
                    for upper, count in of_matrix.items():
                        chosen = bits[torch.eq(shifted, upper, out=self._flags[: len(bits)])]
                        count += torch.bincount(chosen & (_LOWER - 1), minlength=_LOWER).cpu()
        return counts

    def _upper(self, scores: torch.Tensor) -> torch.Tensor:
        """The upper bits of all scores, in memory that is used again: that of a tile would be mapped anew each time."""
        bits = scores.view(torch.int32).view(-1)
        if len(self._bits) < len(bits):
            self._bits, self._flags = torch.empty_like(bits), torch.empty_like(bits, dtype=torch.bool)
        return torch.bitwise_right_shift(bits, 16, out=self._bits[: len(bits)])

    def _ends(self, found: Sequence[Sequence[_Kth | None]]) -> dict[tuple[int, _Kth], int]:
        """Where the last score that is in and equals a k-th one stands, plus one; only where not all equal ones are."""
        left = {
            (number, one): one.inside
            for number, of_matrix in enumerate(found)
            for one in of_matrix
            if one is not None and one.inside < one.equal
        }
        ends: dict[tuple[int, _Kth], int] = {}
        for row, scores in self._sweep() if left else ():
            for (number, one), inside in list(left.items()):
                equal = (scores[number].view(torch.int32).view(-1) == one.bits).nonzero().view(-1)
                if len(equal) >= inside:
                    ends[number, one] = row * scores[number].shape[1] + int(equal[inside - 1]) + 1
                    del left[number, one]
                else:
                    left[number, one] = inside - len(equal)
            if not left:
                break
        return ends


@dataclass(frozen=True)
class _Kth:
    """The bits of the k-th score, how many scores equal it, and how many of those are among the k."""

    bits: int
    equal: int
    inside: int


def _kth(upper: int | None, rest: int, lower: dict[int, torch.Tensor]) -> _Kth | None:
    if upper is None:
        return None
    descending = lower[upper].flip(0).cumsum(0)
    at = int(torch.searchsorted(descending, rest))
    before = int(descending[at - 1]) if at else 0
    low = _LOWER - 1 - at
    return _Kth(upper << 16 | low, int(lower[upper][low]), rest - before)


def _value(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))
