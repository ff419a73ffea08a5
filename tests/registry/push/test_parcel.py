from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from ingot.errors import InputChangedError
from ingot.registry.push import Parcel
from tests.registry.push.conftest import packed


def test_all_files_and_only_those_are_in_it(artifact: Path) -> None:
    (artifact / ".cache").mkdir()
    (artifact / "model.sig").write_bytes(b"signed")
    parcel = packed(artifact)
    names = sorted(path.name for path in artifact.iterdir() if path.is_file())
    assert [file.name for file in parcel.files] == names
    for file in parcel.files:
        data = (artifact / file.name).read_bytes()
        assert (file.nbytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_id_of_a_blob_is_gits(parcel: Parcel) -> None:
    for file in parcel.files:
        command = ["git", "hash-object", "--no-filters", str(parcel.path / file.name)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert parcel.git_blob(file) == found


def test_a_file_that_was_changed_has_no_id(parcel: Parcel) -> None:
    path = parcel.path / "tokenizer.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(InputChangedError):
        parcel.git_blob(parcel.by_name["tokenizer.json"])
