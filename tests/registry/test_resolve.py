"""From what a person types to an artifact: one, or an error that helps."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from ingot.errors import UsageError
from ingot.registry.places import Places
from ingot.registry.resolve import find, find_all
from tests.registry.conftest import Library
from tests.registry.shelf import variant

SHARD = "model-00001-of-00003.safetensors"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_way_to_say_it(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = library.entry("support-v2")
    library.registry.tag([("prod/eu", entry.identity)])
    folder = library.folder("support-v2")
    digest = sha256(folder / SHARD)
    monkeypatch.chdir(folder)
    for ref in (
        "support-v2", "prod/eu", entry.identity, entry.identity[:6], entry.identity.upper(), f"sha256:{digest}",
        digest[:9], str(folder), str(folder / SHARD), ".", SHARD,
    ):  # fmt: skip
        assert find(library.registry, ref).identity == entry.identity, ref


def test_a_tag_comes_before_a_name_and_that_before_a_path(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.registry.tag([("support-v1", library.entry("support-v2").identity)])
    assert library.entry("support-v1").name == "support-v2"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(library.folder("support-v1"), tmp_path / "upon-v3")
    assert library.entry("upon-v3").name == "upon-v3"


def test_what_looks_like_it_is_suggested(library: Library) -> None:
    with pytest.raises(UsageError) as caught:
        library.entry("suport-v1")
    assert caught.value.hint is not None
    assert "support-v1" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        library.entry("zzz")
    assert caught.value.hint == "`ingot registry list` shows what there is."


@pytest.mark.parametrize("ref", ["~nobody-of-this-name/x", "x" * 5000, "a\nb", "abc", "sha256:", "sha256:12", "f" * 65])
def test_what_can_be_nothing_is_nothing(library: Library, ref: str) -> None:
    with pytest.raises(UsageError, match="no such artifact"):
        library.entry(ref)


def test_what_means_several_is_told(library: Library) -> None:
    made = variant(library.folder("support-v1"), library.registry.layout.work / "x", version="9")
    library.registry.publish(made, Places("support-v9"))
    with pytest.raises(UsageError, match="several artifacts") as caught:
        library.entry(sha256(library.folder("support-v1") / SHARD))
    assert "support-v1" in str(caught.value.found)
    assert "support-v9" in str(caught.value.found)


def test_an_input_is_no_artifact_but_what_was_made_of_it_is_found(library: Library) -> None:
    digest = sha256(library.root / "lora-1" / "adapter_model.safetensors")
    with pytest.raises(UsageError, match="no such artifact"):
        library.entry(digest)
    for ref in (digest, str(library.root / "lora-1"), str(library.root / "lora-1" / "adapter_model.safetensors")):
        found = {(match.entry.name, match.role, match.name) for match in find_all(library.registry, ref)}
        assert found == {
            ("support-v1", "0", "adapter_model.safetensors"), ("upon-v3", "0", "adapter_model.safetensors"),
        }  # fmt: skip


def test_a_file_beside_a_record_that_does_not_know_it_is_looked_up_by_its_bytes(
    library: Library, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(library.folder("support-v2"), tmp_path / "served"))
    shutil.copy(library.folder("support-v1") / SHARD, folder / "other.safetensors")
    assert library.entry(str(folder / "other.safetensors")).name == "support-v1"
    assert library.entry(str(folder / SHARD)).name == "support-v2"


def test_a_folder_without_weights_is_told(library: Library, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing here that has a digest"):
        library.entry(str(tmp_path / "registry" / "adapters"))


def test_of_two_with_one_name_the_one_that_is_here_is_meant(library: Library) -> None:
    first = library.free("support-v1")
    made = variant(library.folder("support-v2"), library.registry.layout.work / "x", version="again")
    second = library.registry.publish(made, Places("support-v1"))
    assert library.entry("support-v1").identity == second.identity
    assert library.entry(first.identity).name == "support-v1"
