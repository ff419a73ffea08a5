"""The numpy quantizers against the bytes that ggml made of the same rows, and their laws."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest

from ingot.errors import NonFiniteError, UsageError
from ingot.quantize.gguf.blocks import affine_k, legacy, symmetric_k
from ingot.quantize.gguf.choose import quantizer_for
from ingot.quantize.gguf.native import Found
from ingot.quantize.gguf.quantizer import Quantizer
from ingot.quantize.gguf.types import ggml_type
from tests.quantize.gguf.reference.bytes import RECORD, case_name, digest, kinds

NUMPY = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4", "Q4_K", "Q5_K", "Q6_K")
RECORDED: dict[str, str] = json.loads(RECORD.read_text(encoding="utf-8"))


def ours(name: str) -> Quantizer:
    quantizer = quantizer_for(name, native=Found(None, ()))
    assert quantizer.backend == "numpy"
    return quantizer


@pytest.mark.parametrize("name", NUMPY)
def test_bytes_are_ggmls(name: str) -> None:
    quantizer = ours(name)
    found = {kind: digest(quantizer, rows, weighted=False) for kind, rows in kinds()}
    assert found == {kind: RECORDED[case_name(name, kind, weighted=False)] for kind in found}


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "MXFP4"])
def test_an_importance_matrix_changes_nothing_for_types_that_know_none(name: str) -> None:
    kind, rows = next(kinds())
    assert digest(ours(name), rows, weighted=True) == RECORDED[case_name(name, kind, weighted=True)]
    assert RECORDED[case_name(name, kind, weighted=True)] == RECORDED[case_name(name, kind, weighted=False)]


@pytest.mark.parametrize("name", NUMPY)
def test_a_row_becomes_the_same_bytes_whatever_stands_beside_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dict(kinds())["groups of all sizes"]
    whole = ours(name).quantize(rows)
    apart = [ours(name).quantize(rows[at : at + 1]) for at in range(len(rows))]
    assert np.array_equal(whole, np.concatenate(apart))
    block = ggml_type(name).block
    assert np.array_equal(ours(name).quantize(rows[:1, :block]), whole[:1, : ggml_type(name).nbytes])
    for module in (affine_k, legacy, symmetric_k):
        monkeypatch.setattr(module, "SLAB", 7)
    assert np.array_equal(ours(name).quantize(rows), whole)


@pytest.mark.parametrize("name", NUMPY)
def test_no_rows_are_no_bytes(name: str) -> None:
    assert ours(name).quantize(np.empty((0, 512), np.float32)).shape == (0, ggml_type(name).row_nbytes(512))


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(name: str, value: float) -> None:
    rows = np.ones((3, 256), np.float32)
    rows[2, 200] = value
    with pytest.raises(NonFiniteError, match="row 2, column 200") as error:
        ours(name).quantize(rows)
    assert error.value.what == f"a value has no place in {name}"


@pytest.mark.parametrize("name", [name for name in NUMPY if name not in ("F32", "MXFP4")])
def test_a_value_beyond_the_range_is_refused_with_its_place(name: str) -> None:
    rows = np.ones((3, 256), np.float32)
    rows[1, 77] = -3.4028e38
    with pytest.raises(NonFiniteError, match=r"found -3.4028e\+38 - at row 1, column 77") as error:
        ours(name).quantize(rows)
    assert "BF16" in str(error.value.hint)


def test_the_last_half_float_is_kept_and_the_next_value_is_refused() -> None:
    last = np.full((1, 1), 65519.996, np.float32)
    assert ours("F16").quantize(last).view(np.float16) == 65504
    with pytest.raises(NonFiniteError, match="65520"):
        ours("F16").quantize(np.full((1, 1), 65520, np.float32))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
def test_an_importance_matrix_is_refused_where_it_would_be_ignored(name: str) -> None:
    with pytest.raises(UsageError, match="needs ggml's own code"):
        ours(name).quantize(np.ones((1, 256), np.float32), np.ones(256, np.float32))


@pytest.mark.parametrize(("rows", "importance"), [((2, 100), None), ((2, 256), (255,)), ((2, 256), (2, 256))])
def test_shapes_that_do_not_fit_are_our_own_mistake(rows: Any, importance: Any) -> None:
    given = None if importance is None else np.ones(importance, np.float32)
    with pytest.raises(ValueError):
        ours("Q8_0").quantize(np.ones(rows, np.float32), given)


def test_memory_is_that_of_a_slab() -> None:
    import tracemalloc

    rows = np.random.RandomState(0).standard_normal((64, 1 << 14)).astype(np.float32)  # 4 MiB
    for name in ("Q4_K", "Q6_K", "Q8_0", "MXFP4"):
        quantizer = ours(name)
        tracemalloc.start()
        coded = quantizer.quantize(rows)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - coded.nbytes < 4 << 20, name


def test_the_bytes_are_little_endian_ones() -> None:
    assert sys.byteorder == "little"
