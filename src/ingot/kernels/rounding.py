"""From a float32 tile to the output dtype: the last step, which decides whether a small adapter survives.

    nearest     ties to even; where |Δ| is under half a unit in the last place of W, W comes back and Δ is lost
    Stochastic  up or down by chance, so that the expectation is exact; a hash of seed, tensor and position decides
    Preserve    error feedback: a row's errors cancel inside the update's row space     in `feedback`

An element that the output dtype holds exactly is never moved, and none leaves the finite range where nearest would keep
it in. Float32 output is not rounded at all, whatever the mode.

Law: what a row becomes depends on its float32 values, its number, the seed and the subspace alone: not on the tile that
it stands in, nor on threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

#: round(tile[rows, columns], row, out): writes a float32 tile, whose first row is row `row`, to `out` in its dtype.
Round = Callable[[torch.Tensor, int, torch.Tensor], None]

#: Length of one temporary: several stay in a core's cache, and from 256 KiB on each would be mapped anew by the system
#: (`storage.kernel`).
STRIP_NBYTES = (256 << 10) - 64


def nearest(tile: torch.Tensor, _row: int, out: torch.Tensor) -> None:
    """Round to nearest, ties to even (IEEE 754's default)."""
    out.copy_(tile)


def neighbours(values: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(low, gap): the largest number of `dtype` that is not above each float32 value, and how far the next one is.

    Both as float32. The gap is 0 where `dtype` holds the value, and where it is NaN or beyond the largest finite
    number; there low is what nearest makes of it: no rounding turns a finite result into an infinity, or hides one.
    """
    bits, size, limits = values.view(torch.int32), values.abs(), torch.finfo(dtype)
    drop = 16 if dtype is torch.bfloat16 else 13
    # subtle: the bits of a float are in the order of its magnitude, so that a carry leads into the next binade
    inner = (bits & -(1 << drop)).view(torch.float32)
    outer = (bits + ((1 << drop) - 1)).bitwise_and_(-(1 << drop)).view(torch.float32)
    if dtype is torch.float16:  # its subnormals are multiples of 2^-24; bfloat16 has the exponents of float32
        tiny = (size < limits.tiny).nonzero(as_tuple=True)
        units = values[tiny] * 2.0**24
        inner[tiny] = units.trunc() * 2.0**-24
        outer[tiny] = torch.where(units < 0, units.floor(), units.ceil()) * 2.0**-24
    low = torch.minimum(inner, outer)
    gap = outer.sub_(inner).abs_()
    if not bool(size.amax() <= limits.max):  # a NaN compares as false
        beyond = ~(size <= limits.max)
        low, gap = torch.where(beyond, values.to(dtype).float(), low), gap.masked_fill_(beyond, 0)
    return low, gap


def chosen(values: torch.Tensor, low: torch.Tensor, gap: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """low + gap where `up` is 1 and low where it is 0, in the memory of `low`; a zero has the sign of its value."""
    return low.addcmul_(gap, up).copysign_(values)


@dataclass(frozen=True, slots=True)
class Stochastic:
    """E[rounded] = value: up with probability (value - low) / (high - low), to a resolution of 2^-24."""

    key: tuple[int, int]

    @classmethod
    def of(cls, seed: int, tensor: str) -> Stochastic:
        """The rounding of one tensor: other bits for another seed or name, the same on every machine."""
        return cls(counter_key(f"{seed}\0{tensor}"))

    def __call__(self, tile: torch.Tensor, row: int, out: torch.Tensor) -> None:
        """See `Round`."""
        if out.dtype is torch.float32:
            return nearest(tile, row, out)
        height = max(1, STRIP_NBYTES // 4 // max(1, tile.shape[1]))
        for first in range(0, len(tile), height):
            strip = tile[first : first + height]
            low, gap = neighbours(strip, out.dtype)
            up = uniform(self.key, row + first, strip.shape, strip.device).mul_(gap) < strip - low
            out[first : first + height] = chosen(strip, low, gap, up.float())
        return None


def counter_key(text: str) -> tuple[int, int]:
    """The key of `uniform` that belongs to a text."""
    digest = hashlib.sha256(text.encode()).digest()
    return _word(digest[:4]), _word(digest[4:8])


def uniform(key: tuple[int, int], row: int, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """float32 numbers[rows, columns] in [0, 1), multiples of 2^-24: a hash of key, row (from `row` on) and column.

    A counter and no generator: any part of a tensor can be made alone. A row hashes to two words of 32 bits; the column
    counts on from the first, and the second enters between the rounds, so that no two rows draw one sequence, shifted.
    """
    rows = torch.arange(row, row + shape[0], dtype=torch.int32, device=device).unsqueeze(1)
    one = _mix(rows + key[0], key[1])
    other = _mix(one ^ key[1], key[0])
    columns = (torch.arange(shape[1], dtype=torch.int64, device=device) * 0x9E37_79B9).to(torch.int32)
    return (_mix(one + columns, other) >> 8).float().mul_(2.0**-24).add_(0.5)


def _mix(x: torch.Tensor, between: torch.Tensor | int) -> torch.Tensor:
    """A bijection of 32-bit words, in place, whose high bits depend on every bit; products wrap around.

    Source: the first two rounds of `lowbias32` of C. Wellons' hash prospector (nullprogram.com/blog/2018/07/31), its
    shifts arithmetic ones here, which torch has for int32.
    """
    x ^= x >> 16
    x *= 0x7FEB_352D
    x ^= between
    x ^= x >> 15
    x *= 0x846C_A68B - 2**32
    return x


def _word(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)
