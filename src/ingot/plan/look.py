"""How large an update is beside what its dtype can tell apart: the one look at weights that a plan takes.

A few rows of a tensor and the factors of its update are read, with numpy, since torch takes a second to import.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingot.adapters.factor import Factor
from ingot.adapters.terms import Add, LowRank
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef
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

    def delta_ulps(self, op: Op) -> float | None:
        """rms(Δ) / rms(half a unit in the last place of W) in the op's dtype, over some rows of W[rows, columns].

        Well below 1 nearest rounding loses most of Δ: the sum of the op's products and biases; of DoRA it is the
        product that counts. None where nothing of the kind is added to the base's values, where it is zero, or where it
        is not finite, which the run will refuse.
        """
        import numpy as np

        added = [(placed, term) for placed in op.terms if (term := _added(placed)) is not None]
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
            weight = np.stack([self._row(op.source, int(row), op.view[1]) for row in rows])
            ratio = _rms(delta[inside]) / _rms(_half_ulp(weight[inside], op.dtype))
        return ratio if math.isfinite(ratio) and ratio > 0 else None

    def _row(self, ref: TensorRef, row: int, columns: int) -> Array:
        nbytes = columns * DTYPE_NBYTES[ref.dtype]
        return _floats(self.base[ref.file].read(ref.begin + row * nbytes, nbytes), ref.dtype)

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


def _floats(raw: bytes, dtype: str) -> Array:
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(raw, {"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype]).astype(np.float64)


def _half_ulp(values: Array, dtype: str) -> Array:
    import numpy as np

    bits, smallest = _PRECISION[dtype]
    halves: Array = np.ldexp(0.5, np.maximum(np.frexp(values)[1] - bits, smallest))
    return halves


def _rms(values: Array) -> float:
    import numpy as np

    return float(np.sqrt(np.mean(np.square(values))))
