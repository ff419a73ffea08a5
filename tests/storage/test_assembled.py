"""Folders of our own links: they are followed while they are ours, and no other link is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.errors import BaseError, OutputError, UnsafeInputError
from ingot.storage import DigestMemory, InputFile, PosixDisk, assembled


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "renamed.bin"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


def test_a_file_is_read_under_the_name_that_it_needs_and_the_folder_goes_again(weights: Path, tmp_path: Path) -> None:
    with (
        assembled(PosixDisk(), tmp_path / "base", {"model.safetensors": weights}) as folder,
        InputFile.open(folder, "model.safetensors", error=BaseError) as file,
    ):
        assert file.read(0, file.nbytes) == b"weights"
        assert file.real == weights
        file.check_unchanged()
        assert len(DigestMemory(tmp_path / "cache").sha256(file)) == 64
    assert not (tmp_path / "base").exists()
    assert weights.exists()


def test_any_other_link_in_it_is_still_refused(weights: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with assembled(PosixDisk(), tmp_path / "base", {"a": weights}) as folder:
        (folder / "b").symlink_to(secret)
        (folder / "a").unlink()
        (folder / "a").symlink_to(secret)
        for name in ("a", "b"):
            with pytest.raises(UnsafeInputError):
                InputFile.open(folder, name, error=BaseError)
        (folder / "b").unlink()


def test_afterwards_its_links_are_strangers(weights: Path, tmp_path: Path) -> None:
    with assembled(PosixDisk(), tmp_path / "base", {"a": weights}):
        pass
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a").symlink_to(weights)
    with pytest.raises(UnsafeInputError):
        InputFile.open(tmp_path / "base", "a", error=BaseError)


def test_a_name_that_is_a_path_makes_nothing(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError), assembled(PosixDisk(), tmp_path / "base", {"../a": weights}):
        pass
    assert not (tmp_path / "base").exists()
