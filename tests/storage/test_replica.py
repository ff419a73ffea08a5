"""Folders of copies: whole or absent, proven, read-only, made once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from ingot.errors import BaseError, OutputError, ResourceError
from ingot.storage import Disk, InputFile, PosixDisk, copying, replicate
from tests.storage.faulty_disk import FATES, WHENS, Crash, Fate, FaultyDisk, When

DATA = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 40}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name, data in DATA.items():
        (folder / name).write_bytes(data)
    return folder


@contextmanager
def opened(folder: Path) -> Iterator[Mapping[str, tuple[InputFile, str]]]:
    with ExitStack() as stack:
        files = {name: stack.enter_context(InputFile.open(folder, name, error=BaseError)) for name in DATA}
        yield {name: (file, file.sha256()) for name, file in files.items()}


def make(disk: Disk, source: Path, target: Path) -> bool:
    with opened(source) as files:
        return replicate(disk, files, target)


def contents(folder: Path) -> dict[str, bytes] | None:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else None


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_copy_is_whole_and_read_only_and_alone(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "kept"
    assert make(PosixDisk(), source, target) is True
    assert contents(target) == DATA
    assert mode(target) == 0o555
    assert {mode(path) for path in target.iterdir()} == {0o444}
    assert os.listdir(target.parent) == ["kept"]


def test_the_second_time_it_is_read_again_and_its_modes_are_set(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "kept"
    make(PosixDisk(), source, target)
    target.chmod(0o755)
    (target / "adapter_config.json").chmod(0o644)
    assert make(PosixDisk(), source, target) is False
    assert (mode(target), mode(target / "adapter_config.json")) == (0o555, 0o444)


@pytest.mark.parametrize("fault", ["damaged", "missing", "extra"])
def test_a_folder_that_is_no_copy_any_more_is_told_of(source: Path, tmp_path: Path, fault: str) -> None:
    target = tmp_path / "kept"
    make(PosixDisk(), source, target)
    target.chmod(0o755)
    path = target / ("strange" if fault == "extra" else "adapter_config.json")
    if fault == "missing":
        path.unlink()
    else:
        path.touch()
        path.chmod(0o644)
        path.write_bytes(b"[]")
    with pytest.raises(OutputError) as caught:
        make(PosixDisk(), source, target)
    assert path.name in caught.value.message
    assert caught.value.hint is not None


def test_a_copy_that_is_not_what_was_copied_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = copying.copy_contents

    def lying(source: int, target: int, nbytes: int) -> copying.CopyMethod:
        method = whole(source, target, nbytes)
        os.pwrite(target, b"!", 1)
        return method

    monkeypatch.setattr(copying, "copy_contents", lying)
    with pytest.raises(ResourceError, match="not what was copied"):
        make(PosixDisk(), source, tmp_path / "new" / "kept")
    assert os.listdir(tmp_path / "new") == []


@pytest.mark.parametrize("fate", FATES, ids=lambda fate: f"{fate.bytes}-{fate.names}-{fate.seed}")
@pytest.mark.parametrize("when", WHENS)
def test_after_a_crash_anywhere_it_is_whole_or_absent_and_made_again(
    source: Path, tmp_path: Path, when: When, fate: Fate
) -> None:
    graveyard = tmp_path / "graveyard"
    graveyard.mkdir()
    counted = FaultyDisk(graveyard)
    make(counted, source, tmp_path / "counted" / "kept")
    for n in range(len(counted.operations)):
        target = tmp_path / f"{n}" / "kept"
        with suppress(Crash):
            make(FaultyDisk(graveyard, crash_at=n, when=when, fate=fate), source, target)
        assert contents(target) in (None, DATA)
        make(FaultyDisk(graveyard), source, target)
        assert contents(target) == DATA
        assert mode(target) == 0o555
        assert os.listdir(target.parent) == ["kept"]
