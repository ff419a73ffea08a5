"""The commit protocol where nothing crashes: refusals, resumption, modes, plants."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

import pytest

from ingot.errors import OutputError
from ingot.storage import Finished, PosixDisk, Staging, discard, sweep
from ingot.storage.workdir import Place
from tests.storage.toy import content_of, make, read_output

DISK = PosixDisk()
PLAN = {"plan": "a1", "tool": "1"}


def work_of(target: Path) -> Path:
    (found,) = target.parent.glob(f".{target.name}.ingot-partial-*")
    return found


def interrupted(target: Path, files: dict[str, bytes]) -> Path:
    """The work directory of a run that stopped after `files`."""
    with Staging.open(DISK, target, PLAN) as staging:
        for name, data in files.items():
            staging.write(name, data)
    return work_of(target)


def publish(target: Path, files: dict[str, bytes]) -> None:
    with Staging.open(DISK, target, PLAN) as staging:
        for name, data in files.items():
            if staging.trust(name) is None:
                staging.write(name, data)
        staging.publish(b"{}")
    assert read_output(target) == {**files, "ingot.json": b"{}"}
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_an_output_appears_whole_with_its_parents(tmp_path: Path) -> None:
    make(DISK, tmp_path / "new" / "deep" / "out")
    assert read_output(tmp_path / "new" / "deep" / "out") == content_of("plan")


def test_nothing_is_seen_at_the_target_before_publish(tmp_path: Path) -> None:
    with Staging.open(DISK, tmp_path / "out", PLAN) as staging:
        staging.write("a", b"1")
        assert not staging.target.exists()
        assert stat.S_IMODE(work_of(tmp_path / "out").stat().st_mode) == 0o700


def test_finished_gives_back_what_commit_was_told(tmp_path: Path) -> None:
    extra = {"tensors": [["a", 1.5, None]], "kelvin": "\u212a"}
    with Staging.open(DISK, tmp_path / "out", PLAN) as staging:
        staging.write("a", b"abc", extra)
    with Staging.open(DISK, tmp_path / "out", PLAN) as staging:
        expected = Finished(3, hashlib.sha256(b"abc").hexdigest(), extra)
        assert dict(staging.finished) == {"a": expected}
        assert staging.trust("a") == expected
        assert staging.trust("b") is None


@pytest.mark.parametrize("damage", ["flip", "grow", "cut", "remove", "link"])
def test_a_staged_file_altered_after_the_journal_is_made_again(tmp_path: Path, damage: str) -> None:
    target = tmp_path / "out"
    victim = interrupted(target, {"a": b"abc", "b": b"xyz"}) / "files" / "a"
    canary = tmp_path / "canary"
    canary.write_bytes(b"abc")
    if damage in ("remove", "link"):
        victim.unlink()
    if damage == "link":
        victim.symlink_to(canary)
    if damage in ("flip", "grow", "cut"):
        victim.write_bytes({"flip": b"abd", "grow": b"abcd", "cut": b"ab"}[damage])
    canary_before = canary.stat().st_mtime_ns
    with Staging.open(DISK, target, PLAN) as staging:
        assert staging.trust("a") is None
        assert not os.path.lexists(staging._work.files / "a")
    assert canary.read_bytes() == b"abc"
    assert canary.stat().st_mtime_ns == canary_before
    canary.unlink()
    publish(target, {"a": b"abc", "b": b"xyz"})


def test_work_of_another_plan_is_refused_by_the_field_that_differs(tmp_path: Path) -> None:
    target = tmp_path / "out"
    interrupted(target, {"a": b"abc"})
    for identity, field in (
        ({**PLAN, "plan": "b2"}, "plan"),
        ({"plan": "a1"}, "tool"),
        ({**PLAN, "base": "x"}, "base"),
    ):
        with pytest.raises(OutputError, match=f"differ in {field}") as caught:
            Staging.open(DISK, target, identity)
        assert "--restart" in (caught.value.hint or "")
    publish(target, {"a": b"abc"})


def test_restart_drops_the_work_of_another_plan(tmp_path: Path) -> None:
    target = tmp_path / "out"
    interrupted(target, {"a": b"abc", "left": b"over"})
    with Staging.open(DISK, target, {"plan": "other"}, restart=True) as staging:
        assert dict(staging.finished) == {}
        staging.write("a", b"new")
        staging.publish(b"{}")
    assert read_output(target) == {"a": b"new", "ingot.json": b"{}"}


def test_a_target_in_use_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    for name in ("file", "full", "link", "dangling"):
        with pytest.raises(OutputError):
            Staging.open(DISK, tmp_path / name, PLAN)
    assert sorted(tmp_path.iterdir()) == before
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("target", ["", ".", "..", "/", "a/..", "bad\nname", "x" * 256, "nul\0"])
def test_an_output_without_a_usable_name_is_refused(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError):
        Staging.open(DISK, Path(target), PLAN)
    assert list(tmp_path.iterdir()) == []


def test_a_name_too_long_for_the_work_directory_is_a_clean_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        Staging.open(DISK, tmp_path / ("x" * 250), PLAN)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/abs", "a\\b", "C:x", "n\0l", "n\nl", "\udcff", "ingot.json"]
)
def test_a_file_name_that_is_no_plain_name_is_refused(tmp_path: Path, name: str) -> None:
    with Staging.open(DISK, tmp_path / "out", PLAN) as staging:
        with pytest.raises(OutputError):
            staging.create(name, 1)
        with pytest.raises(OutputError):
            staging.copy(name, 0)


@pytest.mark.parametrize("name", ["é", "e\u0301", "😀", "👩\u200d💻", "a b", "\u202eabc", "x" * 255])
def test_an_unusual_but_honest_file_name_makes_the_round_trip(tmp_path: Path, name: str) -> None:
    interrupted(tmp_path / "out", {name: b"1"})
    publish(tmp_path / "out", {name: b"1"})


def test_a_file_with_an_unwritten_byte_is_never_committed(tmp_path: Path) -> None:
    with Staging.open(DISK, tmp_path / "out", PLAN) as staging:
        staged = staging.create("a", 10, direct=False)
        staged.write_at(b"xxx", 0)
        staged.write_at(b"xxxxxx", 4)
        with pytest.raises(ValueError, match="byte 3 of 10"):
            staging.commit(staged, "0" * 64)
        staged.write_at(b"xx", 2)
        staging.commit(staged, "0" * 64)
        assert staging.finished["a"].nbytes == 10


def test_publish_refuses_what_was_not_accounted_for(tmp_path: Path) -> None:
    target = tmp_path / "out"
    interrupted(target, {"a": b"abc"})
    with Staging.open(DISK, target, PLAN) as staging:
        with pytest.raises(ValueError, match="neither trusted"):
            staging.publish(b"{}")
        staging.trust("a")
        open_file = staging.create("b", 1, direct=False)
        with pytest.raises(ValueError, match="still being written"):
            staging.publish(b"{}")
        open_file.write_at(b"1", 0)
        staging.commit(open_file, "0" * 64)
        (staging._work.files / "stranger").write_bytes(b"")
        with pytest.raises(OutputError, match="changed by somebody else"):
            staging.publish(b"{}")
        assert not target.exists()


def test_a_target_that_came_into_use_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with Staging.open(DISK, target, PLAN) as staging:
        staging.write("a", b"1")
        target.mkdir()
        (target / "mine").write_bytes(b"precious")
        with pytest.raises(OutputError, match="not empty"):
            staging.publish(b"{}")
    assert read_output(target) == {"mine": b"precious"}


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_modes_are_what_the_umask_says(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make(DISK, tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~umask
    for path in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path.name


@pytest.mark.parametrize("kind", ["link", "file", "fifo", "other user"])
def test_a_planted_work_directory_is_refused_and_its_aim_untouched(tmp_path: Path, kind: str) -> None:
    target, aim = tmp_path / "out", tmp_path / "aim"
    plant = tmp_path / ".out.ingot-partial-0123abcd"
    shutil.copytree(interrupted(tmp_path / "out", {"a": b"abc"}), aim)
    shutil.rmtree(work_of(target))
    if kind == "link":
        plant.symlink_to(aim)
    elif kind == "file":
        plant.write_bytes(b"")
    elif kind == "fifo":
        os.mkfifo(plant)
    else:
        if os.geteuid() != 0:
            pytest.skip("needs root to give a directory away")
        shutil.copytree(aim, plant)
        os.chown(plant, 12345, 12345)
    before = sorted(aim.rglob("*"))
    for restart in (False, True):
        with pytest.raises(OutputError):
            Staging.open(DISK, target, PLAN, restart=restart)
    assert sorted(aim.rglob("*")) == before
    assert os.path.lexists(plant)


def test_a_work_directory_with_a_stranger_in_it_is_neither_used_nor_removed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    stranger = interrupted(target, {"a": b"abc"}) / "thesis.txt"
    stranger.write_bytes(b"precious")
    for restart in (False, True):
        with pytest.raises(OutputError, match="strange"):
            Staging.open(DISK, target, PLAN, restart=restart)
    assert stranger.read_bytes() == b"precious"


def test_a_files_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    target, aim = tmp_path / "out", tmp_path / "aim"
    work = interrupted(target, {"a": b"abc"})
    (work / "files").rename(aim)
    (work / "files").symlink_to(aim)
    for restart in (False, True):
        with pytest.raises(OutputError):
            Staging.open(DISK, target, PLAN, restart=restart)
    assert (aim / "a").read_bytes() == b"abc"


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_planted_lock_is_refused(tmp_path: Path, kind: str) -> None:
    lock, aim = tmp_path / ".out.ingot-lock", tmp_path / "aim"
    aim.write_bytes(b"precious")
    if kind == "link":
        lock.symlink_to(aim)
    elif kind == "fifo":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(OutputError):
        Staging.open(DISK, tmp_path / "out", PLAN)
    assert aim.read_bytes() == b"precious"


def test_a_second_run_in_the_same_moment_is_told_the_process_of_the_first(tmp_path: Path) -> None:
    with Staging.open(DISK, tmp_path / "out", PLAN), pytest.raises(OutputError, match=f"process {os.getpid()}"):
        Staging.open(DISK, tmp_path / "out", PLAN)
    Staging.open(DISK, tmp_path / "out", PLAN).abandon()


def test_a_parent_swapped_during_the_run_is_noticed_and_nothing_is_written_through(tmp_path: Path) -> None:
    parent, elsewhere = tmp_path / "parent", tmp_path / "elsewhere"
    parent.mkdir()
    elsewhere.mkdir()
    with Staging.open(DISK, parent / "out", PLAN) as staging:
        staged = staging.create("a", 1, direct=False)
        staged.write_at(b"1", 0)
        parent.rename(tmp_path / "moved")
        parent.symlink_to(elsewhere)
        with pytest.raises(OutputError):
            staging.commit(staged, "0" * 64)
        with pytest.raises(OutputError):
            staging.create("b", 1)
        with pytest.raises(OutputError):
            staging.publish(b"{}")
    assert list(elsewhere.iterdir()) == []


def test_leftovers_of_a_run_killed_right_after_publishing_are_swept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    make(DISK, target)
    work = tmp_path / ".out.ingot-partial-00000000"
    work.mkdir()
    (work / "journal.jsonl").write_bytes(b"")
    (tmp_path / ".out.ingot-lock").write_bytes(b"1\n")
    sweep(DISK, target)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert read_output(target) == content_of("plan")


def test_sweep_leaves_an_interrupted_run_alone(tmp_path: Path) -> None:
    interrupted(tmp_path / "out", {"a": b"abc"})
    sweep(DISK, tmp_path / "out")
    publish(tmp_path / "out", {"a": b"abc"})


def test_the_places_of_two_outputs_with_like_names_are_apart(tmp_path: Path) -> None:
    interrupted(tmp_path / "out", {"a": b"abc"})
    interrupted(tmp_path / "out2", {"a": b"xyz"})
    assert len(Place.of(tmp_path / "out").found_work()) == 1
    with Staging.open(DISK, tmp_path / "out", PLAN) as staging:
        assert staging.trust("a") is not None


def test_a_mount_point_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")
    with pytest.raises(OutputError, match="mount point"):
        Staging.open(DISK, tmp_path / "out", PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent_is_a_clean_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError):
            Staging.open(DISK, tmp_path / "out", PLAN)
    finally:
        tmp_path.chmod(0o755)


def test_a_parent_that_is_a_file_is_a_clean_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for target in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        with pytest.raises(OutputError):
            Staging.open(DISK, target, PLAN)


def test_the_work_of_an_interrupted_run_can_be_discarded(tmp_path: Path) -> None:
    interrupted(tmp_path / "out", {"a": b"1"})
    discard(DISK, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
