"""A checkpoint's parameters as they stand in the model's memory, read block by block from wherever they lie on disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.errors import BaseError, Interrupted, NonFiniteError
from ingot.extract.model import Held, Parameter, Progress
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef
from ingot.kernels.dtypes import TORCH_DTYPE
from ingot.kernels.finite import first_non_finite
from ingot.kernels.spelling import MERGEABLE
from ingot.naming import Names, Placement

#: Bytes that are read at once.
WINDOW_NBYTES = 2 << 20
#: Buffers and counters that a model may hold beside its weights.
_STORED = TORCH_DTYPE | {
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

#: memory[rows, columns] and its values in the dtype that they are stored in. The values are overwritten by the next.
Block = tuple[slice, slice, torch.Tensor]


@dataclass(frozen=True)
class Source:
    """One of the two checkpoints, open.

    Attributes:
        role: "BASE" or "TUNED", as messages name it.
        stop: set by another thread to end early.
    """

    role: str
    checkpoint: Checkpoint
    names: Names
    stop: threading.Event

    def held(self, path: str, name: str, shape: tuple[int, ...]) -> Held | None:
        """Where a parameter stands, through its alias where it is tied; None where the checkpoint does not have it."""
        site = self.names.site(path)
        if name in site.aliases:
            site, name = self.names.parameter(site.aliases[name])
        placements = site.placements.get(name, ())
        if not placements:
            return None
        dtypes = {self.checkpoint.stored[place.tensor].dtype for place in placements}
        strange = dtypes - _STORED.keys()
        if strange or len(dtypes) > 1:
            raise BaseError(
                f"{self.role} stores a parameter in a way that has no difference to a plain one",
                where=", ".join(sorted({place.tensor for place in placements})[:3]),
                expected="one dtype, unquantized", found=", ".join(sorted(dtypes)),
                hint="Give the 16-bit or 32-bit checkpoint that it was made of.",
            )  # fmt: skip
        return Held(shape, placements, dtypes.pop())

    def blocks(self, held: Held, index: int, progress: Progress = lambda _: None) -> Iterator[Block]:
        """The blocks of matrix `index` of the parameter's stack; together they cover it exactly once.

        Raises:
            NonFiniteError: a NaN or an infinity stands in one of the tensors.
            Interrupted: `stop` was set.
        """
        for place in held.placements:
            if place.index == index:
                yield from self._windows(place, self.checkpoint.stored[place.tensor], progress)

    def matrix(self, held: Held, index: int, rows: int, columns: int) -> torch.Tensor:
        """Matrix[rows, columns] of the stack, in the dtype that it is stored in."""
        out = torch.empty(rows, columns, dtype=_STORED[held.dtype])
        for at_rows, at_columns, values in self.blocks(held, index):
            out[at_rows, at_columns] = values
        return out

    def _windows(self, place: Placement, ref: TensorRef, progress: Progress) -> Iterator[Block]:
        row, column, height, width = place.block
        row_nbytes = place.view[2] * DTYPE_NBYTES[ref.dtype]
        if not row_nbytes:
            return
        step = max(1, WINDOW_NBYTES // row_nbytes)
        buffer = memoryview(bytearray(min(step, height) * row_nbytes))
        for first in range(row, row + height, step):
            if self.stop.is_set():
                raise Interrupted("the extraction was interrupted", hint="Run the same command again: it starts anew.")
            last = min(first + step, row + height)
            window = buffer[: (last - first) * row_nbytes]
            self.checkpoint.inputs[ref.file].read_into(window, ref.begin + first * row_nbytes)
            self._check_finite(window, ref, first * place.view[2])
            values = torch.frombuffer(window, dtype=_STORED[ref.dtype]).view(last - first, place.view[2])
            values = values[:, column : column + width]
            progress(values.numel() * DTYPE_NBYTES[ref.dtype])
            along = slice(first - row, last - row)
            yield _in_memory(place, along, values)

    def _check_finite(self, window: memoryview, ref: TensorRef, first: int) -> None:
        at = first_non_finite(window, ref.dtype)
        if at is not None:
            raise NonFiniteError(
                f"{self.role} holds a value that is not finite",
                where=f"{ref.name} in {ref.file}, element {first + at}",
                hint="The training run diverged, or the file is damaged: use another checkpoint.",
            )


def _in_memory(place: Placement, along: slice, values: torch.Tensor) -> Block:
    """Rows `along` of a block on disk, as a block of the parameter."""
    rows, columns = place.rows[0], place.columns[0]
    if place.transposed:
        shifted = slice(columns + along.start, columns + along.stop)
        return slice(*place.rows), shifted, values.T
    return slice(rows + along.start, rows + along.stop), slice(*place.columns), values


def differs(base: Source, tuned: Source, parameter: Parameter, progress: Progress) -> bool:
    """Whether a parameter has another value in TUNED; reads all of both, so that what is not finite is found.

    Where both store it in the same way, no more than a window of it is in memory; else one matrix of its stack.
    """
    ours, theirs = parameter.base, parameter.tuned
    same = ours is not None and not parameter.resized
    for index in range(parameter.view[0]):
        if ours is None or parameter.resized:
            for _ in tuned.blocks(theirs, index, progress):
                pass
        elif (ours.placements, ours.dtype) == (theirs.placements, theirs.dtype):
            pairs = zip(base.blocks(ours, index, progress), tuned.blocks(theirs, index, progress), strict=True)
            for (_, _, one), (_, _, other) in pairs:
                same = same and torch.equal(one, other)
        elif bool(difference(base, tuned, parameter, index, progress).any()):
            same = False
    return not same


def difference(base: Source, tuned: Source, parameter: Parameter, index: int, progress: Progress) -> torch.Tensor:
    """TUNED - BASE of one matrix of the stack, [rows, columns]: float32 with one rounding, float64 for other dtypes."""
    _, rows, columns = parameter.view
    delta = torch.empty(rows, columns, dtype=torch.float32 if parameter.dtypes <= MERGEABLE else torch.float64)
    for at_rows, at_columns, values in tuned.blocks(parameter.tuned, index, progress):
        delta[at_rows, at_columns] = values
    if parameter.base is not None:
        for at_rows, at_columns, values in base.blocks(parameter.base, index, progress):
            delta[at_rows, at_columns] -= values
    return delta


def rounding_energy(tuned: Source, parameter: Parameter, index: int, delta: torch.Tensor) -> float:
    """How much of ‖Δ‖² is the rounding of TUNED to its dtype: Σ ulp²/12 over the elements that changed.

    That is the expectation when rounding errors are uniform, which holds where |Δ| is some ulps or more. Below an ulp
    it is too low: many elements then did not change although they should have.
    """
    if parameter.tuned.dtype not in _STEPS:
        return 0.0
    digits, smallest = _STEPS[parameter.tuned.dtype]
    energy = 0.0
    scratch = torch.empty(0)
    for at_rows, at_columns, values in tuned.blocks(parameter.tuned, index):
        if scratch.shape != values.shape:
            scratch = torch.empty(values.shape)
        # the exponent's bits alone are the power of two at or below |value|
        scratch.copy_(values).view(torch.int32).bitwise_and_(0x7F80_0000)
        scratch.clamp_(min=smallest).mul_(delta[at_rows, at_columns] != 0)
        energy += float(torch.dot(scratch.view(-1), scratch.view(-1)))
    return energy * 4.0**-digits / 12


#: dtype -> (binary digits after the leading one, smallest normal number, below which steps get no smaller).
_STEPS: Mapping[str, tuple[int, float]] = {"BF16": (7, 2.0**-126), "F16": (10, 2.0**-14)}
