"""What the parts of an encoded weight must be, said in sentences where they are not."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

from ingot.errors import BaseError
from ingot.formats.tensor_ref import TensorRef


def missing(name: str, beside: TensorRef) -> NoReturn:
    """Raises BaseError: a part that another one needs is not there."""
    raise BaseError("a part of a quantized weight is missing", where=name, expected=f"it beside {beside.name}",
                    hint="The checkpoint is incomplete: download it again, with all shards.")  # fmt: skip


def expect(ref: TensorRef, dtypes: Collection[str], shape: tuple[int, ...] | None, *, ndim: int | None = None) -> None:
    """Raises BaseError unless the part has one of these dtypes, and this shape or this number of axes."""
    if ref.dtype not in dtypes:
        raise BaseError("a part of a quantized weight has another dtype than its format gives it", where=ref.name,
                        expected=" or ".join(dtypes), found=ref.dtype)  # fmt: skip
    if shape is not None and ref.shape != shape:
        raise BaseError("a part of a quantized weight does not have the shape that the others call for",
                        where=ref.name, expected=list(shape), found=list(ref.shape))  # fmt: skip
    if ndim is not None and len(ref.shape) != ndim:
        raise BaseError("a part of a quantized weight has another number of axes than its format gives it",
                        where=ref.name, expected=ndim, found=list(ref.shape))  # fmt: skip


def contradiction(what: str, ref: TensorRef, expected: object, found: object) -> BaseError:
    """What config.json says of the quantization and what the tensors are."""
    return BaseError(
        f"quantization_config and tensors contradict each other: {what}",
        where=ref.name, expected=expected, found=found,
        hint="One of the two is not of this checkpoint: download config.json and weights together.",
    )  # fmt: skip
