"""The part that all numpy quantizers of blocks share: they differ in how one run of blocks is coded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ingot.quantize.gguf.quantizer import Array, Bytes, check_scales, checked, refuse_importance
from ingot.quantize.gguf.types import GgmlType

#: code(blocks, out): blocks float32[n, type.block] -> out uint8[n, type.nbytes], block by block.
Code = Callable[[Array, Bytes], None]


@dataclass(frozen=True)
class BlockQuantizer:
    """See `Quantizer`.

    Attributes:
        weighted: whether ggml's own code looks at an importance matrix for this type; here that is an error.
    """

    type: GgmlType
    code: Code
    weighted: bool = True
    backend: str = "numpy"

    def quantize(self, rows: Array, importance: Array | None = None) -> Bytes:
        if self.weighted:
            refuse_importance(importance, self.type)
        rows = checked(rows, self.type, importance)
        coded = np.empty((len(rows), self.type.row_nbytes(rows.shape[1])), dtype=np.uint8)
        with np.errstate(all="ignore"):
            self.code(rows.reshape(-1, self.type.block), coded.reshape(-1, self.type.nbytes))
        check_scales(coded, rows, self.type)
        return coded
