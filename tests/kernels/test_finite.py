"""The finite check against every bit pattern there is, with torch as the judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ingot.kernels.finite import first_non_finite

TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F8_E5M2": torch.float8_e5m2, "F8_E4M3": torch.float8_e4m3fn}


@pytest.mark.parametrize("dtype", TORCH)
def test_every_bit_pattern_of_a_small_dtype_is_judged_as_torch_judges_it(dtype: str) -> None:
    width = torch.empty((), dtype=TORCH[dtype]).element_size()
    patterns = np.arange(1 << (8 * width), dtype=np.uint16 if width == 2 else np.uint8)
    finite = torch.isfinite(torch.from_numpy(patterns.copy()).view(TORCH[dtype]).float()).numpy()
    for pattern, is_finite in zip(patterns, finite, strict=True):
        data = memoryview(np.array([0, pattern, 0], dtype=patterns.dtype).tobytes())
        assert first_non_finite(data, dtype) == (None if is_finite else 1)


@pytest.mark.parametrize(("dtype", "numpy"), [("F32", np.float32), ("F64", np.float64)])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_the_index_of_the_first_bad_element_is_given(dtype: str, numpy: type, bad: float) -> None:
    values = np.linspace(-1e30, 1e30, 999).astype(numpy)
    assert first_non_finite(memoryview(values.tobytes()), dtype) is None
    values[[500, 700]] = bad
    assert first_non_finite(memoryview(values.tobytes()), dtype) == 500


@pytest.mark.parametrize("dtype", ["F32", "F64", "F16", "BF16"])
def test_the_largest_and_smallest_finite_numbers_pass(dtype: str) -> None:
    torch_dtype = {**TORCH, "F32": torch.float32, "F64": torch.float64}[dtype]
    info = torch.finfo(torch_dtype)
    values = torch.tensor([info.max, info.min, info.tiny, -info.tiny, 0.0, -0.0], dtype=torch_dtype)
    assert first_non_finite(memoryview(values.view(torch.uint8).numpy().tobytes()), dtype) is None


def test_integers_and_nothing_are_finite() -> None:
    assert first_non_finite(memoryview(b"\xff" * 16), "I64") is None
    assert first_non_finite(memoryview(b""), "BF16") is None
