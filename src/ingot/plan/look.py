"""How large an update is beside what its dtype can tell apart: the one look at weights that a plan takes.

A few rows of a tensor and the factors of its update are read, with numpy, since torch takes a second to import.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ingot.adapters.factor import Factor
from ingot.adapters.terms import Add, LowRank
from ingot.checkpoint.quantized.encoded import Source
from ingot.checkpoint.reading import DenseReader
from ingot.combine.combined import plain_terms
from ingot.plan.model import Op, PlacedTerm
from ingot.storage.inputs import InputFile

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

#: Rows of a tensor that are looked at, spread evenly over those that an update changes.
ROWS = 8
#: dtype -> (bits of the significand with the leading one, exponent of the smallest step).
_PRECISION = {"BF16": (8, -133), "F16": (11, -24), "F32": (24, -149)}


@dataclass(frozen=True)
class Look:
    """Open files of the base and of each adapter, by name."""

    base: Mapping[str, InputFile]
    adapters: Sequence[Mapping[str, InputFile]]

    @cached_property
    def _read(self) -> DenseReader:
        return DenseReader(self.base)

    def delta_ulps(self, op: Op) -> float | None:
        """rms(Δ) / rms(half a unit in the last place of W) in the op's dtype, over some rows of W[rows, columns].

        Well below 1 nearest rounding loses most of Δ: the sum of the op's products and biases; of DoRA it is the
        product that counts, and of several adapters their weighted sum, whatever the method. None where nothing of
        the kind is added to the base's values, where it is zero, or where it is not finite, which the run will refuse.
        """
        import numpy as np

        sample = self._sample(op)
        if sample is None:
            return None
        with np.errstate(all="ignore"):
            return _ratio(sample.delta[sample.inside], _half_ulp(sample.weight[sample.inside], op.dtype))

    def nf4_over_delta(self, op: Op) -> float | None:
        """rms(NF4(W) - W) / rms(Δ) over the same rows, each in blocks of its own, without double quantization."""
        import torch

        from ingot.kernels.nf4 import BLOCK, largest, round_trip

        sample = self._sample(op)
        if sample is None:
            return None
        error = sample.weight * 0
        for number, row in enumerate(torch.tensor(sample.weight, dtype=torch.float32)):
            absmax = torch.zeros(-(-len(row) // BLOCK))
            largest(row, 0, absmax)
            error[number] = (round_trip(row, 0, len(row), absmax, absmax) - row).numpy()
        return _ratio(error[sample.inside], sample.delta[sample.inside])

    def _sample(self, op: Op) -> _Sample | None:
        """Some rows of the op's base and of its update; None where a few rows do not tell what is added."""
        import numpy as np

        added = [(placed, term) for placed in plain_terms(op.terms) if (term := _added(placed)) is not None]
        if (
            not added
            or op.from_adapter
            or op.source is None
            or op.dtype not in _PRECISION
            or op.source.dtype not in _PRECISION
        ):
            return None
        rows = _spread([placed.rows for placed, _ in added])
        delta = np.zeros((len(rows), op.view[1]))
        inside = np.zeros(delta.shape, dtype=bool)
        with np.errstate(all="ignore"):
            for placed, term in added:
                here = np.array([placed.rows[0] <= row < placed.rows[1] for row in rows])
                if here.any():
                    part = self._delta(term, [row - placed.rows[0] for row in rows[here]])
                    if part is None:
                        return None
                    delta[here, placed.columns[0] : placed.columns[1]] += part
                    inside[here, placed.columns[0] : placed.columns[1]] = True
        return _Sample(np.stack([self._row(op.source, int(row), op.view[1]) for row in rows]), delta, inside)

    def _row(self, source: Source, row: int, columns: int) -> Array:
        return _floats(self._read(source, row * columns, (row + 1) * columns), source.dtype)

    def _delta(self, term: LowRank | Add, rows: Sequence[int]) -> Array | None:
        """The update of these rows of the term's matrix, in float64."""
        parts = [self._matrix(factor) for factor in term.factors()]
        if parts[0] is None:
            return None
        if isinstance(term, Add):
            return parts[0][rows] * term.scaling
        return None if parts[1] is None else (parts[0][rows] @ parts[1]) * term.scaling

    def _matrix(self, factor: Factor) -> Array | None:
        ref = factor.ref
        if ref.dtype not in (*_PRECISION, "F64"):
            return None
        raw = self.adapters[factor.adapter][ref.file].read(ref.begin, ref.nbytes)
        array: Array | None = _floats(raw, ref.dtype).reshape(ref.shape)
        for name, *args in factor.steps:
            array = None if array is None else _viewed(array, str(name), [int(a) for a in args])
        return array


@dataclass(frozen=True)
class _Sample:
    """Rows of W and Δ, in float64; `inside` are the elements that Δ changes."""

    weight: Array
    delta: Array
    inside: Array


def _added(placed: PlacedTerm) -> LowRank | Add | None:
    term = getattr(placed.term, "update", placed.term)
    return term if isinstance(term, LowRank | Add) else None


def _spread(spans: Sequence[tuple[int, int]]) -> Array:
    """`ROWS` rows, ascending, evenly spread over the union of the spans."""
    import numpy as np

    joined = list(_union(spans))
    total = sum(end - begin for begin, end in joined)
    wanted = np.unique((2 * np.arange(ROWS) + 1) * total // (2 * ROWS))
    starts = np.cumsum([0, *(end - begin for begin, end in joined)])
    span = np.searchsorted(starts, wanted, side="right") - 1
    rows: Array = np.array([joined[i][0] for i in span]) + wanted - starts[span]
    return rows


def _union(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    reached = 0
    for begin, end in sorted(spans):
        if end > max(begin, reached):
            yield max(begin, reached), end
            reached = end


def _viewed(array: Array, name: str, numbers: list[int]) -> Array | None:
    """One step of a factor; see `adapters.factor`. None for the one that is no view."""
    if name == "reshape":
        return array.reshape(numbers)
    if name == "select":
        return array[(slice(None),) * numbers[0] + (numbers[1],)]
    if name == "narrow":
        dim, begin, end = numbers
        return array[(slice(None),) * dim + (slice(begin, end),)]
    return array.swapaxes(*numbers) if name == "transpose" else None


def _floats(raw: bytes | memoryview, dtype: str) -> Array:
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(raw, {"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype]).astype(np.float64)


def _half_ulp(values: Array, dtype: str) -> Array:
    import numpy as np

    bits, smallest = _PRECISION[dtype]
    halves: Array = np.ldexp(0.5, np.maximum(np.frexp(values)[1] - bits, smallest))
    return halves


def _ratio(one: Array, other: Array) -> float | None:
    """rms(one) / rms(other) where that is a number above zero."""
    import numpy as np

    with np.errstate(all="ignore"):
        ratio = _rms(one) / _rms(other) if _rms(other) else math.inf
    return ratio if math.isfinite(ratio) and ratio > 0 else None


def _rms(values: Array) -> float:
    import numpy as np

    return float(np.sqrt(np.mean(np.square(values))))
