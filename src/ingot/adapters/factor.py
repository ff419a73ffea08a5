"""A factor: a matrix that is some view of a tensor in an adapter file, not yet read.

Plans are made of factors, so they are data: printable, comparable, hashable. `engine.factors` reads one: as a matrix in
the dtype that tiles are computed in, or, of `Indices`, as whole numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from ingot.formats.tensor_ref import TensorRef

if TYPE_CHECKING:
    import torch

#: One view: its name, then integers. ("reshape", *shape), ("select", dim, index), ("narrow", dim, begin, end),
#: ("transpose", dim, dim), ("block_diagonal", blocks).
Step = tuple[str | int, ...]


@dataclass(frozen=True)
class Factor:
    """A tensor of adapter number `adapter` of the plan, seen through `steps`.

    Laws: `shape` is the shape after all steps; `steps` never copy except "block_diagonal", and "reshape" of axes that
    were transposed.
    """

    adapter: int
    ref: TensorRef
    steps: tuple[Step, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.ref.shape
        for step in self.steps:
            shape = _shape_after(shape, step)
        return shape

    def then(self, *step: str | int) -> Self:
        """This factor with one more view. Raises ValueError when the view does not fit the shape."""
        _shape_after(self.shape, step)
        return replace(self, steps=(*self.steps, step))

    @property
    def T(self) -> Self:  # noqa: N802 - the name that torch and numpy give it
        """Rows and columns swapped."""
        return self.then("transpose", 0, 1)

    def rows(self, begin: int, end: int) -> Self:
        """Rows [begin, end)."""
        return self if (begin, end) == (0, self.shape[0]) else self.then("narrow", 0, begin, end)

    def columns(self, begin: int, end: int) -> Self:
        """Columns [begin, end)."""
        return self if (begin, end) == (0, self.shape[1]) else self.then("narrow", 1, begin, end)

    def as_indices(self) -> Indices:
        """The same of a tensor that holds whole numbers."""
        return Indices(self.adapter, self.ref, self.steps)

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The steps applied to the tensor that `ref` names."""
        import torch

        for name, *args in self.steps:
            numbers = [int(a) for a in args]
            if name == "reshape":
                tensor = tensor.reshape(numbers)
            elif name == "select":
                tensor = tensor.select(*numbers)
            elif name == "narrow":
                dim, begin, end = numbers
                tensor = tensor.narrow(dim, begin, end - begin)
            elif name == "transpose":
                tensor = tensor.transpose(*numbers)
            else:
                tensor = torch.block_diag(*tensor.chunk(numbers[0], dim=0))  # type: ignore[no-untyped-call]
        return tensor


@dataclass(frozen=True)
class Indices(Factor):
    """A tensor of whole numbers, read as int64: positions in a weight or in a bank of vectors."""


def _shape_after(shape: tuple[int, ...], step: Step) -> tuple[int, ...]:
    name, *args = step
    numbers = [int(a) for a in args]
    if name == "reshape":
        if math.prod(numbers) != math.prod(shape):
            raise ValueError(f"cannot reshape {shape} to {tuple(numbers)}")
        return tuple(numbers)
    if name == "select":
        dim, index = numbers
        if not 0 <= index < shape[dim]:
            raise ValueError(f"no index {index} in dimension {dim} of {shape}")
        return shape[:dim] + shape[dim + 1 :]
    if name == "narrow":
        dim, begin, end = numbers
        if not 0 <= begin <= end <= shape[dim]:
            raise ValueError(f"no range [{begin}, {end}) in dimension {dim} of {shape}")
        return (*shape[:dim], end - begin, *shape[dim + 1 :])
    if name == "transpose":
        a, b = numbers
        swapped = list(shape)
        swapped[a], swapped[b] = swapped[b], swapped[a]
        return tuple(swapped)
    if name == "block_diagonal":
        (blocks,) = numbers
        if len(shape) != 2 or shape[0] % blocks:
            raise ValueError(f"cannot cut the rows of {shape} into {blocks} blocks")
        return (shape[0], shape[1] * blocks)
    raise ValueError(f"unknown view {name!r}")
