"""Elements of a checkpoint's tensors: as they are stored, or decoded where the tensor is an encoded one.

Only decoding needs torch.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from ingot.checkpoint.quantized.encoded import Encoded, Source
from ingot.errors import BaseError
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef
from ingot.kernels.finite import first_non_finite
from ingot.storage.inputs import InputFile

if TYPE_CHECKING:
    import torch

#: Kept parts beside the two largest (two shards are written at a time): small ones, and those of the next tensor.
KEPT_NBYTES = 32 << 20


def read_elements(inputs: Mapping[str, InputFile], source: TensorRef, first: int, last: int) -> memoryview:
    """Elements [first, last) of a tensor in a file, as stored."""
    itemsize = DTYPE_NBYTES[source.dtype]
    raw = memoryview(bytearray((last - first) * itemsize))
    inputs[source.file].read_into(raw, source.begin + first * itemsize)
    return raw


class DenseReader:
    """Gives elements of stored and of encoded tensors alike; safe to call from many threads.

    Memory beside what it returns: at most `KEPT_NBYTES` and twice the largest `Encoded.kept_nbytes` of parts, and a few
    temporaries of the size of the answer.
    """

    def __init__(self, inputs: Mapping[str, InputFile]) -> None:
        self._inputs = inputs
        self._kept = _Kept()

    def __call__(self, source: Source, first: int, last: int) -> memoryview:
        """Elements [first, last) in `source.dtype`, row-major.

        Raises:
            BaseError: a part holds what its format does not define, or decodes to a NaN or an infinity.
        """
        if isinstance(source, TensorRef):
            return read_elements(self._inputs, source, first, last)
        if first == last:
            return memoryview(b"")
        from ingot.kernels.dtypes import TORCH_DTYPE

        values = source.format.decode(_Parts(source, self._inputs, self._kept), first, last)
        raw = _bytes_of(values.to(TORCH_DTYPE[source.dtype]))
        at = first_non_finite(raw, source.dtype)
        if at is not None:
            raise BaseError(
                "a quantized weight decodes to a NaN or an infinity",
                where=f"{source.name}, element {first + at}, of {', '.join(ref.name for _, ref in source.parts)}",
                found=source.format.title,
                hint="One of its scales is broken, or the file is damaged: download the base again.",
            )
        return raw


@dataclass(frozen=True)
class _Parts:
    """See `encoded.Parts`."""

    encoded: Encoded
    inputs: Mapping[str, InputFile]
    held: _Kept

    @property
    def shape(self) -> tuple[int, ...]:
        return self.encoded.shape

    def __contains__(self, role: str) -> bool:
        return role in self.encoded.by_role

    def elements(self, role: str, begin: int, end: int) -> torch.Tensor:
        ref = self.encoded.by_role[role]
        return _tensor(read_elements(self.inputs, ref, begin, end), ref.dtype)

    def raw(self, role: str, begin: int, end: int) -> torch.Tensor:
        ref = self.encoded.by_role[role]
        buffer = memoryview(bytearray(end - begin))
        self.inputs[ref.file].read_into(buffer, ref.begin + begin)
        return _tensor(buffer, "U8")

    def kept(self, role: str, begin: int = 0, end: int | None = None) -> torch.Tensor:
        ref = self.encoded.by_role[role]
        last = ref.numel if end is None else end
        return self.held.get((ref.file, ref.begin, begin, last), lambda: self.elements(role, begin, last))


@dataclass
class _Slot:
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: torch.Tensor | None = None


class _Kept:
    """The parts that were asked for last. One that is being read is read once, however many threads ask."""

    def __init__(self) -> None:
        self._slots: OrderedDict[tuple[str, int, int, int], _Slot] = OrderedDict()
        self._lock = threading.Lock()
        self._largest = 0

    def get(self, key: tuple[str, int, int, int], read: Callable[[], torch.Tensor]) -> torch.Tensor:
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        with slot.lock:
            if slot.value is None:
                slot.value = read()
                self._make_room(slot.value.nbytes)
            return slot.value

    def _make_room(self, nbytes: int) -> None:
        with self._lock:
            self._largest = max(self._largest, nbytes)
            held = {key: slot.value.nbytes for key, slot in self._slots.items() if slot.value is not None}
            for key in list(held)[:-1]:
                if sum(held.values()) <= KEPT_NBYTES + 2 * self._largest:
                    break
                del self._slots[key], held[key]


def _tensor(buffer: memoryview, dtype: str) -> torch.Tensor:
    """The bytes as a flat tensor. Float8 comes as torch's own types, which convert exactly."""
    import torch

    types = {
        "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
        "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    }  # fmt: skip
    if not len(buffer):
        return torch.empty(0, dtype=types[dtype])
    return torch.frombuffer(buffer, dtype=torch.uint8).view(types[dtype])


def _bytes_of(values: torch.Tensor) -> memoryview:
    import torch

    return memoryview(cast(Any, values.contiguous().view(torch.uint8).numpy()))
