"""The merged model as a folder for a converter that reads headers first: config, tokenizer, and weights without bytes.

The file of the weights has the header that the merged checkpoint would have; its data is a hole, which takes no room on
the disk. Whoever wants the bytes of a tensor asks by their place in the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ingot.checkpoint.reading import DenseReader
from ingot.engine.merged import Files, MergedRows
from ingot.errors import BaseError, ResourceError
from ingot.formats.tensor_ref import DTYPE_NBYTES
from ingot.kernels.dtypes import TORCH_DTYPE, as_bytes
from ingot.plan.model import Op, Plan

WEIGHTS = "model.safetensors"
#: Bytes that are merged at a time.
_SLAB_NBYTES = 8 << 20


@dataclass(frozen=True)
class StandIn:
    """Attributes:
    places: first byte in the file of weights -> the op.
    """

    places: Mapping[int, Op]
    merged: MergedRows
    base: DenseReader

    @classmethod
    def write(
        cls, folder: Path, plan: Plan, side_files: Mapping[str, bytes], base: Files, merged: MergedRows
    ) -> StandIn:
        """Make the folder's files. Python files of the checkpoint are left out: its code is not run."""
        for name, data in side_files.items():
            if not name.endswith(".py"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
        return cls(_write_weights(folder / WEIGHTS, plan), merged, DenseReader(base))

    def read(self, begin: int, nbytes: int) -> Iterator[memoryview]:
        """The bytes [begin, begin + nbytes) of the file of weights, which are those of one tensor.

        Raises:
            BaseError: they are those of none.
            NonFiniteError: see `MergedRows`.
        """
        op = self.places.get(begin)
        rows, columns = op.view if op is not None else (0, 0)
        width = columns * DTYPE_NBYTES[op.dtype] if op is not None else 0
        if op is None or nbytes != rows * width:
            hint = "Merge to safetensors, and convert that by hand."
            raise BaseError("llama.cpp's converter wants a part of a tensor, which is not given here", hint=hint)
        step = max(1, _SLAB_NBYTES // max(1, width))
        for first in range(0, rows, step):
            yield self._slab(op, first, min(first + step, rows), columns)

    def _slab(self, op: Op, begin: int, end: int, columns: int) -> memoryview:
        if op.dtype in TORCH_DTYPE:
            return as_bytes(self.merged(op, begin, end))
        assert op.source is not None  # no adapter changes a tensor of integers
        return self.base(op.source, begin * columns, end * columns)


def _write_weights(path: Path, plan: Plan) -> dict[int, Op]:
    entries: dict[str, object] = {}
    begins: list[tuple[int, Op]] = []
    at = 0
    for op in sorted(plan.ops, key=lambda op: (-DTYPE_NBYTES[op.dtype], op.name)):  # each at a multiple of its width
        nbytes = math.prod(op.shape) * DTYPE_NBYTES[op.dtype]
        entries[op.name] = {"dtype": op.dtype, "shape": list(op.shape), "data_offsets": [at, at + nbytes]}
        begins.append((at, op))
        at += nbytes
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + at)
    except OSError as error:
        raise ResourceError("cannot write a file of holes", where=path.parent, found=error.strerror) from error
    return {8 + len(text) + begin: op for begin, op in begins if op.view[0] * op.view[1]}
