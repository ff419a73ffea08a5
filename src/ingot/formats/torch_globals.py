"""The few names that the pickle of a state dict may speak of, and what each of them means; none is ever imported.

Source: `torch/_utils.py` (`_rebuild_tensor_v2`, `_rebuild_tensor_v3`, `_rebuild_parameter`) and `persistent_id` in
`torch/serialization.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

#: torch's storage classes, by the dtype of their elements in safetensors spelling; None: bytes without a dtype.
STORAGES: dict[str, str | None] = {
    "torch DoubleStorage": "F64", "torch FloatStorage": "F32", "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16", "torch LongStorage": "I64", "torch IntStorage": "I32",
    "torch ShortStorage": "I16", "torch CharStorage": "I8", "torch ByteStorage": "U8", "torch BoolStorage": "BOOL",
    "torch ComplexFloatStorage": "C64", "torch.storage UntypedStorage": None,
}  # fmt: skip
#: torch's dtypes that have no storage class of their own.
DTYPES: dict[str, str] = {
    "torch float8_e4m3fn": "F8_E4M3", "torch float8_e5m2": "F8_E5M2", "torch float8_e8m0fnu": "F8_E8M0",
    "torch float8_e4m3fnuz": "F8_E4M3FNUZ", "torch float8_e5m2fnuz": "F8_E5M2FNUZ",
    "torch uint16": "U16", "torch uint32": "U32", "torch uint64": "U64",
}  # fmt: skip
_ORDERED_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_TENSOR_WITH_DTYPE = "torch._utils _rebuild_tensor_v3"
_PARAMETER = "torch._utils _rebuild_parameter"
GLOBALS = frozenset({_ORDERED_DICT, _TENSOR, _TENSOR_WITH_DTYPE, _PARAMETER, *STORAGES, *DTYPES})

MAX_NDIM = 64


@dataclass(frozen=True, slots=True)
class Global:
    """A name in the pickle, as "module name"; never resolved."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """One run of `numel` elements, the member `data/<key>` of the zip; the elements are bytes where `dtype` is None."""

    key: str
    dtype: str | None
    numel: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A view on a storage: `offset` and `stride` count elements."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def storage(persistent_id: object) -> StorageRef | None:
    """The storage that the persistent id names; None where torch writes no such id."""
    match persistent_id:
        case ("storage", Global(name=name), str(key), str(), numel) if name in STORAGES and _is_natural(numel):
            return StorageRef(key, STORAGES[name], numel) if key.isascii() and key.isdigit() else None
    return None


def call(target: object, arguments: object) -> object | None:
    """What the pickle asks for by calling `target`; None where torch writes no such call."""
    match target, arguments:
        case Global(name=name), () if name == _ORDERED_DICT:
            return {}
        case Global(name=name), (TensorSpec() as tensor, bool(), dict(hooks)) if name == _PARAMETER and not hooks:
            return tensor
        case Global(name=name), (StorageRef() as source, offset, shape, stride, bool(), dict(hooks), *rest) if (
            not hooks
        ):
            return _tensor(name, source, offset, shape, stride, rest)
    return None


def _tensor(
    name: str, source: StorageRef, offset: object, shape: object, stride: object, rest: list[object]
) -> TensorSpec | None:
    """`rest` is [dtype], at v3 alone, then an empty dict or nothing: conjugate and negative views are refused."""
    dtype = source.dtype
    if name == _TENSOR_WITH_DTYPE and rest and isinstance(rest[0], Global):
        dtype = DTYPES.get(rest[0].name) if source.dtype is None else None
        rest = rest[1:]
    elif name != _TENSOR:
        return None
    if dtype is None or rest not in ([], [None], [{}]) or not _is_natural(offset):
        return None
    if not _are_naturals(shape) or not _are_naturals(stride) or not len(shape) == len(stride) <= MAX_NDIM:
        return None
    return TensorSpec(source, dtype, offset, shape, stride)


def _is_natural(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0  # a bool is no int here


def _are_naturals(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and all(map(_is_natural, value))
