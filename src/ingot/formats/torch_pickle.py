"""`adapter_model.bin`, `pytorch_model.bin`: where a `torch.save` file keeps its tensors, without torch or running it.

    file = zip of stored members:  <root>/data.pkl   the pickle of a flat dict: name -> tensor
                                   <root>/data/<key> the bytes of one storage, little-endian

The tensors that come out are pread like those of a safetensors file: `[begin, end)` of the .bin file itself.
Source: `torch/serialization.py` (`_save`, `_load`), and the files that torch 2.13 writes.
"""

from __future__ import annotations

import math

from ingot.errors import AdapterError, IngotError, UnsafeInputError
from ingot.formats.names import check_distinct, check_tensor_name
from ingot.formats.pickle_machine import read_pickle
from ingot.formats.raw_bytes import file_nbytes, read_exactly, refuse_lfs_pointer
from ingot.formats.stored_zip import StoredZip
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef
from ingot.formats.torch_globals import StorageRef, TensorSpec

MAX_PICKLE_NBYTES = 64 * 2**20
RESAVE_HINT = (
    "Where you trust the file, save it anew as safetensors: `import torch, safetensors.torch as st` and "
    "`st.save_file({k: v.contiguous().clone() for k, v in torch.load(FILE, weights_only=True).items()}, NEW_FILE)`."
)


def read_torch_zip(fd: int, *, file: str, incomplete: type[IngotError] = AdapterError) -> tuple[TensorRef, ...]:
    """The tensors of an open `torch.save` file, in offset order. Two of them may share bytes, as tied weights do.

    Only the directory and the pickle are read; the checksum of the weights is not computed.

    Raises:
        incomplete: cut off, damaged, of the format before torch 1.6, big-endian, not a flat dict of tensors, or with a
            tensor that is not contiguous.
        UnsafeInputError: whatever else no `torch.save` of a state dict writes, first of all a global outside the list.
    """
    _check_kind(fd, file, incomplete)
    archive = StoredZip(fd, file=file, incomplete=incomplete)
    root = _root(archive, file, incomplete)
    _check_byteorder(archive, root, file, incomplete)
    pickle = archive.content(archive.members[f"{root}/data.pkl"], max_nbytes=MAX_PICKLE_NBYTES)
    value = read_pickle(pickle, where=f"data.pkl in {file}")
    if not isinstance(value, dict):
        raise incomplete("file holds no dict of tensors", where=file, found=type(value).__name__, hint=RESAVE_HINT)
    locate = _Locator(archive, root, file, incomplete)
    tensors = [locate.tensor(name, spec) for name, spec in value.items()]
    check_distinct(value, file=file)
    return tuple(sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end)))


def _check_kind(fd: int, file: str, incomplete: type[IngotError]) -> None:
    prefix = read_exactly(fd, 0, min(64, file_nbytes(fd, file=file)), file=file, incomplete=incomplete)
    refuse_lfs_pointer(prefix, file=file, incomplete=incomplete)
    if prefix[:4] == b"PK\x03\x04":
        return
    if prefix[:1] == b"\x80":
        raise incomplete("file is in the format of torch before 1.6", where=file, hint=RESAVE_HINT)
    raise incomplete("file is no torch.save file", where=file, found=prefix[:8])


def _root(archive: StoredZip, file: str, incomplete: type[IngotError]) -> str:
    """The one directory of the archive; torch names it after the file, or `archive`."""
    roots = {name.split("/", 1)[0] for name in archive.members}
    if len(roots) != 1:
        raise UnsafeInputError("zip has not exactly one root directory", where=file, found=f"{len(roots)} roots")
    root = roots.pop()
    if f"{root}/data.pkl" not in archive.members:
        raise incomplete("zip holds no data.pkl, so torch.save did not write it", where=file)
    if f"{root}/constants.pkl" in archive.members:
        raise incomplete("file is a TorchScript program, not a checkpoint", where=file)
    return root


def _check_byteorder(archive: StoredZip, root: str, file: str, incomplete: type[IngotError]) -> None:
    member = archive.members.get(f"{root}/byteorder")
    order = b"little" if member is None else archive.content(member, max_nbytes=16)
    if order == b"big":
        raise incomplete("tensors are big-endian", where=file, hint=RESAVE_HINT)
    if order != b"little":
        raise UnsafeInputError("byte order is neither little nor big", where=file, found=order)


class _Locator:
    """Turns views on storages into byte ranges of the file."""

    def __init__(self, archive: StoredZip, root: str, file: str, incomplete: type[IngotError]) -> None:
        self._archive, self._root, self._file, self._incomplete = archive, root, file, incomplete
        self._ranges: dict[str, tuple[int, int]] = {}

    def tensor(self, name: str, spec: object) -> TensorRef:
        check_tensor_name(name, file=self._file)
        where = f"`{name}` in {self._file}"
        if not isinstance(spec, TensorSpec):
            raise self._incomplete(
                "file holds more than tensors, so it is no plain state dict", where=where, found=type(spec).__name__
            )
        itemsize = DTYPE_NBYTES[spec.dtype]
        storage_begin, storage_end = self.storage(spec.storage, where)
        begin = storage_begin + spec.offset * itemsize
        end = begin + math.prod(spec.shape) * itemsize
        if not _is_contiguous(spec):
            raise self._incomplete(
                "tensor is not contiguous", where=where, found=f"strides {spec.stride}", hint=RESAVE_HINT
            )
        if end > storage_end:
            raise UnsafeInputError("tensor reaches beyond its storage", where=where, found=f"{end - storage_end} bytes")
        return TensorRef(name, spec.dtype, spec.shape, self._file, begin, end)

    def storage(self, ref: StorageRef, where: str) -> tuple[int, int]:
        """The storage's `[begin, end)` in the file, once its size is what the pickle says."""
        if ref.key not in self._ranges:
            member = self._archive.members.get(f"{self._root}/data/{ref.key}")
            if member is None:
                raise UnsafeInputError("storage of a tensor is missing", where=where, expected=f"data/{ref.key}")
            self._ranges[ref.key] = self._archive.data_range(member)
        begin, end = self._ranges[ref.key]
        nbytes = ref.numel * (DTYPE_NBYTES[ref.dtype] if ref.dtype is not None else 1)
        if nbytes != end - begin:
            raise UnsafeInputError("storage and pickle disagree", where=where, expected=nbytes, found=end - begin)
        return begin, end


def _is_contiguous(spec: TensorSpec) -> bool:
    """Whether the elements lie row by row without a gap; an axis of length 1 may have any stride, as in torch."""
    if 0 in spec.shape:
        return True
    step = 1
    for length, stride in zip(reversed(spec.shape), reversed(spec.stride), strict=True):
        if length != 1 and stride != step:
            return False
        step *= length
    return True
