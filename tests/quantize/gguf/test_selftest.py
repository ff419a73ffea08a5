"""The sample and its digests: the numpy quantizers, which are held against ggml elsewhere, agree with them."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.quantize.gguf import selftest
from ingot.quantize.gguf.choose import quantizer_for
from ingot.quantize.gguf.native import NEED_IMPORTANCE, Found
from ingot.quantize.gguf.types import TYPES


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4", "Q4_K", "Q5_K", "Q6_K"])
def test_numpy_gives_the_digest_that_a_library_must_give(name: str) -> None:
    quantizer = quantizer_for(name, native=Found(None, ()))
    assert selftest.digest(quantizer.quantize, weighted=False) == selftest.DIGESTS[name][0]


def test_every_type_that_a_library_makes_has_its_digests() -> None:
    assert set(selftest.DIGESTS) == set(TYPES) - {"F32", "F16", "BF16"}
    for name, (plain, weighted) in selftest.DIGESTS.items():
        assert (plain is None) == (name in NEED_IMPORTANCE)
        assert (weighted is None) == (name in ("Q8_0", "MXFP4"))


def test_the_sample_is_like_weights() -> None:
    rows = selftest.sample()
    assert rows.dtype == selftest.importance().dtype == np.float32
    assert rows.shape == (selftest.ROWS, selftest.COLUMNS)
    assert 0.01 < rows[:4].std() < 0.1
    assert selftest.importance().min() > 0
