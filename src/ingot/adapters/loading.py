"""Reading the tensors of an adapter: numbers in one dtype, always finite, or whole numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingot.errors import AdapterError, NonFiniteError
from ingot.formats.tensor_ref import TensorRef
from ingot.storage.inputs import InputFile

if TYPE_CHECKING:
    import torch

#: How a safetensors header spells the dtypes of indices, and how torch does.
_INTEGERS = {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"}


def load_tensor(file: InputFile, ref: TensorRef, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The whole tensor in `dtype`, float32 by default: exact for all that are stored narrower, float64 is rounded once.

    Raises:
        NonFiniteError: the tensor holds a NaN, an infinity, or a float64 beyond the range of `dtype`; names the tensor
            and the index of the first one.
        AdapterError: the tensor does not hold floating point numbers.
        InputChangedError: the file became shorter.
    """
    import torch

    from ingot.kernels.dtypes import TORCH_DTYPE, as_tensor

    if ref.dtype not in TORCH_DTYPE:
        raise AdapterError(
            "an adapter tensor does not hold floating point numbers", where=f"`{ref.name}` in {ref.file}",
            expected="F64, F32, F16 or BF16", found=ref.dtype,
        )  # fmt: skip
    if not ref.numel:
        return torch.empty(ref.shape)
    data = bytearray(ref.nbytes)
    file.read_into(data, ref.begin)
    tensor = as_tensor(memoryview(data), ref.dtype, ref.shape).to(dtype or torch.float32)
    wrong = ~torch.isfinite(tensor)
    if wrong.any():
        index = [int(i) for i in wrong.nonzero()[0]]
        raise NonFiniteError(
            "adapter holds a value that is not finite",
            where=f"`{ref.name}` in {ref.file} at index {index}",
            found=tensor[tuple(index)].item(),
            hint="The training run diverged: use an earlier checkpoint of it.",
        )
    return tensor


def load_integers(file: InputFile, ref: TensorRef) -> torch.Tensor:
    """The whole tensor as int64. PEFT on Windows saves indices as floating point numbers, which must then be whole.

    Raises:
        AdapterError: the tensor holds neither integers nor whole numbers.
        NonFiniteError, InputChangedError: as `load_tensor`.
    """
    import torch

    from ingot.kernels.dtypes import TORCH_DTYPE

    if ref.dtype in TORCH_DTYPE:
        numbers = load_tensor(file, ref, torch.float64)
        whole = numbers.to(torch.int64)
        if not torch.equal(whole.to(numbers.dtype), numbers):
            raise AdapterError("an adapter tensor of indices holds fractions", where=f"`{ref.name}` in {ref.file}")
        return whole
    if ref.dtype not in _INTEGERS:
        raise AdapterError(
            "an adapter tensor does not hold indices", where=f"`{ref.name}` in {ref.file}",
            expected=", ".join(_INTEGERS), found=ref.dtype,
        )  # fmt: skip
    if not ref.numel:
        return torch.empty(ref.shape, dtype=torch.int64)
    data = bytearray(ref.nbytes)
    file.read_into(data, ref.begin)
    return torch.frombuffer(data, dtype=getattr(torch, _INTEGERS[ref.dtype])).reshape(ref.shape).to(torch.int64)
