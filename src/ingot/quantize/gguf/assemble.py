"""From merged rows to the float32 rows of a GGUF's tensors: put together, reordered, shifted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ingot.errors import MismatchError
from ingot.plan.model import Op
from ingot.quantize.gguf.architecture import GgufTensor

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[np.float32]]

#: Elements that are assembled, and quantized, at a time: 4 MiB of float32.
UNIT_ELEMENTS = 1 << 20


def units(tensor: GgufTensor) -> Iterator[tuple[int, int]]:
    """The rows [begin, end) that are assembled at a time: whole heads, and never of two experts."""
    columns, rows = tensor.shape[-1], math.prod(tensor.shape[:-1])
    matrix = tensor.shape[-2] if len(tensor.shape) > 1 else 1
    step = max(1, UNIT_ELEMENTS // columns)
    if tensor.heads and len(tensor.shape) > 1:
        head = rows // tensor.heads
        step = max(head, step // head * head)
    for first in range(0, rows, matrix):
        for begin in range(first, first + matrix, step):
            yield begin, min(begin + step, first + matrix)


class RowSource(Protocol):
    """Gives rows of GGUF tensors, to many threads."""

    def rows(self, tensor: GgufTensor, begin: int, end: int) -> Array:
        """Rows [begin, end) of `tensor` as float32[end - begin, columns], cut as `units` does."""


@dataclass(frozen=True)
class Assembler:
    """Gives rows of GGUF tensors out of the rows of the plan's ops.

    Attributes:
        ops: the plan's ops by name.
        read: merged rows of an op, in its dtype (`engine.merged.MergedRows`).
    """

    ops: Mapping[str, Op]
    read: Callable[[Op, int, int], torch.Tensor]

    def rows(self, tensor: GgufTensor, begin: int, end: int) -> Array:
        """Rows [begin, end) of `tensor` as float32[end - begin, columns]; cut them as `units` does."""
        columns = tensor.shape[-1]
        if tensor.values is not None:
            return np.asarray(tensor.values, np.float32).reshape(-1, columns)[begin:end]
        parts, at = [], 0
        for part in tensor.rows:
            size = part.end - part.begin
            first, last = max(begin, at), min(end, at + size)
            if first < last:
                parts.append(self._read(part.tensor, part.begin + first - at, part.begin + last - at, columns))
            at += size
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if tensor.heads:
            rows = _interleaved(rows, tensor)
        return rows + np.float32(tensor.add) if tensor.add else rows

    def _read(self, name: str, begin: int, end: int, columns: int) -> Array:
        """Rows of an op whose own rows may be cut otherwise: a convolution's [out, in * kernel], a vector."""
        import torch

        op = self.ops[name]
        width = op.view[1]
        first, last = begin * columns, end * columns
        if first % width or last % width:
            raise MismatchError("a tensor's rows are no rows of the file", where=name, found=list(op.shape))
        merged = self.read(op, first // width, last // width)
        array: Array = merged.to(torch.float32).numpy().reshape(-1, columns)
        return array


def _interleaved(rows: Array, tensor: GgufTensor) -> Array:
    """Each head's rows (2, head / 2) as (head / 2, 2): rotary pairs side by side, as llama.cpp turns them.

    A bias is one row; its elements are those of the rows of its matrix.
    """
    is_matrix = len(tensor.shape) > 1
    height = math.prod(tensor.shape[:-1]) if is_matrix else tensor.shape[0]
    pairs = rows.reshape(-1, 2, height // tensor.heads // 2, rows.shape[1] if is_matrix else 1).swapaxes(1, 2)
    return np.ascontiguousarray(pairs).reshape(rows.shape)
