"""Whatever is changed in an extracted adapter after it was made is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ingot.extract.verify import verify
from tests.extract.judge import extracted


@pytest.fixture(scope="module")
def adapter(llama: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify")
    for source in llama:
        shutil.copytree(source, root / source.name)
    return extracted(root / "base", root / "tuned").target


def _flip(path: Path) -> None:
    data = bytearray((path / "adapter_model.safetensors").read_bytes())
    data[-100] ^= 1
    (path / "adapter_model.safetensors").write_bytes(data)


def _write(path: Path, text: str) -> None:
    (path / "adapter_config.json").write_text(text)


def _edit_record(path: Path) -> None:
    text = (path / "ingot.json").read_text()
    (path / "ingot.json").write_text(text.replace('"rank": 4', '"rank": 5'))


def _break_record(path: Path) -> None:
    record = json.loads((path / "ingot.json").read_text())
    del record["subject"]
    (path / "ingot.json").write_text(json.dumps(record))


CHANGES: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "a flipped bit": (_flip, "adapter_model.safetensors: damaged", True),
    "a longer file": (lambda p: _write(p, "{}" * 999), "bytes instead of", False),
    "a shorter file": (lambda p: _write(p, "{}"), "bytes instead of", False),
    "a strange file": (lambda p: (p / "more.txt").touch(), "more.txt: not in the record", False),
    "no weights": (lambda p: (p / "adapter_model.safetensors").unlink(), "missing", False),
    "another record": (_edit_record, "changed after it was sealed", False),
    "half a record": (_break_record, "not of its form", False),
}


def test_an_adapter_as_it_was_made_is_fine(adapter: Path) -> None:
    for read in (False, True):
        found = verify(adapter, read=read)
        assert found is not None
        assert found.ok
        assert found.files == 3


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found(name: str, adapter: Path, tmp_path: Path) -> None:
    change, said, needs_reading = CHANGES[name]
    shutil.copytree(adapter, tmp_path / "changed")
    change(tmp_path / "changed")
    found = verify(tmp_path / "changed", read=needs_reading)
    assert found is not None
    assert not found.ok
    assert said in found.verdict


def test_what_is_no_extraction_is_left_to_others(adapter: Path, llama: tuple[Path, Path], tmp_path: Path) -> None:
    assert verify(llama[0]) is None
    shutil.copytree(adapter, tmp_path / "merge")
    record = (tmp_path / "merge" / "ingot.json").read_text().replace("urn:ingot:extract:v1", "urn:ingot:merge:v1")
    (tmp_path / "merge" / "ingot.json").write_text(record)
    assert verify(tmp_path / "merge") is None
