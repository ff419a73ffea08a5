"""The finished tensors of a plan, rows at a time: for outputs that are not the base's shards with patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ingot.checkpoint.reading import DenseReader
from ingot.engine.changes import Changes
from ingot.engine.factors import FactorReader
from ingot.errors import NonFiniteError
from ingot.kernels.dtypes import TORCH_DTYPE, as_bytes, as_tensor
from ingot.kernels.finite import first_non_finite
from ingot.kernels.grid import TileGrid
from ingot.kernels.tile import merge_tile
from ingot.plan.model import Op
from ingot.storage.inputs import InputFile
from ingot.storage.kernel import give_back_freed_blocks

Files = Mapping[str, InputFile]
#: Rows are made, quantized and freed all the time, so only large blocks go back to the system: measured on a 1B with
#: four workers, 422 MB and 5.4 s of system time; 352 MB and 9.2 s with blocks of 256 KiB, 595 MB and 2.0 s with none.
_LARGE_NBYTES = 4 << 20


class MergedRows:
    """Reads rows of the ops of a plan as a merge would write them; safe to call from many threads.

    Law: an element has the value that `engine.run` would write, since tiles are computed whole here too.
    """

    def __init__(self, inputs: Files, adapters: Sequence[Files], device: str, *, trust_base: bool = False) -> None:
        """`trust_base` leaves tensors that no adapter changes unchecked for NaN and infinity."""
        torch.set_num_threads(1)  # the callers are the threads
        give_back_freed_blocks(_LARGE_NBYTES)
        self._device = torch.device(device)
        self._read = DenseReader(inputs)
        self._changes = Changes(FactorReader(adapters, self._device), self._read, self._device)
        self._trust_base = trust_base

    def __call__(self, op: Op, begin: int, end: int) -> torch.Tensor:
        """Rows [begin, end) of the op's matrix: a tensor [end - begin, columns] of the op's dtype, on the CPU.

        Raises:
            NonFiniteError: an element is NaN or infinite in the op's dtype.
        """
        columns = op.view[1]
        if not op.computed and op.source is not None:
            raw = self._read(op.source, begin * columns, end * columns)
            rows = as_tensor(raw, op.dtype, (end - begin, columns))
            return rows if self._trust_base else _finite(op, begin, rows)
        grid = TileGrid(*op.view)
        parts = []
        for tile in grid.over(begin * columns, end * columns):
            first, last = grid.rows_of(tile)
            merged = _finite(op, first, self._tile(op, first, last))
            parts.append(merged[max(begin, first) - first : min(end, last) - first])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _tile(self, op: Op, begin: int, end: int) -> torch.Tensor:
        size = (end - begin, op.view[1])
        out = torch.empty(size, dtype=TORCH_DTYPE[op.dtype])
        scratch = torch.empty(out.numel(), dtype=torch.float32, device=self._device)
        weight = self._changes.source_rows(op, begin, end)
        rounding = self._changes.rounding(op, begin, end)
        merge_tile(weight, begin, self._changes.of(op, begin, end), scratch, out, rounding)
        return out


def _finite(op: Op, row: int, rows: torch.Tensor) -> torch.Tensor:
    """`rows`, which begin at row `row` of the op. Raises NonFiniteError, naming the element."""
    at = first_non_finite(as_bytes(rows), op.dtype)
    if at is not None:
        raise NonFiniteError(
            f"a value is not finite in {op.dtype}",
            where=f"{op.name}, element {row * op.view[1] + at}",
            hint="If base and adapter are sound, the sum overflows this dtype: use --dtype bfloat16 or float32.",
        )
    return rows
