"""Is a ggml library the one whose bytes we promise? Fixed rows are quantized; the digest of the bytes must be known.

The digests are those of llama.cpp 0c1e57098 in its default build for x86-64 (`make reference` makes them again). A
build with fused multiply-add, another algorithm, other numbers of types: all give other bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ingot.quantize.gguf.quantizer import Array, Bytes

ROWS, COLUMNS = 64, 512

#: Type -> digest without and with an importance matrix; None where ggml has no such case.
DIGESTS: Mapping[str, tuple[str | None, str | None]] = MappingProxyType({
    "Q8_0": ("5cd665b6a0913362", None),
    "Q4_0": ("7c10fdb94fa337a9", "46e65a22d97f2d33"),
    "Q4_1": ("f707b7f0fa898d3b", "f30be5be4a7894d0"),
    "Q5_0": ("ab83c5056cc6fc40", "10ff37c8b314beb9"),
    "Q5_1": ("9709b23403cef472", "7c3cabff16ac7dfa"),
    "MXFP4": ("814c493a937eb11b", None),
    "Q2_K": ("c57a088077b84c0d", "c0256ab669a26a5d"),
    "Q3_K": ("d3bcb2ddd740ab9f", "16b738332f9f40ba"),
    "Q4_K": ("537d22f6e6deba40", "719202ed3636ad8f"),
    "Q5_K": ("7ce175dc7e7966a1", "9a53b1eeebe89acf"),
    "Q6_K": ("dfc1335ea4b91f12", "cec31700e8534880"),
    "IQ1_S": (None, "4f05b0da12811a29"),
    "IQ1_M": ("3e53ea5fdf0c4d42", "62aaf8f538adbe6d"),
    "IQ2_XXS": (None, "0aea8b46dacce3ce"),
    "IQ2_XS": (None, "e5fbf099052d9c25"),
    "IQ2_S": ("f9d324f298ac06d7", "5f99505402eac40b"),
    "IQ3_XXS": ("4ebb703b5a7b4f48", "ae449607efdf0a77"),
    "IQ3_S": ("0fbd3b4d8a2a2bf2", "92a1fe386750d9ba"),
    "IQ4_NL": ("35c953879e814ef1", "890d38d072117f6b"),
    "IQ4_XS": ("8eb9391eaf08d926", "0cfadb164778134e"),
})  # fmt: skip


def sample() -> Array:
    """float32[ROWS, COLUMNS]: like weights, some rows like trouble. Integers make them, so that all machines agree."""
    noise = np.add.reduce([_words(seed).astype(np.int64) for seed in range(4)]) - 2 * 0xFFFF
    rows: Array = noise.astype(np.float32) / np.float32(1 << 20)
    rows[4::8] *= (np.arange(COLUMNS) % 32 == 5) * np.float32(20) + np.float32(1)  # outliers
    rows[5::8] += np.float32(0.25)  # far from zero
    rows[6::8, ::3] = 0
    rows[7::8] *= np.exp2(-(np.arange(COLUMNS) // 32).astype(np.float32))  # groups of all sizes
    return rows


def importance() -> Array:
    """float32[COLUMNS] above zero."""
    values: Array = (_words(9)[0] + 1).astype(np.float32) / np.float32(1 << 12)
    return values


def digest(quantize: Callable[[Array, Array | None], Bytes], *, weighted: bool) -> str:
    """The first 16 hexadecimal digits of sha256 of the sample's bytes."""
    coded = quantize(sample(), importance() if weighted else None)
    return hashlib.sha256(coded.tobytes()).hexdigest()[:16]


def _words(seed: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """uint16[ROWS, COLUMNS], a hash of the position (Wellons' lowbias32)."""
    x = np.arange(ROWS * COLUMNS, dtype=np.uint32) + np.uint32(seed * 0x9E37_79B9 & 0xFFFF_FFFF)
    x ^= x >> 16
    x *= np.uint32(0x7FEB_352D)
    x ^= x >> 15
    x *= np.uint32(0x846C_A68B)
    x ^= x >> 16
    return (x >> 16).astype(np.uint16).reshape(ROWS, COLUMNS)
