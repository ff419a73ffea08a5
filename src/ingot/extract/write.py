"""adapter_model.safetensors, tensor after tensor, while their sizes are still being found out.

The header stands before the data and is known last. So the file is laid out for the largest ranks that may come: their
header is the longest that is possible, and its length is reserved. What the true one is shorter by is spaces, as the
format allows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import torch

from ingot.errors import NonFiniteError, OutputError
from ingot.extract.model import WEIGHTS_NAME, Parameter
from ingot.extract.source import Source
from ingot.formats.safetensors import build_header
from ingot.formats.safetensors_grammar import PREFIX_NBYTES
from ingot.formats.tensor_ref import DTYPE_NBYTES
from ingot.kernels.finite import first_non_finite
from ingot.storage import Finished, InputFile, Staging

#: As PEFT and transformers mark files that hold torch's tensors.
_METADATA = {"format": "pt"}
Entry = tuple[str, str, tuple[int, ...]]


class AdapterFile:
    """The weights file under way. Tensors are added in the order of `largest`; some may turn out smaller."""

    def __init__(self, staging: Staging, largest: Iterable[Entry]) -> None:
        """`largest`: name, dtype and the largest possible shape of each tensor.

        Raises ResourceError when there is no room for them.
        """
        raw, header = build_header(list(largest), _METADATA, file=WEIGHTS_NAME)
        self._staging = staging
        self._reserved = len(raw)
        self._staged = staging.create(WEIGHTS_NAME, header.file_nbytes, direct=False)
        self._entries: list[Entry] = []
        self._end = len(raw)

    def add(self, name: str, dtype: str, tensor: torch.Tensor) -> None:
        """Write a tensor. Raises NonFiniteError where it does not fit the range of its dtype."""
        self._entries.append((name, dtype, tuple(tensor.shape)))
        self._write(tensor, name, dtype)

    def add_whole(self, name: str, parameter: Parameter, source: Source) -> None:
        """Write a parameter as `source` stores it, one matrix after the other."""
        held = parameter.tuned
        self._entries.append((name, held.dtype, held.shape))
        stack, rows, columns = parameter.view
        for index in range(stack):
            self._write(source.matrix(held, index, rows, columns), name, held.dtype)

    def _write(self, tensor: torch.Tensor, name: str, dtype: str) -> None:
        data = memoryview(cast(Any, tensor.contiguous().view(-1).view(torch.uint8).numpy()))
        at = first_non_finite(data, dtype)
        if at is not None:
            raise NonFiniteError(
                "a factor does not fit the dtype of the adapter", where=f"{name}, element {at}", found=dtype,
                hint="Take --dtype float32.",
            )  # fmt: skip
        self._staged.write_at(data, self._end)
        self._end += len(data)

    def finish(self) -> Finished:
        """Write the header and commit the file."""
        raw, _ = build_header(self._entries, _METADATA, file=WEIGHTS_NAME)
        text = raw[PREFIX_NBYTES:].ljust(self._reserved - PREFIX_NBYTES)
        self._staged.write_at((self._reserved - PREFIX_NBYTES).to_bytes(PREFIX_NBYTES, "little") + text, 0)
        whole = replace(self._staged, nbytes=self._end)
        whole.file.truncate(self._end)
        with InputFile.open(whole.path.parent, whole.path.name, error=OutputError) as file:
            sha256 = file.sha256()
        self._staging.commit(whole, sha256)
        return self._staging.finished[WEIGHTS_NAME]


def by_width(whole: Iterable[tuple[str, Parameter]], dtype: str) -> tuple[list[tuple[str, Parameter]], ...]:
    """Whole tensors that come before the factors, and those after: wide elements first, so that all are aligned."""
    ranked = sorted(whole, key=lambda item: -DTYPE_NBYTES[item[1].tuned.dtype])
    before = [item for item in ranked if DTYPE_NBYTES[item[1].tuned.dtype] > DTYPE_NBYTES[dtype]]
    return before, ranked[len(before) :]
