"""Zip directories: large ones against the standard library's reader, evil ones without unpacking anything."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from ingot.errors import UnsafeInputError
from ingot.formats import read_torch_zip

from .evil_zips import ZIPS
from .pickle_assembler import state_dict, storage, tensor, whole


def test_a_deflated_bomb_costs_no_memory(tmp_path: Path) -> None:
    case = next(case for case in ZIPS if case.name == "a bomb: 64 MB of zeros in the pickle")
    attempt = case.prepare(tmp_path)
    tracemalloc.start()
    with pytest.raises(UnsafeInputError, match="compressed"):
        attempt()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_file_beyond_4_gib_is_read_at_64_bit_offsets(tmp_path: Path) -> None:
    path, numel = tmp_path / "adapter_model.bin", 5 * 2**30 // 4
    pickle_bytes = whole(
        state_dict(tensor(source=storage(numel=numel), shape=(numel,), stride=(1,)), tensor(source=storage("1")))
    )
    write_sparse(path, {"archive/data/0": numel * 4, "archive/data/1": 16}, pickle_bytes)
    with path.open("rb") as file:
        refs = read_torch_zip(file.fileno(), file=path.name)
    with zipfile.ZipFile(path) as reference:
        begin = reference.getinfo("archive/data/1").header_offset + 30 + len("archive/data/1") + 20
        assert reference.getinfo("archive/data/0").file_size == numel * 4
    assert [(ref.name, ref.nbytes) for ref in refs] == [("a", numel * 4), ("b", 16)]
    assert refs[1].begin == begin > 2**32


def write_sparse(path: Path, members: dict[str, int], pickle_bytes: bytes) -> None:
    """A zip64 file as torch lays it out, whose large members are holes of the disk."""
    directory = b""
    contents: list[tuple[str, int, bytes]] = [(name, nbytes, b"") for name, nbytes in members.items()]
    with path.open("wb") as file:
        for name, nbytes, content in [*contents, ("archive/data.pkl", len(pickle_bytes), pickle_bytes)]:
            begin, crc, key = file.tell(), zlib.crc32(content), name.encode()
            file.write(struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 0, 0, 0, crc, 2**32 - 1, 2**32 - 1, len(key), 20))
            file.write(key + struct.pack("<HHQQ", 1, 16, nbytes, nbytes) + content)
            file.seek(nbytes - len(content), os.SEEK_CUR)
            sizes = (crc, 2**32 - 1, 2**32 - 1, len(key), 28, 0, 0, 0, 0, 2**32 - 1)
            directory += struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, 0, 0, 0, 0, *sizes)
            directory += key + struct.pack("<HHQQQ", 1, 24, nbytes, nbytes, begin)
        begin, count = file.tell(), len(contents) + 1
        file.write(directory)
        end = file.tell()
        file.write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), begin))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0))
