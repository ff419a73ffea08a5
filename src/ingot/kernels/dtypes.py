"""The dtypes that a merge computes on, by their safetensors spelling."""

from __future__ import annotations

from typing import Any, cast

import torch

TORCH_DTYPE: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def as_tensor(buffer: memoryview, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The bytes of `buffer` as a tensor[*shape] that shares their memory; writable when the buffer is."""
    return torch.frombuffer(buffer, dtype=TORCH_DTYPE[dtype]).view(shape)


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, in its own memory."""
    return memoryview(cast(Any, tensor.reshape(-1).view(torch.uint8).numpy()))
