"""GGUF headers: what the gguf library writes is read; whatever no honest writer makes is refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest

from ingot.errors import CheckFailed, IngotError, UnsafeInputError
from ingot.formats import gguf as ours
from ingot.formats.gguf import GgufHeader, read_gguf


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def read(path: Path) -> GgufHeader:
    with opened(path) as fd:
        return read_gguf(fd, file=path.name)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the library's own writer, with a key of every kind."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("a.u8", 255)
    writer.add_int8("a.i8", -3)
    writer.add_uint16("a.u16", 65535)
    writer.add_int16("a.i16", -30000)
    writer.add_uint32("a.u32", 1 << 31)
    writer.add_int32("a.i32", -5)
    writer.add_float32("a.f32", 0.5)
    writer.add_uint64("a.u64", 1 << 60)
    writer.add_int64("a.i64", -(1 << 60))
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "größe")
    writer.add_array("a.texts", ["x", "", "é"])
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_array("a.flags", [True, False])
    writer.add_tensor("one", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("half", np.ones((2, 3, 4), dtype=np.float16))
    quantized = gguf.quants.quantize(np.ones((5, 64), dtype=np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blocks", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_keys_and_tensors_are_those_of_the_librarys_reader(written: Path) -> None:
    header, theirs = read(written), gguf.GGUFReader(written)
    assert header.keys == {
        name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")
    }
    expected = {
        str(tensor.name): (tensor.tensor_type.name, tuple(int(n) for n in tensor.shape[::-1]), int(tensor.data_offset))
        for tensor in theirs.tensors
    }
    assert {t.name: (t.dtype, t.shape, t.begin) for t in header.tensors} == expected
    assert [t.nbytes for t in header.tensors] == [int(t.n_bytes) for t in theirs.tensors]
    assert (header.version, header.nbytes) == (3, theirs.data_offset)


def test_the_table_of_types_is_the_librarys() -> None:
    sizes = {int(member): (member.name, *gguf.GGML_QUANT_SIZES[member]) for member in gguf.GGMLQuantizationType}
    assert {number: sizes[number] for number in ours.TYPES} == ours.TYPES


def test_a_file_that_is_cut_anywhere_is_refused(written: Path, tmp_path: Path) -> None:
    whole, end = written.read_bytes(), read(written).tensors[-1].end
    for length in range(0, end, 7):
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:length])
        with pytest.raises((CheckFailed, UnsafeInputError)):
            read(path)


def test_a_flipped_bit_of_the_header_is_read_or_refused_and_never_a_crash(written: Path, tmp_path: Path) -> None:
    whole, nbytes = bytearray(written.read_bytes()), read(written).nbytes
    path = tmp_path / "flipped.gguf"
    for at in range(0, nbytes * 8, 3):
        whole[at // 8] ^= 1 << at % 8
        path.write_bytes(whole)
        whole[at // 8] ^= 1 << at % 8
        try:
            read(path)
        except IngotError:
            continue


def _file(tmp_path: Path, body: bytes, tensors: int = 0, keys: int = 0) -> Path:
    path = tmp_path / "made.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body)
    return path


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("body", "tensors", "keys", "reason"),
    [
        (b"", 1 << 60, 0, "number of tensors"),
        (b"", 0, 1 << 60, "number of keys"),
        (struct.pack("<Q", 1 << 62), 0, 1, "too long"),
        (_text("k") + struct.pack("<I", 99), 0, 1, "unknown type"),
        (_text("k") + struct.pack("<IIQ", 9, 9, 1), 0, 1, "unknown type"),
        (_text("k") + struct.pack("<IIQ", 9, 8, 1 << 40), 0, 1, "cut off"),
        (_text("k") + struct.pack("<IIQ", 9, 4, 1 << 40), 0, 1, "too long"),
        ((_text("k") + struct.pack("<IB", 0, 1)) * 2, 0, 2, "stands twice"),
        (struct.pack("<Q", 2) + b"\xff\xfe", 0, 1, "no UTF-8"),
        (_text("general.alignment") + struct.pack("<II", 4, 24), 0, 1, "power of two"),
        (_tensor("t", (), 0, 0), 1, 0, "number of axes"),
        (_tensor("t", (4,) * 9, 0, 0), 1, 0, "number of axes"),
        (_tensor("t", (4,), 250, 0), 1, 0, "not known here"),
        (_tensor("t", (31,), 8, 0), 1, 0, "does not fit"),
        (_tensor("t", (1 << 50,), 0, 0), 1, 0, "does not fit"),
        (_tensor("t", (4,), 0, 3), 1, 0, "not aligned"),
        (_tensor("t", (4,), 0, 1 << 40), 1, 0, "cut off"),
        (_tensor("t", (4,), 0, 0) + _tensor("t", (4,), 0, 32) + bytes(99), 2, 0, "stands twice"),
        (_tensor("t", (16,), 0, 0) + _tensor("u", (4,), 0, 32) + bytes(199), 2, 0, "overlaps"),
    ],
)
def test_what_no_honest_writer_makes_is_refused(
    tmp_path: Path, body: bytes, tensors: int, keys: int, reason: str
) -> None:
    with pytest.raises((UnsafeInputError, CheckFailed), match=reason):
        read(_file(tmp_path, body, tensors, keys))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "cut off"),
        (b"GGML" + bytes(40), "begin with GGUF"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), "big-endian"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), "version"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, raw: bytes, reason: str) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(raw)
    with pytest.raises(CheckFailed) as caught:
        read(path)
    assert reason in f"{caught.value} {caught.value.hint}"
