"""What a quantizer is: rows of float32 in, the bytes of one ggml type out.

Law: the bytes of a row depend on that row, its importance and the type alone; not on what stands beside it, nor on how
the rows were cut.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ingot.errors import NonFiniteError, UsageError
from ingot.kernels.finite import first_non_finite
from ingot.quantize.gguf.types import GgmlType

#: float32 and uint8; numpy's stubs forget the dtype in arithmetic.
Array = np.ndarray[Any, np.dtype[Any]]
Bytes = np.ndarray[Any, np.dtype[Any]]

#: Where the half floats of a block stand, by type: a scale that is no finite half makes a block of NaN, and so does an
#: exponent of MXFP4 that is 255 (2^-125 and below: ggml takes it modulo 256).
_HALVES = {
    "Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ1_S": (0,), "IQ1_M": (), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,),
    "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip

#: Above what a block with a half float for its scale can hold. ggml takes squares, and stops over some NaNs.
_LARGEST = 2.0**30


class Quantizer(Protocol):
    """Makes one type.

    Attributes:
        type: the type it makes.
        backend: who computes it: "numpy", or the name of the library.
    """

    @property
    def type(self) -> GgmlType: ...

    @property
    def backend(self) -> str: ...

    def quantize(self, rows: Array, importance: Array | None = None) -> Bytes:
        """float32[rows, columns] -> uint8[rows, `type.row_nbytes(columns)`].

        Args:
            importance: float32[columns], how much an error in each column matters.

        Raises:
            NonFiniteError: a NaN or an infinity, or a value that the type cannot hold; `where` is row and column.
            UsageError: `importance` is given and this quantizer does not know how.
        """


def checked(rows: Array, of: GgmlType, importance: Array | None = None) -> Array:
    """`rows` as float32, contiguous; refuses what is not finite.

    Raises:
        NonFiniteError: a NaN or an infinity.
        ValueError: the columns are no whole blocks, or `importance` has another number of them.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    of.row_nbytes(rows.shape[1])
    if importance is not None and importance.shape != rows.shape[1:]:
        raise ValueError(f"importance of {importance.shape} for rows of {rows.shape[1:]}")
    at = first_non_finite(rows.data.cast("B"), "F32") if rows.size else None
    if at is None and of.name in _HALVES and rows.size and max(rows.max(), -rows.min()) > _LARGEST:
        at = int(np.argmax(np.abs(rows)))
    if at is not None:
        raise too_large(rows, of, at)
    return rows


def check_scales(coded: Bytes, rows: Array, of: GgmlType) -> None:
    """Refuse blocks whose scale has left the range of a half float.

    Raises:
        NonFiniteError: there is one; `where` names its largest value.
    """
    blocks = coded.reshape(-1, of.nbytes)
    bad = [(blocks[:, offset + 1] & 0x7C) == 0x7C for offset in _HALVES.get(of.name, ())]
    if of.name == "MXFP4":
        bad = [blocks[:, 0] == 0xFF]
    for where in bad:
        if bool(where.any()):
            block = int(np.argmax(where))
            largest = int(np.argmax(np.abs(rows.reshape(-1, of.block)[block])))
            raise too_large(rows, of, block * of.block + largest)


def too_large(rows: Array, of: GgmlType, element: int) -> NonFiniteError:
    """The refusal of one element of `rows`."""
    row, column = divmod(element, rows.shape[1])
    value = float(rows[row, column])
    hint = "Quantize to a type with a larger range: BF16 or F32."
    if not np.isfinite(value):
        hint = "Look for the tensor in the checkpoint and in the adapter: one of them holds it, or their sum overflows."
    what, where = f"a value has no place in {of.name}", f"row {row}, column {column}"
    return NonFiniteError(what, where=where, found=f"{value:g}", hint=hint)


def refuse_importance(importance: Array | None, of: GgmlType) -> None:
    """For quantizers that know none.

    Raises:
        UsageError: `importance` is given.
    """
    if importance is not None:
        raise UsageError(f"{of.name} with an importance matrix needs ggml's own code")
