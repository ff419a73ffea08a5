"""Importance matrices as llama-imatrix writes them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np


def gguf_file(
    path: Path,
    sums: Mapping[str, np.ndarray],
    counts: Mapping[str, Sequence[float]],
    *,
    datasets: Sequence[str],
    chunks: int,
) -> None:
    """`sums` are float32[experts, columns], `counts` a number for each expert."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(datasets))
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in sums.items():
        writer.add_tensor(f"{name}.in_sum2", values)
        writer.add_tensor(f"{name}.counts", np.array(counts[name], np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def legacy_file(
    path: Path, entries: Mapping[str, tuple[int, np.ndarray]], chunks: int | None, dataset: str | None
) -> None:
    """`entries` are calls and float32[columns]."""
    raw = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        raw += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size) + values.tobytes()
    if chunks is not None:
        raw += struct.pack("<i", chunks)
    if dataset is not None:
        raw += struct.pack("<i", len(dataset)) + dataset.encode()
    path.write_bytes(raw)
