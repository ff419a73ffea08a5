"""Safetensors headers; the safetensors library and the files that it and real tools write decide what is right."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from ingot.errors import AdapterError, BaseError, UnsafeInputError
from ingot.formats import DTYPE_NBYTES, Header, build_header, header_nbytes, parse_header, read_header

from .evil_case import Case
from .evil_headers import HEADERS, HONEST, LARGE_HEADERS, entry, one, raw

REAL_HEADERS = sorted((Path(__file__).parents[3] / "shared/adapters/headers").glob("*.json"))
TENSORS = {
    "w": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.arange(4, dtype=torch.bfloat16),
    "odd": torch.arange(3, dtype=torch.uint8),
    "scalar": torch.tensor(5),
    "empty": torch.zeros(0, 3),
    "\u0442\u0435\u043d\u0437\u043e\u0440 \U0001f600": torch.ones(1, dtype=torch.float16),
}


def parse(data: bytes) -> Header:
    return parse_header(data, file="x", file_nbytes=len(data), incomplete=AdapterError)


def library(data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in safetensors.deserialize(data)}


def ours(data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {t.name: (t.dtype, t.shape, data[t.begin : t.end]) for t in parse(data).tensors}


def test_a_file_of_the_library_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(TENSORS, path, {"format": "pt", "quote": 'a "b" \\ \n \u00e9'})
    data = path.read_bytes()
    with path.open("rb") as file:
        header = read_header(file.fileno(), file="x.safetensors")
        assert file.tell() == 0
    assert ours(data) == library(data)
    with safetensors.safe_open(path, "pt") as reference:
        assert header.metadata == reference.metadata()
    assert header.file_nbytes == len(data)
    assert header.tensors[0].begin == header.nbytes
    assert header.sha256 == hashlib.sha256(data[: header.nbytes]).hexdigest()
    assert set(header.by_name) == set(TENSORS)
    assert header.by_name["w"].nbytes == 24
    assert {t.file for t in header.tensors} == {"x.safetensors"}


def test_tensors_come_in_offset_order_and_tile_the_data() -> None:
    data = raw(f'{{"b":{entry(offsets="[4,8]")},"a":{entry()},"e":{entry(shape="[0]", offsets="[4,4]")}}}', bytes(8))
    header = parse(data)
    assert [t.name for t in header.tensors] == ["a", "e", "b"]
    assert [t.begin - header.nbytes for t in header.tensors] == [0, 4, 4]


@pytest.mark.parametrize("padding", ["", " ", " " * 7, "\n", "\t\r\n "])
def test_space_after_the_header_is_fine(padding: str) -> None:
    data = raw(f'{{"a":{entry()}}}{padding}', b"abcd")
    assert ours(data) == library(data) == {"a": ("U8", (4,), b"abcd")}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{ }",
        '{"__metadata__":{}}',
        '{"__metadata__":null}',
        '{ "__metadata__" : { "a" : "b" , "c" : "\\u0041\\n" } }',
        f'{{"a":{entry(shape="[0]", offsets="[0,0]")}}}',
        '{\n "a" : { "shape" : [ 2 ,\t0 ] , "data_offsets" : [ 0 , 0 ] , "dtype" : "F32" } \n}',
        f'{{"\\u0061\\"\\\\":{entry(shape="[0]", offsets="[0,0]")}}}',
        f'{{"a":{entry(shape="[0,4294967296]", offsets="[0,0]")}}}',
        f'{{"a":{entry(shape="[0" + ",1" * 63 + "]", offsets="[0,0]")}}}',
    ],
)
def test_unusual_and_honest_headers_are_read_as_the_library_reads_them(text: str) -> None:
    assert ours(raw(text)) == library(raw(text))


def test_metadata_is_none_where_absent_or_null() -> None:
    assert parse(raw("{}")).metadata is None
    assert parse(raw('{"__metadata__":null}')).metadata is None
    assert parse(raw('{"__metadata__":{"a":"\\u00e9"}}')).metadata == {"a": "\u00e9"}


@pytest.mark.parametrize("dtype", sorted(DTYPE_NBYTES))
def test_each_dtype_has_the_size_that_the_library_gives_it(dtype: str) -> None:
    nbytes = DTYPE_NBYTES[dtype]
    data = one(dtype=f'"{dtype}"', shape="[1]", offsets=f"[0,{nbytes}]")[:-4] + bytes(nbytes)
    assert ours(data) == library(data) == {"a": (dtype, (1,), bytes(nbytes))}


@pytest.mark.parametrize("case", HEADERS, ids=repr)
def test_an_evil_header_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises((UnsafeInputError, AdapterError)) as refusal:
        case.prepare(tmp_path)()
    assert refusal.value.message.isprintable()


def test_the_honest_twin_of_the_evil_headers_is_read() -> None:
    assert ours(HONEST) == library(HONEST)


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE_HEADERS, ids=repr)
def test_a_header_of_100_mb_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UnsafeInputError):
        case.prepare(tmp_path)()


_MEASURE = """
import sys
from pathlib import Path
from ingot.errors import UnsafeInputError
from tests.formats.evil_headers import LARGE_HEADERS
def kib(field): return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])
attempt = next(case for case in LARGE_HEADERS if case.name == sys.argv[1]).prepare(Path(sys.argv[2]))
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
before = kib("VmRSS")
try: attempt()
except UnsafeInputError: print((kib("VmHWM") - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to reset the peak")
@pytest.mark.parametrize("case", LARGE_HEADERS, ids=repr)
def test_refusing_100_mb_takes_little_more_memory_than_they_do(case: Case, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MEASURE, case.name, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    growth = int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert growth < 120 * 2**20


def test_a_file_cut_at_any_length_is_incomplete_rather_than_evil() -> None:
    data = safetensors.torch.save({f"layer.{i}": torch.ones(7, 5) for i in range(8)}, {"format": "pt"})
    for length in range(len(data)):
        with pytest.raises(AdapterError):
            parse(data[:length])
        with pytest.raises(safetensors.SafetensorError):
            library(data[:length])
    assert len(parse(data).tensors) == 8


def test_a_file_that_is_cut_off_says_how_much_is_missing() -> None:
    with pytest.raises(BaseError, match=f"at least {len(HONEST)} bytes, found {len(HONEST) - 1} - at m.safetensors"):
        parse_header(HONEST[:-1], file="m.safetensors", file_nbytes=len(HONEST) - 1)


def test_a_git_lfs_pointer_has_its_own_sentence_and_hint(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 14176064\n")
    with path.open("rb") as file, pytest.raises(AdapterError, match="git-lfs pointer") as refusal:
        read_header(file.fileno(), file=path.name, incomplete=AdapterError)
    assert refusal.value.hint is not None
    assert "git lfs pull" in refusal.value.hint


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_a_dtype_below_one_byte_is_named_and_not_called_evil(dtype: str) -> None:
    with pytest.raises(AdapterError, match=f"less than one byte.*{dtype}"):
        parse(one(dtype=f'"{dtype}"'))


def test_a_pipe_is_no_checkpoint() -> None:
    read_end, write_end = os.pipe()
    with pytest.raises(UnsafeInputError, match="regular"):
        read_header(read_end, file="x")
    os.close(read_end)
    os.close(write_end)


def test_only_the_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(raw(f'{{"a":{entry(shape="[1000000]", offsets="[0,1000000]")}}}', bytes(1_000_000)))
    taken: list[tuple[int, int]] = []
    pread = os.pread

    def counted(fd: int, nbytes: int, begin: int) -> bytes:
        taken.append((begin, begin + nbytes))
        return pread(fd, nbytes, begin)

    monkeypatch.setattr(os, "pread", counted)
    with path.open("rb") as file:
        header = read_header(file.fileno(), file="x")
    assert taken == [(0, 8), (0, header.nbytes)]


def test_the_header_length_is_known_from_eight_bytes() -> None:
    header = parse(HONEST)
    assert header_nbytes(HONEST[:8], file="x", file_nbytes=len(HONEST)) == header.nbytes


def test_a_built_file_is_read_by_the_library_and_by_torch() -> None:
    shapes = [(name, dtype_name(t), tuple(t.shape)) for name, t in TENSORS.items()]
    raw_header, header = build_header(shapes, {"format": "pt"}, file="out.safetensors")
    data = raw_header + b"".join(tensor_bytes(t) for t in TENSORS.values())
    loaded = safetensors.torch.load(data)
    assert loaded.keys() == TENSORS.keys()
    assert all(
        torch.equal(loaded[name], TENSORS[name]) and loaded[name].dtype == TENSORS[name].dtype for name in TENSORS
    )
    assert header.nbytes == len(raw_header)
    assert header.nbytes % 8 == 0
    assert header.file_nbytes == len(data)
    assert [t.name for t in header.tensors if t.nbytes] == [name for name, t in TENSORS.items() if t.numel()]
    assert parse(data) == Header(tuple(replaced(header, "x")), header.metadata, header.nbytes, len(data), header.sha256)


def replaced(header: Header, file: str) -> list[Any]:
    return [type(t)(t.name, t.dtype, t.shape, file, t.begin, t.end) for t in header.tensors]


def dtype_name(tensor: torch.Tensor) -> str:
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int64: "I64", torch.float16: "F16"}
    return names[tensor.dtype]


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("ntensors", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_data_begins_at_a_multiple_of_eight_whatever_the_names(ntensors: int) -> None:
    raw_header, header = build_header([("n" * (i + 1), "I16", (i,)) for i in range(ntensors)], None, file="x")
    assert len(raw_header) % 8 == 0
    assert raw_header[8:9] == b"{"
    assert len(library(raw_header + bytes(header.file_nbytes - header.nbytes))) == ntensors


def test_a_header_that_could_not_be_read_back_is_not_built() -> None:
    with pytest.raises(ValueError, match="twice"):
        build_header([("a", "U8", (1,)), ("a", "U8", (1,))], None, file="x")
    with pytest.raises(ValueError, match="twice"):
        build_header([("__metadata__", "U8", (1,))], {}, file="x")
    with pytest.raises(ValueError, match="unknown"):
        build_header([("a", "F4", (2,))], None, file="x")
    with pytest.raises(UnsafeInputError):
        build_header([("a\n", "U8", (1,))], None, file="x")


def test_sixty_thousand_tensors_are_read_as_the_library_reads_them() -> None:
    shapes = [(f"model.layers.{i // 900}.mlp.experts.{i % 900}.weight", "BF16", (1, 1)) for i in range(60_000)]
    raw_header, header = build_header(shapes, {"format": "pt"}, file="x")
    theirs = library(raw_header + bytes(120_000))
    assert [(t.name, (t.dtype, t.shape)) for t in header.tensors] == [(name, (d, s)) for name, d, s in shapes]
    assert {name: (d, s) for name, (d, s, _) in theirs.items()} == {name: (d, s) for name, d, s in shapes}


@pytest.mark.skipif(not REAL_HEADERS, reason="the collection of real adapter files is not here")
def test_every_real_header_is_read_whole() -> None:
    read = 0
    for path in REAL_HEADERS:
        record = json.loads(path.read_text())
        if "header" not in record:
            continue
        text = json.dumps(record["header"], separators=(",", ":")).encode()
        raw_header = len(text.ljust(record["header_len"])).to_bytes(8, "little") + text.ljust(record["header_len"])
        header = parse_header(raw_header, file=path.name, file_nbytes=record["file_size"])
        expected = {n: (e["dtype"], tuple(e["shape"])) for n, e in record["header"].items() if n != "__metadata__"}
        assert {t.name: (t.dtype, t.shape) for t in header.tensors} == expected
        assert header.metadata == record["metadata"]
        read += 1
    assert read > 0
