from __future__ import annotations

from pathlib import Path

import pytest

from ingot.checkpoint.locate import locate
from ingot.errors import AdapterError, BaseError, MissingComponent


def test_a_directory_is_called_by_its_own_name_and_never_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    found = locate(str(tmp_path / "llama"), what="base", error=BaseError)
    assert (found.path, found.name, found.commit) == (tmp_path / "llama", "llama", None)


def test_a_snapshot_of_the_hubs_cache_is_known_by_repository_and_commit(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    found = locate(str(snapshot), what="base", error=BaseError)
    assert (found.name, found.commit) == ("org/name", commit)


def test_a_hub_id_is_downloaded_with_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "f" * 40
    snapshot = tmp_path / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    asked = {}

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = locate("org/name@v1.2", what="adapter", error=AdapterError)
    assert (asked["repo"], asked["revision"]) == ("org/name", "v1.2")
    assert not [pattern for pattern in asked["patterns"] if "pytorch_model" in pattern]
    assert (found.path, found.name, found.revision, found.commit) == (snapshot, "org/name", "v1.2", commit)


def test_a_hub_that_cannot_be_reached_is_an_error_of_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseError, match="Hub"):
        locate("no-such-org/no-such-name", what="base", error=BaseError)


@pytest.mark.parametrize("spec", ["no/such/path", "./absent", "/absent", "absent", "a b/c", "org/name/deeper"])
def test_what_is_neither_a_directory_nor_a_hub_id_is_refused(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseError, match="does not exist"):
        locate(spec, what="base", error=BaseError)


def test_a_file_in_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(BaseError, match="file, not a directory"):
        locate(str(tmp_path / "weights.safetensors"), what="base", error=BaseError)


def test_s3_is_said_to_be_missing() -> None:
    with pytest.raises(MissingComponent):
        locate("s3://bucket/model", what="base", error=BaseError)
