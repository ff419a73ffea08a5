"""Rows of converted tensors for the sink, which asks for them a few at a time and from many threads."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import torch

from ingot.engine.merged import Files, MergedRows
from ingot.kernels.dtypes import as_tensor
from ingot.plan.model import Plan
from ingot.quantize.gguf.architecture import GgufTensor
from ingot.quantize.gguf.assemble import Array
from ingot.quantize.gguf.bridge.checkout import Checkout
from ingot.quantize.gguf.bridge.converter import Converter, Described
from ingot.quantize.gguf.bridge.standin import StandIn


@dataclass
class _Held:
    """A tensor that was fetched, until `left` of its rows are given."""

    values: torch.Tensor
    left: int


class ConvertedRows:
    """See `assemble.RowSource`. Holds tensors from their first row that is asked for to the last one.

    A tensor whose rows were all given starts the converter anew when it is asked for again.
    """

    def __init__(
        self, checkout: Checkout, plan: Plan, side_files: Mapping[str, bytes], base: Files, merged: MergedRows, *,
        outtype: str, pre: str | None,
    ) -> None:  # fmt: skip
        """Raises what `Converter` raises."""
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._given: set[str] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="ingot-")
        try:
            folder = Path(self._folder.name) / "model"  # some of a converter's keys come from the folder's name
            folder.mkdir()
            standin = StandIn.write(folder, plan, side_files, base, merged)
            self._start: Callable[[], Converter] = partial(
                Converter, checkout, folder, outtype.lower(), pre, standin.read
            )
            self._converter = self._start()
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._converter.close()
        self._folder.cleanup()

    @property
    def described(self) -> Described:
        return self._converter.described

    def rows(self, tensor: GgufTensor, begin: int, end: int) -> Array:
        """Rows [begin, end) as float32[end - begin, columns]."""
        with self._lock:
            held = self._held.get(tensor.name) or self._fetch(tensor)
            values = held.values
            held.left -= end - begin
            if held.left <= 0:
                del self._held[tensor.name]
        rows: Array = values[begin:end].to(torch.float32).numpy()
        return rows

    def _fetch(self, tensor: GgufTensor) -> _Held:
        if tensor.name in self._given:
            self._converter.close()
            self._given.clear()
            self._converter = self._start()
        count = math.prod(tensor.shape[:-1])
        data = memoryview(self._converter.tensor(tensor.name))
        self._given.add(tensor.name)
        values = as_tensor(data, self.described.stored[tensor.name], (count, tensor.shape[-1]))
        self._held[tensor.name] = held = _Held(values, count)
        return held
