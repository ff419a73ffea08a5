"""The noun that every room shares: a tensor that lies in a file and has not been read."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Bytes of one element, by the dtype's spelling in a safetensors header.
DTYPE_NBYTES: dict[str, int] = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8,
    "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Name, dtype and shape of a tensor, and where its bytes are: file[begin, end), little-endian and row-major.

    `file` is a name inside the directory that holds the tensor, never a path. Offsets count from the start of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def numel(self) -> int:
        return math.prod(self.shape)
