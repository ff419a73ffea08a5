"""An evaluation is added to a finished artifact's record: whole or not at all, and the artifact stays what it is."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ingot.errors import CheckFailed, IngotError, OutputError
from ingot.record import add_evaluation, read_record, verify
from tests.record.makers import copy_of
from tests.storage.faulty_disk import FATES, WHENS, Crash, Fate, FaultyDisk, When

FOUND = {"reference": {"name": "base+adapter", "digest": "0" * 64}, "ok": True, "mean_kl": 1.25e-05}


@pytest.fixture
def out(artifact: Path, tmp_path: Path) -> Path:
    return copy_of(artifact, tmp_path / "there" / "out")


@pytest.fixture
def graveyard(tmp_path: Path) -> Path:
    path = tmp_path / "graveyard"
    path.mkdir()
    return path


def evaluations(out: Path) -> tuple[object, ...]:
    return read_record((out / "ingot.json").read_bytes()).statement.predicate.run.evaluations


def test_it_stands_in_the_record_and_the_identity_stays(out: Path) -> None:
    before = read_record((out / "ingot.json").read_bytes())
    record = add_evaluation(out, FOUND)
    assert evaluations(out) == (FOUND,)
    assert record.identity == before.identity
    assert record.sha256 != before.sha256
    add_evaluation(out, {"second": 2})
    assert evaluations(out) == (FOUND, {"second": 2})
    assert verify(out, depth="read").ok
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_record_that_was_changed_gets_no_evaluation(out: Path) -> None:
    path = out / "ingot.json"
    path.write_bytes(path.read_bytes().replace(b'"nearest"', b'"farthest"'))
    before = path.read_bytes()
    with pytest.raises(CheckFailed, match="sealed"):
        add_evaluation(out, FOUND)
    assert path.read_bytes() == before


def test_an_evaluation_that_was_changed_by_hand_breaks_the_seal(out: Path) -> None:
    add_evaluation(out, FOUND)
    path = out / "ingot.json"
    path.write_bytes(path.read_bytes().replace(b'"ok": true', b'"ok": false'))
    assert not verify(out).ok


def test_a_directory_without_a_record_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(CheckFailed):
        add_evaluation(tmp_path / "model", FOUND)
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.parametrize("fate", FATES, ids=lambda fate: f"{fate.bytes}-{fate.names}-{fate.seed}")
@pytest.mark.parametrize("when", WHENS)
def test_after_a_crash_at_any_operation_the_record_is_the_old_or_the_new_one(
    artifact: Path, tmp_path: Path, graveyard: Path, when: When, fate: Fate
) -> None:
    counted = FaultyDisk(graveyard)
    add_evaluation(copy_of(artifact, tmp_path / "counted" / "out"), FOUND, disk=counted)
    for number in range(len(counted.operations)):
        out = copy_of(artifact, tmp_path / str(number) / "out")
        disk = FaultyDisk(graveyard, crash_at=number, when=when, fate=fate)
        try:
            add_evaluation(out, FOUND, disk=disk)
        except Crash:
            pass
        else:
            assert not disk.crashed
        assert evaluations(out) in ((), (FOUND,))
        add_evaluation(out, {"again": True})
        assert evaluations(out)[-1] == {"again": True}
        assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_disk_that_fails_at_any_operation_leaves_the_old_record(
    artifact: Path, tmp_path: Path, graveyard: Path
) -> None:
    counted = FaultyDisk(graveyard)
    add_evaluation(copy_of(artifact, tmp_path / "counted" / "out"), FOUND, disk=counted)
    for number in range(len(counted.operations)):
        out = copy_of(artifact, tmp_path / str(number) / "out")
        before = (out / "ingot.json").read_bytes()
        try:
            add_evaluation(out, FOUND, disk=FaultyDisk(graveyard, fail_at=number))
        except IngotError:
            assert evaluations(out) in ((), (FOUND,))
        if not evaluations(out):
            assert (out / "ingot.json").read_bytes() == before


def test_of_several_writers_none_is_lost(out: Path) -> None:
    told: list[BaseException] = []

    def write(number: int) -> None:
        while True:
            try:
                add_evaluation(out, {"number": number})
                return
            except OutputError:  # another writer has the lock: the caller tries again
                continue
            except BaseException as failure:
                told.append(failure)
                return

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not told
    assert sorted(found["number"] for found in evaluations(out) if isinstance(found, dict)) == [0, 1, 2, 3]
