"""Q6_K: 256 weights in 16 groups of 16, each weight = d·scale·level, level from -32 to 31, scale of 8 bits.

For every group the scale is searched that gives the least error, weighted by x²; then the 16 scales are rounded
together and the levels are chosen anew for what they were rounded to.

Source: llama.cpp, ggml/src/ggml-quants.c: `make_qx_quants`, `quantize_row_q6_K_ref`; sums as in `affine_k`.
"""

from __future__ import annotations

import numpy as np

from ingot.quantize.gguf.blocks.block import BlockQuantizer
from ingot.quantize.gguf.blocks.nearest import nearest
from ingot.quantize.gguf.quantizer import Array, Bytes
from ingot.quantize.gguf.types import ggml_type

#: Blocks that are coded at a time: the temporaries stay in a core's cache.
SLAB = 256
GROUP = 16
GROUPS = 16
_LEVELS = np.float32(32)
#: Groups and blocks that are smaller are zero.
_EPSILON = np.float32(1e-15)


def q6_k() -> BlockQuantizer:
    """The low 4 bits of all weights, their high 2 bits, 16 scales, d."""
    return BlockQuantizer(ggml_type("Q6_K"), _code)


def _code(blocks: Array, out: Bytes) -> None:
    for first in range(0, len(blocks), SLAB):
        _code_slab(blocks[first : first + SLAB], out[first : first + SLAB])


def _code_slab(blocks: Array, out: Bytes) -> None:
    x = np.ascontiguousarray(blocks.reshape(-1, GROUP).T)
    scale, used = _search(x)
    scales = scale.reshape(-1, GROUPS)
    largest = np.take_along_axis(scales, np.abs(scales).argmax(axis=1, keepdims=True), axis=1)
    inverse = np.float32(-128) / largest
    d = (np.float32(1) / inverse).astype(np.float16)
    codes = np.minimum(nearest(inverse * scales, exact=True), np.float32(127)).astype(np.int32).astype(np.int8)
    levels = _levels(x, (d.astype(np.float32) * codes).reshape(-1), used).reshape(-1, 2, 4, 32)
    low, high = levels & 15, levels >> 4
    out[:, :128] = (low[:, :, :2] | low[:, :, 2:] << 4).reshape(len(out), -1)
    high <<= np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    out[:, 128:192] = np.bitwise_or.reduce(high, axis=2).reshape(len(out), -1)
    out[:, 192:208] = codes.view(np.uint8)
    out[:, 208:] = d.view(np.uint8)
    out[(np.abs(largest) < _EPSILON)[:, 0]] = 0


def _search(x: Array) -> tuple[Array, Array]:
    """For groups x[GROUP, n]: their scales[n], and 1 / scale as it was tried, 0 for groups that are zero."""
    size = np.abs(x)
    extreme = np.take_along_axis(x, size.argmax(axis=0, keepdims=True), axis=0)[0]
    zero = np.abs(extreme) < _EPSILON
    weight = np.multiply(x, x, out=size)
    weighted = weight * x
    level, one = np.empty_like(x), np.empty_like(x)

    def sums(inverse: Array) -> tuple[Array, Array]:
        """Σ w·x·level and Σ w·level² for level = nearest(inverse · x), clipped."""
        np.multiply(x, inverse, out=level)
        np.rint(level, out=level)
        np.clip(level, -_LEVELS, _LEVELS - 1, out=level)
        sum_lx = np.add.reduce(np.multiply(weighted, level, out=one), axis=0)
        np.multiply(weight, level, out=one)
        return sum_lx, np.add.reduce(np.multiply(one, level, out=one), axis=0)

    used = -_LEVELS / extreme
    sum_lx, sum_l2 = sums(used)
    scale = np.where(sum_l2 != 0, sum_lx / sum_l2, np.float32(0))
    best = scale * sum_lx
    for step in (*range(-9, 0), *range(1, 10)):
        inverse = -(_LEVELS + np.float32(0.1) * np.float32(step)) / extreme
        sum_lx, sum_l2 = sums(inverse)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        this_scale = sum_lx / sum_l2
        for kept, new in ((used, inverse), (scale, this_scale), (best, this_scale * sum_lx)):
            np.copyto(kept, new, where=better)
    scale[zero] = used[zero] = 0
    return scale, used


def _levels(x: Array, step: Array, used: Array) -> Bytes:
    """Levels + 32 of x[GROUP, n] for groups of that step, as uint8[n, GROUP]."""
    level = x / step
    nearest(level, exact=True)
    np.clip(level, -_LEVELS, _LEVELS - 1, out=level)
    level += _LEVELS
    lost = step == 0  # the scale was rounded to nothing: levels as the search left them
    if lost.any():
        inverse = used[lost]
        searched = np.clip(np.rint(x[:, lost] * inverse), -_LEVELS, _LEVELS - 1) + _LEVELS
        level[:, lost] = np.where(inverse == 0, np.float32(0), searched)
    return np.ascontiguousarray(level.astype(np.uint8).T)
