"""Tags: the latest line counts, none is ever lost, and damage is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingot.errors import ResourceError, UsageError
from ingot.registry.tags import append_tags, check_tag, read_tags
from ingot.storage import PosixDisk
from tests.registry.conftest import Library
from tests.storage.faulty_disk import FATES, WHENS, Crash, Fate, FaultyDisk, When

DISK = PosixDisk()
ONE, TWO = "1" * 64, "2" * 64


@pytest.mark.parametrize("name", ["champion", "prod/eu", "v4", "a.b_c-d", "0", "x" * 64])
def test_names(name: str) -> None:
    check_tag(name)


@pytest.mark.parametrize("name", ["", " ", "-x", "/x", ".x", "a b", "a\n", "ä", "x" * 65, "a\0", "a:b", "a\x1b[31m"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match="no name for a tag"):
        check_tag(name)


def test_the_latest_counts_and_history_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tags.jsonl"
    assert read_tags(path).history == ()
    append_tags(DISK, path, [("champion", ONE), ("old", ONE)])
    append_tags(DISK, path, [("champion", TWO), ("old", None)])
    tags = read_tags(path)
    assert tags.current == {"champion": TWO}
    told = [(one.tag, one.identity) for one in tags.history]
    assert told == [("champion", ONE), ("old", ONE), ("champion", TWO), ("old", None)]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_without_an_end_is_cut_off_by_the_next(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "tags.jsonl"
    append_tags(DISK, path, [("champion", ONE)])
    append_tags(DISK, path, [("champion", TWO)])
    path.write_bytes(path.read_bytes()[:-cut])
    assert (read_tags(path).current, read_tags(path).damaged) == ({"champion": ONE}, ())
    append_tags(DISK, path, [("next", TWO)])
    assert read_tags(path).current == {"champion": ONE, "next": TWO}


def test_a_changed_bit_in_any_byte_of_a_line_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tags.jsonl"
    append_tags(DISK, path, [("champion", ONE)])
    append_tags(DISK, path, [("second", TWO)])
    good = path.read_bytes()
    for at in range(good.index(b"\n") + 1):
        data = bytearray(good)
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        tags = read_tags(path)
        assert tags.damaged, at
        assert "champion" not in tags.current
    for line in good.splitlines():
        json.loads(line)


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("when", WHENS)
def test_a_crash_leaves_the_old_tags_or_the_new(tmp_path: Path, when: When, fate: Fate) -> None:
    path, grave = tmp_path / "tags.jsonl", tmp_path / "grave"
    grave.mkdir()
    for number in range(6):
        path.unlink(missing_ok=True)
        append_tags(DISK, path, [("champion", ONE)])
        with pytest.raises(Crash):
            append_tags(FaultyDisk(grave, crash_at=number, when=when, fate=fate), path, [("champion", TWO)])
        tags = read_tags(path)
        assert (tags.current["champion"] in (ONE, TWO), tags.damaged) == (True, ())
        append_tags(DISK, path, [("next", TWO)])
        assert read_tags(path).current["next"] == TWO


def test_a_full_disk_leaves_them_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "tags.jsonl"
    append_tags(DISK, path, [("champion", ONE)])
    for number in range(4):
        with pytest.raises(ResourceError):
            append_tags(FaultyDisk(tmp_path, fail_at=number), path, [("champion", TWO)])
        assert read_tags(path).current == {"champion": ONE}


def test_taggings_of_one_command_count_one_after_the_other(library: Library) -> None:
    library.registry.tag([("champion", ONE)])
    library.registry.tag([("champion", TWO), ("champion", ONE), ("gone", ONE), ("gone", None)])
    assert library.registry.tags().current == {"champion": ONE}
    before = library.registry.tags().history
    library.registry.tag([("champion", ONE)])
    assert library.registry.tags().history == before
