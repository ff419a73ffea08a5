"""Reading the tensors of an adapter: always as float32, always finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingot.adapters.factor import Factor
from ingot.adapters.lora import EmbeddingUpdate, LoraUpdate
from ingot.adapters.multihead import MultiheadUpdate
from ingot.errors import NonFiniteError
from ingot.formats.tensor_ref import TensorRef

if TYPE_CHECKING:
    import torch

    from ingot.adapters.adapter import Adapter
    from ingot.adapters.edit import Update


def load_factor(adapter: Adapter, factor: Factor) -> torch.Tensor:
    """The factor's matrix in float32 on the CPU. Exact for float32, float16 and bfloat16; float64 is rounded once.

    Raises:
        NonFiniteError: the tensor holds a NaN, an infinity, or a float64 beyond float32's range; names the tensor and
            the index of the first one.
        InputChangedError: the file became shorter.
    """
    return factor.of(load_tensor(adapter, factor.ref))


def load_tensor(adapter: Adapter, ref: TensorRef) -> torch.Tensor:
    """The whole tensor in float32. Raises as `load_factor`."""
    import torch

    from ingot.kernels.dtypes import as_tensor

    data = bytearray(ref.nbytes)
    adapter.weights.read_into(data, ref.begin)
    tensor = as_tensor(memoryview(data), ref.dtype, ref.shape).to(torch.float32)
    wrong = ~torch.isfinite(tensor)
    if wrong.any():
        index = [int(i) for i in wrong.nonzero()[0]]
        value = tensor[tuple(index)].item()
        raise NonFiniteError(
            "adapter holds a value that is not finite",
            where=f"`{ref.name}` in {ref.file} at index {index}",
            found=value,
            hint="The training run diverged: use an earlier checkpoint of it.",
        )
    return tensor


def zero_updates(adapter: Adapter) -> tuple[str, ...]:
    """Names of the tensors that make their update change nothing: an A or a B that is zero everywhere.

    Where it is every update of the adapter, the adapter was saved before it was trained.
    """
    return tuple(
        ref.name
        for update in adapter.updates
        for ref in _factors_of(update)
        if not bool(load_tensor(adapter, ref).any())
    )


def _factors_of(update: Update) -> tuple[TensorRef, ...]:
    """A and B of a low-rank update, unless something else of it changes the weight all the same."""
    if isinstance(update, MultiheadUpdate):
        return (update.in_a.ref, update.in_b.ref, update.out_a.ref, update.out_b.ref)
    if isinstance(update, (LoraUpdate, EmbeddingUpdate)) and update.magnitude is None:
        return (update.a.ref, update.b.ref)
    pairs = getattr(update, "pairs", ())
    return tuple(factor.ref for pair in pairs for factor in pair)
