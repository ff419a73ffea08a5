"""A log is believed as far as it is what was written for the same work, and goes on from there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.errors import OutputError
from ingot.storage.disk import PosixDisk
from ingot.storage.log import Log

IDENTITY = {"model": "m", "samples": "s"}
ENTRIES: list[dict[str, object]] = [{"first": n, "answers": ["a", "é\n"]} for n in range(3)]


def entries(path: Path, identity: dict[str, str] = IDENTITY) -> list[dict[str, object]]:
    with Log.open(PosixDisk(), path, identity) as log:
        return list(log.entries)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "work" / "answers.jsonl"
    with Log.open(PosixDisk(), path, IDENTITY) as log:
        for entry in ENTRIES:
            log.append(entry)
    return path


def test_what_was_appended_is_found_again(path: Path) -> None:
    assert entries(path) == ENTRIES
    with Log.open(PosixDisk(), path, IDENTITY) as log:
        log.append({"last": True})
    assert entries(path) == [*ENTRIES, {"last": True}]


def test_a_log_cut_anywhere_keeps_its_whole_lines_and_goes_on(path: Path) -> None:
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        kept = max(0, data[:end].count(b"\n") - 1)
        with Log.open(PosixDisk(), path, IDENTITY) as log:
            assert log.entries == ENTRIES[:kept]
            log.append({"next": end})
        assert entries(path) == [*ENTRIES[:kept], {"next": end}]


def test_a_flipped_bit_ends_the_trusted_part(path: Path) -> None:
    data = bytearray(path.read_bytes())
    second = data.index(b"\n", data.index(b"\n") + 1) + 5
    data[second] ^= 1
    path.write_bytes(data)
    assert entries(path) == ENTRIES[:1]


def test_a_log_of_other_work_is_not_used(path: Path) -> None:
    assert entries(path, {**IDENTITY, "model": "other"}) == []
    assert entries(path) == []


def test_one_run_at_a_time_has_it(path: Path) -> None:
    with Log.open(PosixDisk(), path, IDENTITY), pytest.raises(OutputError, match="another run"):
        Log.open(PosixDisk(), path, IDENTITY)
    assert entries(path) == ENTRIES


def test_a_link_is_replaced_and_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.unlink()
    path.symlink_to(victim)
    assert entries(path) == []
    assert victim.read_text() == "precious"
    assert not path.is_symlink()


def test_a_place_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Log.open(PosixDisk(), tmp_path / "file" / "log", IDENTITY)
    with pytest.raises(OutputError):
        Log.open(PosixDisk(), tmp_path / "none" / "none" / "log", IDENTITY)
