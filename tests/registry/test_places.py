"""places.json: hints, in absolute paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.errors import CheckFailed
from ingot.registry.places import Places, read_places, write_places
from ingot.storage import PosixDisk


def test_what_is_written_is_read(tmp_path: Path) -> None:
    places = Places("support-v1", None, {"base": "/models/base", "0": "/loras/ä"}, "/im.dat", "/src/llama.cpp")
    write_places(PosixDisk(), tmp_path / "places.json", places)
    assert read_places(tmp_path / "places.json") == places
    assert places.hints == {
        "base": "/models/base", "0": "/loras/ä", "imatrix": "/im.dat", "llama_cpp": "/src/llama.cpp",
    }  # fmt: skip
    assert Places("x").hints == {}


def test_no_file_is_no_hint_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "places.json"
    assert read_places(path) is None
    for data in (b"", b"{", b"[]", b'{"name": 3}', b"\xff"):
        path.write_bytes(data)
        with pytest.raises(CheckFailed, match="cannot be read"):
            read_places(path)
