"""Is every element of these bytes a finite number? Asked of what is written, in the dtype that it is written in.

An IEEE number is not finite when all bits of its exponent are set. Seen as integers those patterns are the largest
ones: for the positive sign as signed integers, for the negative sign as unsigned ones. Two maxima answer the question
at the speed of memory, without a temporary.
"""

from __future__ import annotations

import numpy as np

#: dtype -> (numpy's signed and unsigned type of that width, the bit pattern of +infinity).
_PATTERNS: dict[str, tuple[type[np.signedinteger], type[np.unsignedinteger], int]] = {
    "F64": (np.int64, np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.int32, np.uint32, 0x7F80_0000),
    "F16": (np.int16, np.uint16, 0x7C00),
    "BF16": (np.int16, np.uint16, 0x7F80),
    "F8_E5M2": (np.int8, np.uint8, 0x7C),
    "F8_E4M3": (np.int8, np.uint8, 0x7F),  # no infinity: 0x7F and 0xFF are its only NaNs
}


def first_non_finite(data: memoryview, dtype: str) -> int | None:
    """Index of the first NaN or infinity among the elements of `data`, or None.

    Dtypes that have no such patterns (integers, booleans) are always finite. `data` holds whole elements.
    """
    if dtype not in _PATTERNS or not len(data):
        return None
    signed_type, unsigned_type, infinity = _PATTERNS[dtype]
    signed = np.frombuffer(data, dtype=signed_type)
    unsigned = signed.view(unsigned_type)
    sign_bit = 1 << (8 * signed.itemsize - 1)
    if int(signed.max()) < infinity and int(unsigned.max()) < infinity + sign_bit:
        return None
    return int(np.argmax((unsigned & (sign_bit - 1)) >= infinity))
