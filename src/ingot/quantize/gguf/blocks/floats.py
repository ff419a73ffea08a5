"""F32, F16, BF16: rounded to nearest, ties to even (IEEE 754), as ggml does. An importance matrix changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ingot.kernels.finite import first_non_finite
from ingot.quantize.gguf.quantizer import Array, Bytes, checked, too_large
from ingot.quantize.gguf.types import GgmlType

FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class FloatQuantizer:
    """See `Quantizer`. A value that would become infinite is refused, not clipped."""

    type: GgmlType
    backend: str = "numpy"

    def quantize(self, rows: Array, importance: Array | None = None) -> Bytes:
        rows = checked(rows, self.type, importance)
        coded = self._coded(rows)
        at = first_non_finite(coded.data.cast("B"), self.type.name) if rows.size else None
        if at is not None:
            raise too_large(rows, self.type, at)
        return coded.view(np.uint8).reshape(len(rows), self.type.row_nbytes(rows.shape[1]))

    def _coded(self, rows: Array) -> np.ndarray:
        if self.type.name == "F32":
            return rows
        if self.type.name == "F16":
            with np.errstate(over="ignore", under="ignore"):
                return rows.astype(np.float16)
        bits = rows.view(np.uint32)
        rounded = bits >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += bits  # finite numbers do not wrap around
        rounded >>= 16
        return rounded.astype(np.uint16)
