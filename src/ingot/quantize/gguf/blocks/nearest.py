"""ggml's rounding of a float to an integer."""

from __future__ import annotations

import numpy as np

from ingot.quantize.gguf.quantizer import Array

#: Up to here the trick below rounds to the nearest integer, ties to even.
LIMIT = np.float32(4194303)
_MAGIC = np.float32(12582912)


def nearest(values: Array, *, exact: bool) -> Array:
    """Round `values` in place, and return it.

    ggml adds 1.5 · 2²³ and takes the low bits of the sum: to nearest up to `LIMIT`, some other number beyond it and for
    NaN. With `exact` that number is reproduced; without it the caller knows that all are below.

    Source: llama.cpp, ggml/src/ggml-quants.c: `nearest_int`.
    """
    if not exact or (values.size and bool(np.all(np.abs(values) <= LIMIT))):
        return np.rint(values, out=values)
    bits = (values + _MAGIC).view(np.int32)
    values[...] = (bits & 0x007F_FFFF) - 0x0040_0000
    return values
