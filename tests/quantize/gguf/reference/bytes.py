"""What ggml makes of varied rows: a digest for each type and kind of rows, without and with an importance matrix."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ingot.errors import NonFiniteError
from ingot.quantize.gguf.native import NEED_IMPORTANCE
from ingot.quantize.gguf.quantizer import Array, Quantizer
from ingot.quantize.gguf.types import TYPES, ggml_type
from tests.quantize.gguf.reference import llama_cpp

RECORD = Path(__file__).with_name("bytes.json")
ROWS, COLUMNS = 24, 768
#: In place of a digest: the values have no place in the type.
REFUSED = "refused"


def kinds() -> Iterator[tuple[str, Array]]:
    """Rows that a quantizer may meet, and some that it should not. The same bits with every numpy and on every machine:
    `RandomState` is frozen, and all functions but sums and products of numbers are left out.
    """
    state = np.random.RandomState(5)
    shape, group = (ROWS, COLUMNS), (ROWS, COLUMNS // 32)

    def normal(scale: float) -> Array:
        """Nearly: the sum of 12 uniform numbers."""
        total = state.randint(-(1 << 20), 1 << 20, (12, *shape)).sum(axis=0) / float(1 << 20) / 2
        return (total * scale).astype(np.float32)

    def per_group(exponents: np.ndarray) -> np.ndarray:
        return np.ldexp(1.0, exponents).repeat(32, axis=1)

    yield "normal", normal(0.02)
    yield "bf16", (normal(0.02).view(np.uint32) & 0xFFFF0000).view(np.float32)
    yield "f16", normal(0.03).astype(np.float16).astype(np.float32)
    for exponent in (-10, -17, -24, -27, -34, -47, -54, -67, -100, -126, -140):
        yield f"times 2^{exponent}", (normal(1) * 2.0**exponent).astype(np.float32)
    yield "large", normal(1000)
    yield "very large", normal(1e6)
    yield "groups of all sizes", (normal(1) * per_group(state.randint(-40, 5, group))).astype(np.float32)
    yield "heavy tails", (normal(0.02) / np.maximum(state.randint(0, 1000, shape), 1) * 100).astype(np.float32)
    yield "positive", np.abs(normal(0.02))
    yield "negative", -np.abs(normal(0.02))
    yield "around 3", normal(0.001) + np.float32(3)
    yield "around -3", normal(0.001) - np.float32(3)
    yield "around -30000", normal(1e-5) - np.float32(30000)
    yield "some around -30000", normal(1e-5) - (state.randint(0, 2, group) * 30000).repeat(32, 1).astype(np.float32)
    yield "integers", np.rint(normal(3))
    yield "two values", np.where(normal(1) > 0, np.float32(0.5), np.float32(-0.25))
    yield "signed zeros", np.where(normal(1) > 0, np.float32(-0.0), np.float32(0))
    holes = normal(0.02)
    holes[state.randint(0, 10, shape) > 0] = 0
    yield "mostly zeros", holes
    parts = normal(0.02)
    parts[::3] = 0
    parts[1::3, :100] = 0.01
    parts[2::3, :300] = -0.02
    yield "constant parts", parts


def importance() -> Array:
    """float32[COLUMNS]: mostly small, a few large, one zero."""
    state = np.random.RandomState(6)
    values = state.randint(1, 1 << 12, COLUMNS) / 4096.0
    values *= values
    values *= values
    values[7] = 0
    return values.astype(np.float32)


def case_name(type_name: str, kind: str, *, weighted: bool) -> str:
    return f"{type_name}, {kind}{', weighted' if weighted else ''}"


def digest(quantizer: Quantizer, rows: Array, *, weighted: bool) -> str:
    """Of the bytes, or `REFUSED`."""
    try:
        coded = quantizer.quantize(rows, importance() if weighted else None)
    except NonFiniteError:
        return REFUSED
    return hashlib.sha256(coded.tobytes()).hexdigest()[:12]


def record() -> dict[str, str]:
    """Case -> digest of the bytes of the reference build."""
    found = {}
    for name in TYPES:
        quantizer = llama_cpp.ggml().quantizer(ggml_type(name))
        for kind, rows in kinds():
            for weighted in (False, True):
                if weighted or name not in NEED_IMPORTANCE:
                    found[case_name(name, kind, weighted=weighted)] = digest(quantizer, rows, weighted=weighted)
    return found
