"""Importance matrices: for each tensor and column the mean of the squared activations that meet it.

Two forms are read: GGUF (`NAME.in_sum2` and `NAME.counts`, a row for each expert) and the older one,

    file = i32 entries | entry * | i32 chunks | string dataset        the last two may be missing
    entry = string name | i32 calls | i32 values | f32 sum * values       string = i32 length | bytes

Source: llama.cpp, common/imatrix-loader.cpp and `load_imatrix` of tools/quantize/quantize.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ingot.errors import IngotError, MismatchError, UsageError, printable
from ingot.formats.gguf import MAGIC, GgufHeader, read_gguf
from ingot.formats.tensor_ref import TensorRef
from ingot.quantize.gguf.quantizer import Array
from ingot.storage.inputs import InputFile

_HINT = "Make it with `ingot imatrix MODEL --samples FILE`, or with llama.cpp's llama-imatrix."
_SUMS, _COUNTS = ".in_sum2", ".counts"
_KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


@dataclass(frozen=True)
class ImportanceMatrix:
    """What one file says.

    Attributes:
        values: tensor name -> float32[experts * columns], at least 0.
        datasets: what it was computed on, as the file names it.
        chunks: on how many chunks of text; 0 where the file does not say.
    """

    values: Mapping[str, Array]
    datasets: tuple[str, ...]
    chunks: int

    def of(self, name: str, experts: int, columns: int) -> Array | None:
        """float32[experts, columns] of a tensor, None where there is none.

        Raises:
            MismatchError: it has another number of columns: it was computed for another model. Of embeddings it is
                ignored, as llama.cpp does.
        """
        values = self.values.get(name)
        if values is None:
            return None
        if values.size != experts * columns:
            if name in ("token_embd.weight", "per_layer_token_embd.weight"):
                return None
            raise MismatchError(
                "the importance matrix was computed for another model", where=name,
                expected=f"{experts * columns} values", found=values.size, hint=_HINT,
            )  # fmt: skip
        return values.reshape(experts, columns)


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read a file of either form.

    Raises:
        UsageError: it cannot be read, is cut off, or is no importance matrix.
        UnsafeInputError: it is not a regular file, or holds what no honest writer makes.
        InputChangedError: it changed meanwhile.
    """
    try:
        real = path.resolve(strict=True)  # a link that the user named may lead anywhere
    except (OSError, RuntimeError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or str(cause)
        raise UsageError(f"cannot open an importance matrix ({reason.lower()})", where=path, hint=_HINT) from cause
    with InputFile.open(real.parent, real.name, error=UsageError) as file:
        is_gguf = file.read(0, min(4, file.nbytes)) == MAGIC
        found = _read_gguf(file, path) if is_gguf else _read_legacy(file, path)
        file.check_unchanged()
    for name, values in found.values.items():
        if not bool(np.all(np.isfinite(values) & (values >= 0))):
            raise _fault("an importance is no number, or below zero", path, name)
    return found


def _read_gguf(file: InputFile, path: Path) -> ImportanceMatrix:
    header = read_gguf(file.fd, file=str(path), incomplete=_NoImatrix)
    missing = [key for key in _KEYS if key not in header.keys]
    if missing or not header.tensors:
        raise _fault(
            "the GGUF file is no importance matrix", path, found=f"no {missing[0]}" if missing else "no tensor"
        )
    datasets, chunks = header.keys[_KEYS[0]], header.keys[_KEYS[1]]
    if not isinstance(datasets, list) or not isinstance(chunks, int):
        raise _fault("the keys of the importance matrix have wrong types", path)
    values = {name: _mean(file, path, name, *pair) for name, pair in _pairs(header, path).items()}
    return ImportanceMatrix(values, tuple(str(dataset) for dataset in datasets), chunks)


def _pairs(header: GgufHeader, path: Path) -> dict[str, tuple[TensorRef, TensorRef]]:
    """Name -> its sums and its counts."""
    pairs = {}
    names = {ref.name.removesuffix(end) for ref in header.tensors for end in (_SUMS, _COUNTS) if ref.name.endswith(end)}
    for name in sorted(names):
        sums, counts = header.by_name.get(name + _SUMS), header.by_name.get(name + _COUNTS)
        if sums is None or counts is None:
            raise _fault("sums or counts of a tensor are missing", path, name)
        if sums.dtype != "F32" or counts.dtype != "F32" or sums.numel % counts.numel:
            raise _fault("sums and counts of a tensor do not fit", path, name)
        pairs[name] = sums, counts
    return pairs


def _mean(file: InputFile, path: Path, name: str, sums: TensorRef, counts: TensorRef) -> Array:
    """sums / counts; 1 for an expert that never ran."""
    total = np.frombuffer(file.read(sums.begin, sums.nbytes), np.float32).reshape(counts.numel, -1)
    number = np.frombuffer(file.read(counts.begin, counts.nbytes), np.float32)[:, None]
    if not bool(np.all(np.abs(number) < 1 << 31)):
        raise _fault("a count is no number", path, name)
    number = np.copysign(np.floor(np.abs(number) + np.float32(0.5)), number)
    with np.errstate(all="ignore"):
        return np.where(number > 0, total / number, np.float32(1)).reshape(-1)


def _read_legacy(file: InputFile, path: Path) -> ImportanceMatrix:
    cursor = _Cursor(file, path)
    count = cursor.number()
    if count < 1:
        raise _fault("file is neither a GGUF nor an importance matrix", path)
    values: dict[str, Array] = {}
    for name, mean in (_entry(cursor) for _ in range(count)):
        if name in values:
            raise _fault("a tensor stands twice", path, name)
        values[name] = mean
    if cursor.left < 4:
        return ImportanceMatrix(values, (), 0)
    chunks = cursor.number()
    dataset = cursor.text() if cursor.left >= 4 else ""
    return ImportanceMatrix(values, (dataset,) if dataset else (), max(0, chunks))


def _entry(cursor: _Cursor) -> tuple[str, Array]:
    name, calls, size = cursor.text(), cursor.number(), cursor.number()
    if size < 1:
        raise _fault("file is neither a GGUF nor an importance matrix", cursor.path)
    sums = np.frombuffer(cursor.take(4 * size), np.float32)
    return name, sums / np.float32(calls) if calls > 0 else sums


@dataclass
class _Cursor:
    """Reads forward."""

    file: InputFile
    path: Path
    at: int = 0

    @property
    def left(self) -> int:
        return self.file.nbytes - self.at

    def take(self, nbytes: int) -> bytes:
        if nbytes > self.left:
            raise _fault("file is cut off, or is neither a GGUF nor an importance matrix", self.path)
        data = self.file.read(self.at, nbytes)
        self.at += nbytes
        return data

    def number(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    def text(self) -> str:
        size = self.number()
        if size < 0:
            raise _fault("file is neither a GGUF nor an importance matrix", self.path)
        return self.take(size).split(b"\0")[0].decode("utf-8", "replace")


class _NoImatrix(UsageError):
    default_hint = _HINT


def _fault(what: str, path: Path, name: str | None = None, found: str | None = None) -> IngotError:
    return UsageError(what, where=f"{path}: {printable(name)}" if name else path, found=found, hint=_HINT)
