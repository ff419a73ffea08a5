"""Q4_K and Q5_K: 256 weights in 8 groups of 32, each weight = d·scale·level - dmin·offset, scale and offset of 6 bits.

For every group the scale and offset are searched that give the least weighted squared error, then both are rounded for
the 8 groups together, then the levels are chosen anew for what they were rounded to.

Source: llama.cpp, ggml/src/ggml-quants.c: `make_qkx2_quants`, `quantize_row_q4_K_ref`, `quantize_row_q5_K_ref`.
The bytes are those of ggml's default build for x86-64, so every sum is taken in float32 in ggml's order, one product
and one addition after the other. `np.add.reduce` along the first axis of a C-contiguous array adds row after row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ingot.quantize.gguf.blocks.block import BlockQuantizer
from ingot.quantize.gguf.blocks.nearest import nearest
from ingot.quantize.gguf.quantizer import Array, Bytes
from ingot.quantize.gguf.types import ggml_type

#: Blocks that are coded at a time: the temporaries stay in a core's cache.
SLAB = 256
GROUP = 32
GROUPS = 8


@dataclass(frozen=True)
class Search:
    """Which scales are tried: (levels + first + step · 0.1) / range for step 0 to `steps`."""

    levels: int
    first: float
    steps: int

    def inverse_scales(self) -> Iterator[np.float32]:
        """The numerators, as float32 computes them."""
        for step in range(self.steps + 1):
            yield (np.float32(self.first) + np.float32(0.1) * np.float32(step)) + np.float32(self.levels)


Q4 = Search(levels=15, first=-1.0, steps=20)
Q5 = Search(levels=31, first=-0.5, steps=15)


def q4_k() -> BlockQuantizer:
    """Nibbles: the first 32 of 64 weights in the low halves of 32 bytes, the others in the high ones."""
    return BlockQuantizer(ggml_type("Q4_K"), _code_q4)


def q5_k() -> BlockQuantizer:
    """As Q4_K, with the fifth bits before them: bit g of byte j is that of weight j of group g."""
    return BlockQuantizer(ggml_type("Q5_K"), _code_q5)


def _code_q4(blocks: Array, out: Bytes) -> None:
    for part, levels in _slabs(blocks, out, Q4):
        part[:, 16:] = _nibbles(levels)


def _code_q5(blocks: Array, out: Bytes) -> None:
    for part, levels in _slabs(blocks, out, Q5):
        high = levels >> 4
        high <<= np.arange(GROUPS, dtype=np.uint8)[:, None]
        part[:, 16:48] = np.bitwise_or.reduce(high, axis=1)
        levels &= 15
        part[:, 48:] = _nibbles(levels)


def _slabs(blocks: Array, out: Bytes, search: Search) -> Iterator[tuple[Bytes, Bytes]]:
    """(blocks of `out` whose scales are written, their levels uint8[n, GROUPS, GROUP])."""
    for first in range(0, len(blocks), SLAB):
        part = out[first : first + SLAB]
        fitted = _Groups(blocks[first : first + SLAB], search)
        fitted.search()
        yield part, fitted.finish(part)


class _Groups:
    """The groups of some blocks, side by side: x[GROUP, n], so that a step of all groups is one call."""

    def __init__(self, blocks: Array, search: Search) -> None:
        self._search = search
        x = self._x = np.ascontiguousarray(blocks.reshape(-1, GROUP).T)
        self._level = np.empty_like(x)
        self._one, self._two = np.empty_like(x), np.empty_like(x)
        np.multiply(x, x, out=self._one)
        mean = np.sqrt(np.add.reduce(self._one, axis=0) / np.float32(GROUP))
        self._weight = np.abs(x)
        self._weight += mean
        self._sum_w = np.add.reduce(self._weight, axis=0)
        self._sum_x = np.add.reduce(np.multiply(self._weight, x, out=self._one), axis=0)
        self._high = x.max(axis=0)
        self._low = np.minimum(x.min(axis=0), np.float32(0))
        self._flat = self._high == self._low

    def search(self) -> None:
        """Find scale[n] and low[n] of each group, and what its levels were computed with."""
        levels = np.float32(self._search.levels)
        low, high, flat = self._low.copy(), self._high, self._flat
        width = np.where(flat, np.float32(1), high - low)
        inverse = levels / width
        scale = np.float32(1) / inverse
        self._round(inverse, low, exact=False)
        best = np.where(flat, np.float32(-np.inf), self._error(scale, low))
        used = inverse.copy(), low.copy()
        for numerator in self._search.inverse_scales():
            span = high - low
            inverse = numerator / span
            # subtle: the offset moves, and where it comes close to the maximum the quotients leave `rint`'s range
            self._round(inverse, low, exact=not bool(np.all(span * np.float32(1024) >= width)))
            this_scale, this_low, solvable = self._solve()
            error = self._error(this_scale, this_low)
            better = solvable & (error < best)
            for kept, new in ((used[0], inverse), (used[1], low), (best, error), (scale, this_scale)):
                np.copyto(kept, new, where=better)
            low = np.where(better, this_low, low)
        scale[flat] = 0
        used[0][flat] = 0
        self._scale, self._offset, self._used = scale, -low, used

    def _round(self, inverse: Array, low: Array, exact: bool) -> None:
        """level = nearest(inverse · (x - low)), clipped."""
        np.subtract(self._x, low, out=self._level)
        np.multiply(self._level, inverse, out=self._level)
        nearest(self._level, exact=exact)
        np.clip(self._level, np.float32(0), np.float32(self._search.levels), out=self._level)

    def _solve(self) -> tuple[Array, Array, Array]:
        """The weighted least squares line through (level, x): slope, intercept (at most 0), whether there is one."""
        one, two = self._one, self._two
        np.multiply(self._weight, self._level, out=one)
        sum_l = np.add.reduce(one, axis=0)
        sum_xl = np.add.reduce(np.multiply(one, self._x, out=two), axis=0)
        sum_l2 = np.add.reduce(np.multiply(one, self._level, out=one), axis=0)
        determinant = self._sum_w * sum_l2 - sum_l * sum_l
        scale = (self._sum_w * sum_xl - self._sum_x * sum_l) / determinant
        low = (sum_l2 * self._sum_x - sum_l * sum_xl) / determinant
        above = low > 0
        scale = np.where(above, sum_xl / sum_l2, scale)
        low[above] = 0
        return scale, low, determinant > 0

    def _error(self, scale: Array, low: Array) -> Array:
        """Σ weight · (scale · level + low - x)²"""
        one = self._one
        np.multiply(self._level, scale, out=one)
        one += low
        one -= self._x
        np.multiply(one, one, out=one)
        one *= self._weight
        total: Array = np.add.reduce(one, axis=0)
        return total

    def finish(self, out: Bytes) -> Bytes:
        """Write the scales of the blocks to `out`; returns the levels[n, GROUPS, GROUP] that go with them."""
        scales, offsets = self._scale.reshape(-1, GROUPS), self._offset.reshape(-1, GROUPS)
        d, codes = _six_bits(scales)
        dmin, offset_codes = _six_bits(offsets)
        out[:, 0:2] = d.view(np.uint8)
        out[:, 2:4] = dmin.view(np.uint8)
        out[:, 4:16] = _packed(codes, offset_codes)
        step = (d.astype(np.float32) * codes).reshape(-1)
        shift = (dmin.astype(np.float32) * offset_codes).reshape(-1)
        level = self._level
        np.add(self._x, shift, out=level)
        level /= step
        nearest(level, exact=True)
        np.clip(level, np.float32(0), np.float32(self._search.levels), out=level)
        lost = step == 0
        if lost.any():
            level[:, lost] = self._searched(lost)
        return np.ascontiguousarray(level.astype(np.uint8).T).reshape(-1, GROUPS, GROUP)

    def _searched(self, groups: np.ndarray) -> Array:
        """Levels as the search left them, for groups whose scale was rounded to nothing."""
        inverse, low = self._used
        level: Array = inverse[groups] * (self._x[:, groups] - low[groups])
        nearest(level, exact=True)
        return np.clip(level, np.float32(0), np.float32(self._search.levels), out=level)


def _six_bits(values: Array) -> tuple[Array, Array]:
    """values[n, GROUPS] as unit[n, 1] (half floats) times codes[n, GROUPS] (uint8, at most 63)."""
    largest = np.maximum(values.max(axis=1, keepdims=True), np.float32(0))
    inverse = np.where(largest > 0, np.float32(63) / largest, np.float32(0))
    codes = nearest(inverse * values, exact=True).astype(np.int32).astype(np.uint8)
    return (largest / np.float32(63)).astype(np.float16), np.minimum(codes, np.uint8(63))


def _packed(scales: Bytes, offsets: Bytes) -> Bytes:
    """16 codes of 6 bits in 12 bytes: the first 4 of each; the others' low 4 bits, their high 2 in the first 8."""
    return np.concatenate(
        [
            scales[:, :4] | (scales[:, 4:] >> 4) << 6,
            offsets[:, :4] | (offsets[:, 4:] >> 4) << 6,
            (scales[:, 4:] & 15) | (offsets[:, 4:] & 15) << 4,
        ],
        axis=1,
    )


def _nibbles(levels: Bytes) -> Bytes:
    """levels[n, GROUPS, GROUP] below 16, two groups in the halves of 32 bytes."""
    pairs: Bytes = levels[:, 0::2] | levels[:, 1::2] << 4
    return pairs.reshape(len(levels), -1)
