"""The files of a GGUF before the first weight is read: header, and where each tensor's bytes stand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.quantize.gguf.architecture import GgufTensor
from ingot.quantize.gguf.writing import headers

if TYPE_CHECKING:
    from gguf import GGUFWriter

#: Tensors begin at multiples of it, in the file and among the data.
ALIGNMENT = 32


@dataclass(frozen=True)
class Entry:
    """A tensor's place: `row_nbytes` for each of its rows, the first at byte `begin` of the file."""

    tensor: GgufTensor
    type: str
    begin: int
    row_nbytes: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.tensor.shape[:-1]) * self.row_nbytes


@dataclass(frozen=True)
class GgufFile:
    """One file: `header` are its first bytes, up to the first tensor."""

    name: str
    header: bytes
    entries: tuple[Entry, ...]
    nbytes: int


def lay_out(
    writer: GGUFWriter,
    tensors: Sequence[GgufTensor],
    types: Mapping[str, str],
    row_nbytes: Mapping[str, int],
    name: str,
) -> tuple[GgufFile, ...]:
    """The file `name`, or the several ones that `writer` splits it into, as `name-00001-of-00003.gguf`.

    Args:
        writer: of the `gguf` library, with every key and no tensor.
        types: ggml type of each tensor, by its name.
        row_nbytes: bytes of one row of each tensor.
    """
    import numpy as np
    from gguf import GGMLQuantizationType

    by_name = {tensor.name: tensor for tensor in tensors}
    for tensor in tensors:
        nbytes = math.prod(tensor.shape[:-1]) * row_nbytes[tensor.name]
        kind = GGMLQuantizationType[types[tensor.name]]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), nbytes, raw_dtype=kind)
    files = []
    for (file, header), infos in zip(headers(writer, name).items(), writer.tensors, strict=True):
        padded = header + bytes(-len(header) % ALIGNMENT)
        at, entries = len(padded), []
        for key, info in infos.items():
            entries.append(Entry(by_name[key], types[key], at, row_nbytes[key]))
            at += info.nbytes + -info.nbytes % ALIGNMENT
        files.append(GgufFile(file, padded, tuple(entries), at))
    return tuple(files)
