"""The types with blocks of 32 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, MXFP4.

Q8_0 is the `gguf` library's own. Its Q4_0, Q4_1, Q5_0 and Q5_1 differ from ggml's bytes in the sign of a zero scale
where a block holds negative zeros, and its MXFP4 takes seven times as long.

Source: llama.cpp, ggml/src/ggml-quants.c: `quantize_row_q4_0_ref` and its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ingot.quantize.gguf.blocks.block import BlockQuantizer, Code
from ingot.quantize.gguf.quantizer import Array, Bytes
from ingot.quantize.gguf.types import ggml_type, library

BLOCK = 32
#: Blocks that are coded at a time: the temporaries stay in a core's cache.
SLAB = 2048

#: Halfway between the magnitudes that four bits can say.
_MXFP4_MIDDLES = (0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0)

#: Types that are coded here, and whether ggml's own code looks at an importance matrix.
LEGACY = {"Q4_0": True, "Q4_1": True, "Q5_0": True, "Q5_1": True, "Q8_0": False, "MXFP4": False}


def legacy(name: str) -> BlockQuantizer:
    """The quantizer of one of `LEGACY`."""
    codes: dict[str, Code] = {
        "Q4_0": lambda blocks, out: _symmetric(blocks, out, 4),
        "Q5_0": lambda blocks, out: _symmetric(blocks, out, 5),
        "Q4_1": lambda blocks, out: _affine(blocks, out, 4),
        "Q5_1": lambda blocks, out: _affine(blocks, out, 5),
        "Q8_0": _q8_0,
        "MXFP4": _mxfp4,
    }
    return BlockQuantizer(ggml_type(name), codes[name], weighted=LEGACY[name])


def _symmetric(blocks: Array, out: Bytes, bits: int) -> None:
    """d (half float), then levels: weight = d · (level - 2^(bits-1)); the largest weight has level 0."""
    half = np.float32(1 << bits - 1)
    for x, part in _slabs(blocks, out):
        extreme = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1) + np.float32(0)
        d = extreme / -half
        level = x * _inverse(d)
        level += half + np.float32(0.5)
        part[:, :2] = d.astype(np.float16).view(np.uint8)
        part[:, 2:] = _packed(level, bits)


def _affine(blocks: Array, out: Bytes, bits: int) -> None:
    """d and m (half floats), then levels: weight = d · level + m, m the smallest weight."""
    for x, part in _slabs(blocks, out):
        low = np.take_along_axis(x, x.argmin(axis=1, keepdims=True), axis=1)
        d = (x.max(axis=1, keepdims=True) - low) / np.float32((1 << bits) - 1) + np.float32(0)
        level = x - low
        level *= _inverse(d)
        level += np.float32(0.5)
        part[:, :2] = d.astype(np.float16).view(np.uint8)
        part[:, 2:4] = low.astype(np.float16).view(np.uint8)
        part[:, 4:] = _packed(level, bits)


def _q8_0(blocks: Array, out: Bytes) -> None:
    gguf = library()
    for x, part in _slabs(blocks, out):
        coded = gguf.quants.quantize(x.reshape(1, -1), gguf.GGMLQuantizationType.Q8_0)
        part[:] = coded.reshape(part.shape)


def _mxfp4(blocks: Array, out: Bytes) -> None:
    """e, then codes of 4 bits: weight = 2^(e - 128) · (0, 1, 2, 3, 4, 6, 8 or 12), the fourth bit is the sign."""
    for x, part in _slabs(blocks, out):
        size = np.abs(x)
        largest = size.max(axis=1, keepdims=True)
        logarithm = np.log2(largest.astype(np.float64)).astype(np.float32)
        exponent = np.where(largest > 0, np.floor(logarithm) + np.float32(125), np.float32(0))
        e = exponent.astype(np.int32).astype(np.uint8)
        unit = np.ldexp(np.float32(1), e.astype(np.int32) - 128)
        codes = np.zeros(x.shape, dtype=np.uint8)
        for middle in _MXFP4_MIDDLES:
            codes += size > unit * np.float32(middle)  # in the middle, the smaller one
        codes |= ((x < 0) & (codes > 0)).view(np.uint8) << 3
        part[:, :1] = e
        part[:, 1:] = codes[:, :16] | codes[:, 16:] << 4


def _slabs(blocks: Array, out: Bytes) -> Iterator[tuple[Array, Bytes]]:
    for first in range(0, len(blocks), SLAB):
        yield blocks[first : first + SLAB], out[first : first + SLAB]


def _inverse(d: Array) -> Array:
    return np.where(d != 0, np.float32(1) / d, np.float32(0))


def _packed(level: Array, bits: int) -> Bytes:
    """Levels, rounded towards zero, as the fifth bits of all (4 bytes, with 5 bits) and nibbles: j beside j + 16."""
    codes = np.minimum(level.astype(np.int32).astype(np.uint8), np.uint8((1 << bits) - 1))
    nibbles = (codes[:, :16] & 15) | codes[:, 16:] << 4
    if bits == 4:
        return nibbles
    return np.concatenate([np.packbits(codes >> 4, axis=1, bitorder="little"), nibbles], axis=1)
