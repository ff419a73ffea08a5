"""Adapter tensors as matrices on the compute device, in one dtype or as indices, read when they are first needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch

from ingot.adapters.factor import Factor, Indices
from ingot.adapters.loading import load_integers, load_tensor
from ingot.storage.inputs import InputFile

#: Adapter tensors kept for the next factor: an expert stack is one tensor with a factor for every expert.
KEPT_NBYTES = 16 << 20


class FactorReader:
    """Reads factors of several adapters; safe to call from many threads."""

    def __init__(
        self, files: Sequence[Mapping[str, InputFile]], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self._files = files
        self._device = device
        self._dtype = dtype
        self._kept: OrderedDict[tuple[int, str, bool], torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, factor: Factor) -> torch.Tensor:
        """The factor, contiguous: narrower dtypes are widened exactly, F64 is rounded where float32 is asked for.

        `Indices` are int64.

        Raises:
            NonFiniteError: the adapter holds a NaN or an infinity.
            AdapterError: the tensor's dtype is not one of numbers with a fraction; of indices, not one of integers.
        """
        with self._lock:
            tensor = self._tensor(factor)
        # subtle: clone, so that no factor shares memory with a kept tensor and every one has torch's own alignment
        return factor.of(tensor).clone(memory_format=torch.contiguous_format).to(self._device)

    def _tensor(self, factor: Factor) -> torch.Tensor:
        whole = isinstance(factor, Indices)
        key = (factor.adapter, factor.ref.name, whole)
        if key not in self._kept:
            file = self._files[factor.adapter][factor.ref.file]
            self._kept[key] = load_integers(file, factor.ref) if whole else load_tensor(file, factor.ref, self._dtype)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > KEPT_NBYTES:
            self._kept.popitem(last=False)
        return self._kept[key]
