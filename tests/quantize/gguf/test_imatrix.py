"""Importance matrices of both forms, written as llama-imatrix writes them, and what is wrong with a file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingot.errors import IngotError, MismatchError, UsageError
from ingot.quantize.gguf.imatrix import read_imatrix
from tests.quantize.gguf.imatrix_files import gguf_file, legacy_file

Q, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "imatrix"


def test_gguf_gives_the_mean_of_the_squares_for_each_expert(path: Path) -> None:
    sums = {Q: np.arange(1, 5, dtype=np.float32)[None], EXPERTS: np.arange(8, dtype=np.float32).reshape(2, 4)}
    gguf_file(path, sums, {Q: [3], EXPERTS: [5, 0]}, datasets=["wiki.txt", "more.txt"], chunks=7)
    found = read_imatrix(path)
    mean = found.of(Q, 1, 4)
    assert mean is not None
    assert mean.dtype == np.float32
    assert np.array_equal(mean, sums[Q] / np.float32(3))
    experts = found.of(EXPERTS, 2, 4)
    assert experts is not None
    assert np.array_equal(experts, [sums[EXPERTS][0] / np.float32(5), np.ones(4)])  # an expert that never ran
    assert (found.datasets, found.chunks, found.of("other", 1, 4)) == (("wiki.txt", "more.txt"), 7, None)


def test_the_older_form_gives_sums_by_calls(path: Path) -> None:
    legacy_file(path, {Q: (3, np.arange(4, dtype=np.float32)), EXPERTS: (0, np.arange(8, dtype=np.float32))}, 9, "wiki")
    found = read_imatrix(path)
    assert np.array_equal(found.values[Q], np.arange(4, dtype=np.float32) / np.float32(3))
    assert np.array_equal(found.values[EXPERTS], np.arange(8))
    assert (found.datasets, found.chunks) == (("wiki",), 9)


def test_the_older_form_may_end_after_its_entries(path: Path) -> None:
    legacy_file(path, {Q: (3, np.ones(4, np.float32))}, None, None)
    assert (read_imatrix(path).datasets, read_imatrix(path).chunks) == ((), 0)


def test_one_for_another_model_is_refused_but_for_embeddings_ignored(path: Path) -> None:
    legacy_file(path, {Q: (1, np.ones(4, np.float32)), "token_embd.weight": (1, np.ones(4, np.float32))}, 1, "w")
    found = read_imatrix(path)
    with pytest.raises(MismatchError, match=f"expected 8 values, found 4 - at {Q}"):
        found.of(Q, 1, 8)
    assert found.of("token_embd.weight", 1, 8) is None


def _write(write: Callable[[gguf.GGUFWriter], None]) -> Callable[[Path], None]:
    def file(path: Path) -> None:
        writer = gguf.GGUFWriter(path, "imatrix")
        write(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return file


def _keys(writer: gguf.GGUFWriter) -> None:
    writer.add_array("imatrix.datasets", ["w"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)


def _model(writer: gguf.GGUFWriter) -> None:
    writer.add_tensor("output.weight", np.ones((2, 4), np.float32))


def _half(writer: gguf.GGUFWriter) -> None:
    _keys(writer)
    writer.add_tensor(f"{Q}.in_sum2", np.ones((1, 4), np.float32))


def _doubles(writer: gguf.GGUFWriter) -> None:
    _half(writer)
    writer.add_tensor(f"{Q}.counts", np.ones((1, 1), np.float16))


def _uneven(writer: gguf.GGUFWriter) -> None:
    _half(writer)
    writer.add_tensor(f"{Q}.counts", np.ones((3, 1), np.float32))


def _infinite(writer: gguf.GGUFWriter) -> None:
    _half(writer)
    writer.add_tensor(f"{Q}.counts", np.full((1, 1), np.inf, np.float32))


def _legacy(*values: float, calls: int = 1) -> Callable[[Path], None]:
    return lambda path: legacy_file(path, {Q: (calls, np.array(values, np.float32))}, 1, "w")


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (_write(_model), "the GGUF file is no importance matrix: found no imatrix.datasets"),
        (_write(_keys), "the GGUF file is no importance matrix: found no tensor"),
        (_write(_half), f"sums or counts of a tensor are missing - at .*{Q}"),
        (_write(_doubles), f"sums and counts of a tensor do not fit - at .*{Q}"),
        (_write(_uneven), f"sums and counts of a tensor do not fit - at .*{Q}"),
        (_write(_infinite), f"a count is no number - at .*{Q}"),
        (_legacy(1, np.nan), f"an importance is no number, or below zero - at .*{Q}"),
        (_legacy(1, -1), f"an importance is no number, or below zero - at .*{Q}"),
        (_legacy(), "neither a GGUF nor an importance matrix"),
        (lambda path: path.write_bytes(b""), "is neither a GGUF nor"),
        (lambda path: path.write_bytes(struct.pack("<i", 0)), "neither a GGUF nor an importance matrix"),
        (lambda path: path.write_bytes(b"{}" * 100), "neither a GGUF nor an importance matrix"),
        (lambda path: path.write_bytes(struct.pack("<ii", 1, -5) + bytes(99)), "neither a GGUF nor"),
        (lambda path: path.write_bytes(struct.pack("<iiii", 1, 0, 1, 1 << 30)), "cut off"),
        (lambda path: None, "cannot open an importance matrix"),
    ],
)
def test_a_file_that_is_none_is_refused(path: Path, write: Callable[[Path], object], what: str) -> None:
    write(path)
    with pytest.raises(UsageError, match=what) as error:
        read_imatrix(path)
    assert error.value.hint


def test_a_tensor_that_stands_twice_is_refused(path: Path) -> None:
    entry = struct.pack("<i", 1) + b"a" + struct.pack("<iif", 1, 1, 1.0)
    path.write_bytes(struct.pack("<i", 2) + 2 * entry)
    with pytest.raises(UsageError, match="a tensor stands twice"):
        read_imatrix(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "damaged"
    if data.draw(st.booleans()):
        gguf_file(path, {Q: np.ones((1, 4), np.float32)}, {Q: [2]}, datasets=["w"], chunks=1)
    else:
        legacy_file(path, {Q: (2, np.ones(4, np.float32))}, 1, "w")
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        found = read_imatrix(path)
    except IngotError:
        return
    assert all(np.isfinite(values).all() for values in found.values.values())
