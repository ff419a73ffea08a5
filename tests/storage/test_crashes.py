"""Every crash point of a commit, with every fate of what was not synced: the output is whole or absent, and the same
command finishes it to the same bytes."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.errors import IngotError, OutputError, ResourceError
from tests.storage.faulty_disk import DROPPED, FATES, GARBLED, KEPT, WHENS, Crash, Fate, FaultyDisk, When
from tests.storage.toy import content_of, make, read_output

WHOLE = content_of("plan")


@pytest.fixture
def graveyard(tmp_path: Path) -> Path:
    path = tmp_path / "graveyard"
    path.mkdir()
    return path


def count_operations(tmp_path: Path, graveyard: Path) -> int:
    disk = FaultyDisk(graveyard)
    make(disk, tmp_path / "counted" / "out")
    return len(disk.operations)


def crash_once(target: Path, disk: FaultyDisk) -> None:
    """Run until the crash; afterwards a reader sees nothing, the empty directory that was there, or all of it."""
    try:
        make(disk, target)
    except Crash:
        pass
    else:
        assert not disk.crashed, "a crash was swallowed"
    assert read_output(target) in (None, WHOLE)


def finish(target: Path, graveyard: Path) -> None:
    make(FaultyDisk(graveyard), target)
    assert read_output(target) == WHOLE
    assert [path.name for path in target.parent.iterdir()] == [target.name], "something was left behind"


@pytest.mark.parametrize("fate", FATES, ids=lambda fate: f"{fate.bytes}-{fate.names}-{fate.seed}")
@pytest.mark.parametrize("when", WHENS)
def test_a_crash_at_every_operation_is_resumed_to_the_same_bytes(
    tmp_path: Path, graveyard: Path, when: When, fate: Fate
) -> None:
    total = count_operations(tmp_path, graveyard)
    assert total > 40
    for n in range(total):
        target = tmp_path / f"{n}" / "out"
        crash_once(target, FaultyDisk(graveyard, crash_at=n, when=when, fate=fate))
        finish(target, graveyard)


@pytest.mark.parametrize("fate", [DROPPED, GARBLED], ids=["dropped", "garbled"])
def test_a_crash_of_the_resumed_run_too_is_resumed(tmp_path: Path, graveyard: Path, fate: Fate) -> None:
    total = count_operations(tmp_path, graveyard)
    for first in range(0, total, 3):
        for second in range(0, total, 4):
            target = tmp_path / f"{first}-{second}" / "out"
            crash_once(target, FaultyDisk(graveyard, crash_at=first, when="after", fate=fate))
            crash_once(target, FaultyDisk(graveyard, crash_at=second, when="during", fate=fate))
            finish(target, graveyard)


def test_what_publish_has_given_its_name_survives_a_power_loss_right_after(tmp_path: Path, graveyard: Path) -> None:
    for fate in FATES:
        target = tmp_path / f"{fate}" / "out"
        disk = FaultyDisk(graveyard, fate=fate)
        make(disk, target)
        disk.power_off()
        assert read_output(target) == WHOLE


def test_a_missing_sync_would_be_seen_by_the_sweep(tmp_path: Path, graveyard: Path) -> None:
    """The instrument is checked too: with one kind of sync taken out, some crash point must show damage."""
    for kind in ("sync_file", "sync_directory"):
        assert any(not survives_without(kind, fate, tmp_path / kind / str(i), graveyard)
                   for i, fate in enumerate(FATES)), kind  # fmt: skip


def survives_without(kind: str, fate: Fate, folder: Path, graveyard: Path) -> bool:
    disk = FaultyDisk(graveyard, fate=fate)
    honest = disk._operate

    def lying(name: str, path: Path, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        return honest(name, path, (lambda: None) if name == kind else act, half)

    disk._operate = lying  # type: ignore[method-assign,assignment]
    make(disk, folder / "out")
    disk.power_off()
    return read_output(folder / "out") == WHOLE


def error_of(disk: FaultyDisk, target: Path) -> IngotError | None:
    try:
        make(disk, target)
    except IngotError as error:
        return error
    return None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS])
def test_an_error_of_every_operation_is_told_and_the_rerun_is_whole(tmp_path: Path, graveyard: Path, code: int) -> None:
    total = count_operations(tmp_path, graveyard)
    expected = ResourceError if code in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else OutputError
    for n in range(total):
        target = tmp_path / f"{n}" / "out"
        disk = FaultyDisk(graveyard, fail_at=n, fail_errno=code)
        told = error_of(disk, target)
        # Only the tidying after publication may fail in silence.
        assert isinstance(told, expected) or read_output(target) == WHOLE
        assert read_output(target) in (None, WHOLE)
        finish(target, graveyard)


def test_an_error_of_every_operation_leaves_no_descriptor_open(tmp_path: Path, graveyard: Path) -> None:
    for n in range(count_operations(tmp_path, graveyard)):
        disk = FaultyDisk(graveyard, fail_at=n)
        error_of(disk, tmp_path / f"{n}" / "out")
        # subtle: a refused `create` has left no file here; what is here was given out, and must have come back
        left = [file.path.name for file in disk._files if file.inner._fd >= 0]  # type: ignore[attr-defined]
        assert left == [], disk.operations[n]


def test_an_empty_directory_with_the_outputs_name_is_replaced_at_every_crash_point(
    tmp_path: Path, graveyard: Path
) -> None:
    total = count_operations(tmp_path, graveyard)
    for n in range(total):
        for fate in (KEPT, DROPPED):
            target = tmp_path / f"{n}-{fate.bytes}" / "out"
            target.mkdir(parents=True)
            disk = FaultyDisk(graveyard, crash_at=n, when="after", fate=fate)
            try:
                make(disk, target)
            except Crash:
                assert read_output(target) in ({}, WHOLE)
            finish(target, graveyard)


def test_the_syncs_are_exactly_those_that_the_protocol_names(tmp_path: Path, graveyard: Path) -> None:
    fresh = FaultyDisk(graveyard)
    make(fresh, tmp_path / "out")
    files = len(WHOLE) - 1
    assert fresh.counts["sync_file"] == 1 + 2 * files + 1
    assert fresh.counts["sync_directory"] == 2 + files + 2

    (tmp_path / "resumed").mkdir()
    crashed = FaultyDisk(graveyard, crash_at=len(fresh.operations) - 12, when="before")
    crash_once(tmp_path / "resumed" / "out", crashed)
    resumed = FaultyDisk(graveyard)
    make(resumed, tmp_path / "resumed" / "out")
    assert resumed.counts["create"] == 1, "all files were finished: only the record is written"
    assert resumed.counts["sync_file"] == 1
    assert resumed.counts["sync_directory"] == 2
