"""Adapters kept by content: loadable, read-only, found again by what they are and not by what they are called."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ingot.errors import AdapterError, OutputError, ResourceError
from ingot.record.form import Dependency, DependencyNotes, Digest
from ingot.registry import keeping
from ingot.registry.keeping import find_kept, keep, kept_adapters
from ingot.storage import DigestMemory, PosixDisk
from tests.toy import make_adapter

DISK = PosixDisk()
NAMES = ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "support-lora"
    make_adapter(path)
    (path / "tokenizer.json").write_text("{}")
    (path / "optimizer.pt").write_bytes(b"not for a merge")
    return path


def dependencies(folder: Path, names: list[str] = NAMES) -> dict[str, Dependency]:
    found = {}
    for name in names:
        data = (folder / name).read_bytes()
        notes = DependencyNotes("0", len(data))
        found[name] = Dependency(name, Digest(hashlib.sha256(data).hexdigest()), notes)
    return found


def test_what_a_merge_uses_is_kept_under_the_digest_of_the_list(adapter: Path, tmp_path: Path) -> None:
    kept = keep(adapter, tmp_path / "kept", DISK)
    assert kept.is_new
    listed = [[n, (adapter / n).stat().st_size, hashlib.sha256((adapter / n).read_bytes()).hexdigest()] for n in NAMES]
    data = (tmp_path / "kept" / f"{kept.digest}.json").read_bytes()
    assert json.loads(data) == listed
    assert hashlib.sha256(data).hexdigest() == kept.digest == kept.path.name
    assert sorted(path.name for path in kept.path.iterdir()) == NAMES
    assert kept.nbytes == sum(nbytes for _, nbytes, _ in listed)


def test_it_is_a_peft_adapter_that_nobody_can_write_to_by_mistake(adapter: Path, tmp_path: Path) -> None:
    import peft

    kept = keep(adapter, tmp_path / "kept", DISK)
    assert peft.PeftConfig.from_pretrained(str(kept.path)).r == 4
    weights = load_file(kept.path / "adapter_model.safetensors")
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        assert torch.equal(tensor, weights[name])
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept.path.iterdir()} == {0o444}
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o555


def test_the_same_adapter_from_elsewhere_is_kept_once(adapter: Path, tmp_path: Path) -> None:
    first = keep(adapter, tmp_path / "kept", DISK)
    second = keep(adapter.rename(tmp_path / "v3"), tmp_path / "kept", DISK)
    assert (second.path, second.files, second.is_new) == (first.path, first.files, False)
    assert [kept.digest for kept in kept_adapters(tmp_path / "kept")] == [first.digest]


def test_a_weights_file_of_another_tool_is_an_adapter_too(tmp_path: Path) -> None:
    make_adapter(tmp_path / "lora")
    kept = keep(tmp_path / "lora" / "adapter_model.safetensors", tmp_path / "kept", DISK)
    assert [file.name for file in kept.files] == NAMES[:2]
    with pytest.raises(AdapterError):
        keep(tmp_path / "nothing", tmp_path / "kept", DISK)


def test_it_is_found_by_digest_also_where_only_some_files_agree(adapter: Path, tmp_path: Path) -> None:
    kept = keep(adapter, tmp_path / "kept", DISK)
    wanted = dependencies(adapter)
    assert find_kept(tmp_path / "kept", wanted) == {name: kept.path / name for name in NAMES}
    renamed = {"renamed.safetensors": wanted[NAMES[1]]}
    assert find_kept(tmp_path / "kept", renamed) == {"renamed.safetensors": kept.path / NAMES[1]}
    (adapter / NAMES[1]).write_bytes(b"another")
    assert find_kept(tmp_path / "kept", dependencies(adapter, NAMES[1:2])) == {}
    assert find_kept(tmp_path / "nowhere", wanted) == {}


def test_a_list_that_is_not_its_own_digest_is_not_believed(adapter: Path, tmp_path: Path) -> None:
    kept = keep(adapter, tmp_path / "kept", DISK)
    path = tmp_path / "kept" / f"{kept.digest}.json"
    path.write_bytes(path.read_bytes().replace(b"tokenizer.json", b"tokenizes.json"))
    assert kept_adapters(tmp_path / "kept") == []
    keep(adapter, tmp_path / "kept", DISK)
    assert len(kept_adapters(tmp_path / "kept")) == 1


def test_a_damaged_copy_is_told_of_and_left_as_it_is(adapter: Path, tmp_path: Path) -> None:
    kept = keep(adapter, tmp_path / "kept", DISK)
    (kept.path / NAMES[2]).chmod(0o644)
    (kept.path / NAMES[2]).write_text("[]")
    with pytest.raises(OutputError, match="damaged"):
        keep(adapter, tmp_path / "kept", DISK)
    assert (kept.path / NAMES[2]).read_text() == "[]"


def test_a_large_adapter_is_kept_only_when_asked(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "LARGE_NBYTES", 1000)
    with pytest.raises(ResourceError, match="only when asked"):
        keep(adapter, tmp_path / "kept", DISK)
    assert not (tmp_path / "kept").exists()
    assert keep(adapter, tmp_path / "kept", DISK, large=True, memory=DigestMemory(tmp_path / "cache")).is_new
