"""Where the elements of a tensor stand on disk, under the tensor operations that checkpoint conversions are made of.

A `Layout` behaves as a tensor of which only the shape and the origin of every element are known. Transformers' own
conversion code, run on layouts instead of on tensors, therefore says where each part of the result comes from; nothing
of it has to be written down a second time. Operations that scatter rows (a rotary permutation, an interleave) raise
`NotPlaceable`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ingot.adapters.module import matrix_view
from ingot.naming.placement import Placement

#: A memory axis that runs along no axis of the disk tensor; its extent is 1.
NOWHERE = -1


class NotPlaceable(Exception):
    """The elements do not stand in blocks on disk; the message says which operation scatters them."""


@dataclass(frozen=True, slots=True)
class Box:
    """The box [start, start + size) of a tensor, held by the disk tensor `tensor` of shape `shape` from `origin` on.

    `axes[i]` is the disk axis along which axis i of the box runs.
    """

    tensor: str
    shape: tuple[int, ...]
    origin: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor of shape `shape` in which every element belongs to exactly one of the boxes."""

    shape: tuple[int, ...]
    boxes: tuple[Box, ...]

    @classmethod
    def whole(cls, tensor: str, shape: tuple[int, ...]) -> Layout:
        """The disk tensor itself."""
        zeros = (0,) * len(shape)
        return cls(shape, (Box(tensor, shape, zeros, zeros, shape, tuple(range(len(shape)))),))

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """`torch.cat(layouts, dim)` and its like; see https://docs.pytorch.org/docs/stable/notes/extending.html."""
        operation = OPERATIONS.get(func.__name__)
        if operation is None:
            raise NotPlaceable(f"the operation `{func.__name__}`")
        return operation(*args, **(kwargs or {}))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def contiguous(self) -> Layout:
        return self

    def __getitem__(self, index: object) -> Layout:
        if index is Ellipsis:
            return self
        raise NotPlaceable("indexing")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise NotPlaceable(f"the operation `{name}`")

    def narrow(self, dim: int, start: int, length: int) -> Layout:
        """Elements [start, start + length) of axis `dim`."""
        dim %= self.ndim
        cut = (_cut(box, dim, start, start + length) for box in self.boxes)
        return Layout(_put(self.shape, dim, length), tuple(box for box in cut if box is not None))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Layout, ...]:
        """At most `chunks` parts of equal length, the last perhaps shorter, as torch.chunk cuts."""
        extent = self.shape[dim]
        step = max(1, -(-extent // chunks))
        return tuple(self.narrow(dim, at, min(step, extent - at)) for at in range(0, extent, step))

    def unbind(self, dim: int = 0) -> tuple[Layout, ...]:
        """The slices along axis `dim`, without that axis."""
        return tuple(self.narrow(dim, at, 1).squeeze(dim) for at in range(self.shape[dim]))

    def squeeze(self, dim: int | None = None) -> Layout:
        """Without the axes of extent 1, or without axis `dim` if its extent is 1."""
        axes = range(self.ndim) if dim is None else (dim % self.ndim,)
        dropped = {axis for axis in axes if self.shape[axis] == 1}
        return self._select([axis for axis in range(self.ndim) if axis not in dropped])

    def transpose(self, dim0: int, dim1: int) -> Layout:
        """Two axes swapped."""
        order = list(range(self.ndim))
        order[dim0], order[dim1] = order[dim1], order[dim0]
        return self._select(order)

    def reshape(self, *shape: Any) -> Layout:
        """Another shape of the same elements: only of a whole disk tensor, which is then seen in that shape."""
        wanted = _sizes(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape, math.prod(self.shape))
        if wanted == self.shape:
            return self
        if len(self.boxes) == 1 and self == Layout.whole(self.boxes[0].tensor, self.shape):
            return Layout.whole(self.boxes[0].tensor, wanted)
        raise NotPlaceable("a reshape of a part")

    view = reshape

    def _select(self, order: Sequence[int]) -> Layout:
        def pick(values: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(values[axis] for axis in order)

        boxes = (replace(b, start=pick(b.start), size=pick(b.size), axes=pick(b.axes)) for b in self.boxes)
        return Layout(pick(self.shape), tuple(boxes))


def cat(layouts: Iterable[Layout], dim: int = 0) -> Layout:
    """The parts one after the other along axis `dim`."""
    parts = list(layouts)
    dim %= parts[0].ndim
    if len({_put(part.shape, dim, 0) for part in parts}) != 1:
        raise NotPlaceable(f"a concatenation of the unequal shapes {sorted({part.shape for part in parts})}")
    boxes: list[Box] = []
    offset = 0
    for part in parts:
        boxes.extend(replace(box, start=_put(box.start, dim, box.start[dim] + offset)) for box in part.boxes)
        offset += part.shape[dim]
    return Layout(_put(parts[0].shape, dim, offset), tuple(boxes))


def stack(layouts: Iterable[Layout], dim: int = 0) -> Layout:
    """The parts one after the other along a new axis `dim`."""
    return cat([_with_axis(part, dim) for part in layouts], dim)


#: What conversions call by torch's function name.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "cat": cat,
    "stack": stack,
    "chunk": Layout.chunk,
    "unbind": Layout.unbind,
    "transpose": Layout.transpose,
    "squeeze": Layout.squeeze,
    "narrow": Layout.narrow,
}


def placements(layout: Layout, *, stacked: bool) -> tuple[Placement, ...]:
    """The blocks of a parameter that `Module.view` shows as (N, rows, columns); `stacked` as in `matrix_view`.

    Raises NotPlaceable where a block's rows and columns are not rows and columns of a disk tensor.
    """
    if layout.ndim > 2 and not (stacked and layout.ndim == 3):
        return tuple(_row_placement(layout.shape, box) for box in layout.boxes)
    return tuple(placement for box in layout.boxes for placement in _block_placements(box))


def _row_placement(shape: tuple[int, ...], box: Box) -> Placement:
    """Whole rows of a convolution's kernel, seen as a matrix [out, in * kernel] in memory and on disk."""
    if box.shape[1:] != shape[1:] or box.size[1:] != shape[1:] or box.axes != tuple(range(len(shape))):
        raise NotPlaceable(f"a part of the kernel {shape}")
    _, _, columns = matrix_view(shape, stacked=False)
    rows = (box.start[0], box.start[0] + box.size[0])
    view = matrix_view(box.shape, stacked=False)
    return Placement(box.tensor, view, 0, rows, (0, columns), disk_row=box.origin[0])


def _block_placements(box: Box) -> Iterable[Placement]:
    missing, disk_missing = 3 - len(box.start), 3 - len(box.shape)
    if disk_missing < 0:
        raise NotPlaceable(f"a matrix of the tensor {box.tensor} of shape {box.shape}")
    start, size = (0,) * missing + box.start, (1,) * missing + box.size
    view = (1,) * disk_missing + box.shape
    origin = (0,) * disk_missing + box.origin
    # An axis of extent 1 lies along any axis of the disk tensor.
    known = [axis + disk_missing if axis != NOWHERE else NOWHERE for axis in box.axes]
    axes = [axis if extent > 1 else NOWHERE for axis, extent in zip([NOWHERE] * missing + known, size, strict=True)]
    transposed = axes[1] == 2 or axes[2] == 1
    across = (2, 1) if transposed else (1, 2)
    if any(axis not in (NOWHERE, expected) for axis, expected in zip(axes, (0, *across), strict=True)):
        raise NotPlaceable(f"an exchange of the axes of {box.tensor}")
    for at in range(size[0]):
        yield Placement(
            tensor=box.tensor,
            view=(view[0], view[1], view[2]),
            index=start[0] + at,
            rows=(start[1], start[1] + size[1]),
            columns=(start[2], start[2] + size[2]),
            disk_index=origin[0] + (at if axes[0] == 0 else 0),
            disk_row=origin[1],
            disk_column=origin[2],
            transposed=transposed,
        )


def _cut(box: Box, dim: int, begin: int, end: int) -> Box | None:
    """The part of the box inside [begin, end) of axis `dim`, counted from `begin`; None if there is none."""
    low, high = max(begin, box.start[dim]), min(end, box.start[dim] + box.size[dim])
    if low >= high:
        return None
    origin, axis = box.origin, box.axes[dim]
    if axis != NOWHERE:
        origin = _put(origin, axis, origin[axis] + low - box.start[dim])
    start, size = _put(box.start, dim, low - begin), _put(box.size, dim, high - low)
    return replace(box, origin=origin, start=start, size=size)


def _with_axis(layout: Layout, dim: int) -> Layout:
    def insert(values: tuple[int, ...], value: int) -> tuple[int, ...]:
        return (*values[:dim], value, *values[dim:])

    dim %= layout.ndim + 1
    boxes = (
        replace(b, start=insert(b.start, 0), size=insert(b.size, 1), axes=insert(b.axes, NOWHERE)) for b in layout.boxes
    )
    return Layout(insert(layout.shape, 1), tuple(boxes))


def _sizes(shape: Iterable[int], numel: int) -> tuple[int, ...]:
    sizes = tuple(int(extent) for extent in shape)
    known = math.prod(extent for extent in sizes if extent != -1)
    sizes = tuple(numel // known if extent == -1 and known else extent for extent in sizes)
    if math.prod(sizes) != numel:
        raise NotPlaceable(f"a reshape of {numel} elements to {sizes}")
    return sizes


def _put(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1 :])
