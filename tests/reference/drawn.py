"""Weights that need not be stored: drawn from their names, the same in every process and on every machine."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def draw(name: str, shape: Sequence[int], spread: float = 0.3) -> NDArray[np.float32]:
    """Normal numbers of this shape, seeded by the name."""
    numbers = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    return np.asarray(spread * numbers, np.float32)


def draw_adapter(name: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """The same for a tensor of an adapter, which may have the name of one of the base."""
    return draw(f"adapter {name}", shape)
