"""The registry on disk: what is published is whole under its name, what is freed keeps its record."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from ingot.errors import CheckFailed, OutputError, UsageError
from ingot.record.artifact import SIGNATURE_NAME, record_in
from ingot.registry import store
from ingot.registry.entry import State
from ingot.registry.places import Places
from ingot.registry.store import Registry
from tests.registry.conftest import Library
from tests.registry.shelf import content_of, evaluated, variant
from tests.storage.faulty_disk import KEPT, WHENS, Crash, FaultyDisk, When


def names(registry: Registry) -> dict[str, State]:
    return {entry.name: entry.state for entry in registry.entries()}


def test_a_registry_is_made_only_when_asked_and_only_where_nothing_else_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no registry here yet"):
        Registry.open(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    registry = Registry.open(tmp_path / "new", create=True)
    assert registry.entries() == []
    assert json.loads((tmp_path / "new" / "registry.json").read_bytes()) == {"format": "ingot registry 1"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("...")
    with pytest.raises(UsageError, match="holds something else"):
        Registry.open(tmp_path / "other", create=True)
    with pytest.raises(UsageError, match="no registry"):
        Registry.open(tmp_path / "other")
    assert os.listdir(tmp_path / "other") == ["thesis.tex"]


def test_a_registry_that_was_being_made_when_the_power_went_is_made_whole(tmp_path: Path) -> None:
    Registry.open(tmp_path / "new", create=True)
    (tmp_path / "new" / "registry.json").rename(tmp_path / "new" / ".registry.json.ingot-part")
    assert Registry.open(tmp_path / "new", create=True).entries() == []


def test_many_may_make_it_at_once(tmp_path: Path) -> None:
    for number in range(10):
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(lambda path: Registry.open(path, create=True), [tmp_path / f"new-{number}"] * 8))
        assert [registry.entries() for registry in opened] == [[]] * 8


@pytest.mark.parametrize("when", WHENS)
def test_a_crash_while_it_is_made_does_not_stop_the_next(tmp_path: Path, when: When) -> None:
    (tmp_path / "grave").mkdir()
    undisturbed = FaultyDisk(tmp_path / "grave")
    Registry.open(tmp_path / "undisturbed", create=True, disk=undisturbed)
    for number in range(len(undisturbed.operations)):
        disk = FaultyDisk(tmp_path / "grave", crash_at=number, when=when, fate=KEPT)
        with pytest.raises(Crash):
            Registry.open(tmp_path / f"new-{number}", create=True, disk=disk)
        assert Registry.open(tmp_path / f"new-{number}", create=True).entries() == []


def test_another_version_is_refused(library: Library) -> None:
    library.registry.layout.marker.write_bytes(b'{"format": "ingot registry 2"}\n')
    with pytest.raises(UsageError, match="another version"):
        Registry.open(library.registry.layout.root, create=True)


def test_entries_say_what_the_records_say(library: Library) -> None:
    assert names(library.registry) == {"support-v1": "here", "support-v2": "here", "upon-v3": "here"}
    entry = library.entry("support-v1")
    record = json.loads((library.folder("support-v1") / "ingot.json").read_bytes())
    assert entry.identity == record["predicate"]["runDetails"]["metadata"]["ingot_identity"]
    for file in entry.facts.outputs:
        data = (library.folder("support-v1") / file.name).read_bytes()
        assert (file.nbytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    for role, folder in (("base", "base"), ("0", "lora-1")):
        for file in entry.facts.inputs(role):
            assert hashlib.sha256((library.root / folder / file.name).read_bytes()).hexdigest() == file.sha256


def test_what_is_published_must_have_a_name_of_its_own(library: Library) -> None:
    made = variant(library.folder("support-v1"), library.registry.layout.work / "x", version="9")
    with pytest.raises(OutputError, match="another artifact of this name"):
        library.registry.publish(made, Places("support-v2"))
    with pytest.raises(OutputError, match="no usable name"):
        library.registry.publish(made, Places("../v9"))
    assert made.is_dir()
    entry = library.registry.publish(made, Places("support-v9"))
    assert (entry.name, entry.state, made.exists()) == ("support-v9", State.HERE, False)


def test_what_lies_elsewhere_is_noted_and_stays(library: Library, tmp_path: Path) -> None:
    away = variant(library.folder("support-v1"), tmp_path / "away", version="9")
    before = content_of(away)
    entry = library.registry.add(away, Places("away"))
    assert (entry.state, entry.place, content_of(away)) == (State.ELSEWHERE, str(away), before)
    shutil.rmtree(away)
    assert library.entry("away").state is State.FREED


def test_adding_again_does_not_forget_where_the_inputs_were(library: Library) -> None:
    entry = library.entry("support-v1")
    before = library.registry.places(entry)
    assert before.inputs
    library.registry.add(library.folder("support-v1"), Places("support-v1"))
    assert library.registry.places(entry) == before


def test_another_artifact_at_a_noted_place_is_not_taken_for_it(library: Library, tmp_path: Path) -> None:
    away = variant(library.folder("support-v1"), tmp_path / "away", version="8")
    first = library.registry.add(away, Places("away"))
    shutil.rmtree(away)
    variant(library.folder("support-v1"), away, version="9")
    entry = next(entry for entry in library.registry.entries() if entry.identity == first.identity)
    assert entry.state is State.FREED
    assert len(library.registry.entries()) == 4
    second = library.registry.add(away, Places("away"))
    assert {entry.identity: entry.state for entry in library.registry.entries() if entry.name == "away"} == {
        first.identity: State.FREED, second.identity: State.ELSEWHERE,
    }  # fmt: skip


def test_what_is_freed_keeps_record_table_card_and_signature(library: Library) -> None:
    folder = library.folder("support-v1")
    evaluated(folder, ok=True, evaluated_on="2026-11-30T00:00:00Z")
    (folder / SIGNATURE_NAME).write_bytes(b"signed")
    whole = content_of(folder)
    entry = library.free("support-v1")
    assert (entry.state, entry.place, folder.exists()) == (State.FREED, None, False)
    assert list(library.registry.layout.work.iterdir()) == []
    kept = content_of(library.registry.layout.records / entry.identity)
    for name in ("ingot.json", "ingot.tensors.jsonl", "README.md", SIGNATURE_NAME):
        assert kept[name][1] == whole[name][1]
    assert entry.facts.scores is not None
    assert library.registry.places(entry).inputs["base"] == str(library.root / "base")


def test_a_damaged_table_does_not_replace_the_one_that_was_noted(library: Library) -> None:
    path = library.folder("support-v1") / "ingot.tensors.jsonl"
    good = path.read_bytes()
    path.write_bytes(good[:-5])
    entry = library.free("support-v1")
    assert (library.registry.layout.records / entry.identity / path.name).read_bytes() == good


def test_freeing_writes_nothing_that_is_there(library: Library, tmp_path: Path) -> None:
    """On a full disk nothing can be written, and that is when one wants to free something."""
    disk = FaultyDisk(tmp_path)
    registry = Registry.open(library.registry.layout.root, disk=disk)
    with registry.changing():
        registry.free(library.entry("support-v1"))
    assert {"create", "write", "make_directory"}.isdisjoint(disk.counts)


def test_that_it_went_is_durable_before_any_file_is_removed(library: Library, tmp_path: Path) -> None:
    """Else a crash could keep the old name of the folder, and not all files in it."""
    disk = FaultyDisk(tmp_path)
    registry = Registry.open(library.registry.layout.root, disk=disk)
    with registry.changing():
        registry.free(library.entry("support-v1"))
    operations = [operation for operation in disk.operations if operation[0] not in ("lock", "unlock")]
    kinds = [kind for kind, _ in operations]
    assert kinds[:3] == ["rename", "sync_directory", "sync_directory"]
    assert {name for _, name in operations[1:3]} == {"work", "artifacts"}
    assert set(kinds[3:]) == {"remove", "remove_directory"}
    assert operations[3] == ("remove", "ingot.json")


def test_a_folder_with_something_strange_in_it_is_not_freed(library: Library) -> None:
    (library.folder("support-v1") / "notes.txt").write_text("do not lose me")
    with library.registry.changing(), pytest.raises(CheckFailed, match=r"notes\.txt"):
        library.registry.free(library.entry("support-v1"))
    assert (library.folder("support-v1") / "notes.txt").read_text() == "do not lose me"


def test_a_link_to_a_folder_elsewhere_is_not_freed_through(library: Library, tmp_path: Path) -> None:
    folder = library.folder("support-v1")
    folder.rename(tmp_path / "large-disk")
    folder.symlink_to(tmp_path / "large-disk")
    before = content_of(tmp_path / "large-disk")
    with library.registry.changing(), pytest.raises(CheckFailed, match="a link"):
        library.registry.free(library.entry("support-v1"))
    assert content_of(tmp_path / "large-disk") == before


def test_what_took_its_name_is_not_freed(library: Library) -> None:
    entry = library.entry("support-v1")
    with library.registry.changing(), pytest.raises(CheckFailed, match="another artifact has its name"):
        library.registry.free(replace(entry, name="support-v2"))
    assert names(library.registry)["support-v2"] == "here"


def test_a_removal_that_died_is_ended_by_the_next_and_follows_no_link(library: Library, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    work = library.registry.layout.work
    shutil.copytree(library.folder("support-v1"), work / "freed-0000")
    (work / "freed-0000" / "ingot.json").unlink()
    (work / "freed-0001").symlink_to(tmp_path / "precious")
    (work / "release").mkdir()
    library.registry.sweep()
    assert [path.name for path in work.iterdir()] == ["release"]
    assert (tmp_path / "precious" / "file").exists()


def test_a_record_that_changed_by_one_byte_is_left_out_and_told_of(library: Library) -> None:
    path = library.folder("support-v1") / "ingot.json"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert set(names(library.registry)) == {"support-v2", "upon-v3"}
    assert list(library.registry.faults) == [str(path.parent)]
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert len(names(library.registry)) == 3
    assert library.registry.faults == {}


def test_hints_that_cannot_be_read_are_no_hints(library: Library) -> None:
    entry = library.entry("support-v1")
    (library.registry.layout.records / entry.identity / "places.json").write_text("{")
    assert names(library.registry)["support-v1"] == "here"
    assert library.free("support-v1").state is State.FREED


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.listdir

    def listdir(path: Path) -> list[str]:
        if Path(path).name == "records":
            raise OSError(errno.EACCES, "permission denied")
        return really(path)

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(CheckFailed, match="cannot be read"):
        library.registry.entries()


def test_two_do_not_change_it_at_once(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_WAIT_SECONDS", 0.05)
    with library.registry.changing(), pytest.raises(OutputError, match="another process is changing"):
        library.registry.tag([("champion", library.entry("support-v1").identity)])
    assert library.registry.tags().history == ()
    library.registry.tag([("champion", library.entry("support-v1").identity)])


def test_a_backup_of_records_adapters_and_tags_knows_everything(library: Library, tmp_path: Path) -> None:
    library.registry.tag([("champion", library.entry("support-v1").identity)])
    (tmp_path / "restored").mkdir()
    for path in (library.registry.layout.marker, library.registry.layout.tags):
        shutil.copy(path, tmp_path / "restored")
    for path in (library.registry.layout.records, library.registry.layout.adapters):
        shutil.copytree(path, tmp_path / "restored" / path.name)
    restored = Registry.open(tmp_path / "restored")
    assert names(restored) == dict.fromkeys(("support-v1", "support-v2", "upon-v3"), State.FREED)
    assert restored.tags() == library.registry.tags()


def test_no_record_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="no artifact of ingot"):
        record_in(tmp_path)
