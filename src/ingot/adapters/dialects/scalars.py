"""Tensors that hold one number, such as alpha: their values are part of the plan."""

from __future__ import annotations

import math
import struct

from ingot.errors import AdapterError
from ingot.formats.tensor_ref import TensorRef
from ingot.storage.inputs import InputFile

_CODES = {
    "F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "U8": "B", "BOOL": "?",
}  # fmt: skip


def read_number(file: InputFile, ref: TensorRef) -> float:
    """The value of a tensor of one element. Raises AdapterError where it has another number of them, or is NaN."""
    where = f"`{ref.name}`"
    if ref.numel != 1:
        raise AdapterError("tensor should hold one number", where=where, expected="one element", found=list(ref.shape))
    data = file.read(ref.begin, ref.nbytes)
    if ref.dtype == "BF16":
        value = struct.unpack("<f", b"\0\0" + data)[0]
    elif ref.dtype in _CODES:
        value = struct.unpack(f"<{_CODES[ref.dtype]}", data)[0]
    else:
        raise AdapterError("tensor's dtype cannot be read as a number", where=where, found=ref.dtype)
    if not math.isfinite(value):
        raise AdapterError("tensor holds a number that is not finite", where=where, found=value)
    return float(value)
