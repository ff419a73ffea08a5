"""The index is a cache: it answers like the records, whatever became of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ingot.errors import CheckFailed
from ingot.registry.entry import Facts
from ingot.registry.index import Index
from tests.registry.conftest import Library


@pytest.fixture
def facts(made_library: Library) -> Facts:
    return made_library.entry("support-v1").facts


def test_a_record_is_read_once_and_again_when_its_stamp_is_another(tmp_path: Path, facts: Facts) -> None:
    asked: list[str] = []

    def read(path: str) -> Facts:
        asked.append(path)
        return facts

    for stamps, expected in (({"a": "1"}, ["a"]), ({"a": "1"}, []), ({"a": "2", "b": "1"}, ["a", "b"]), ({}, [])):
        asked.clear()
        with Index.open(tmp_path / "index.sqlite") as index:
            assert index.sync(stamps, read) == dict.fromkeys(stamps, facts)
        assert asked == expected


def test_a_fault_is_remembered_too(tmp_path: Path, facts: Facts) -> None:
    def fail(_: str) -> Facts:
        raise CheckFailed("it is damaged")

    for read in (fail, lambda _: facts):
        with Index.open(tmp_path / "index.sqlite") as index:
            assert index.sync({"a": "1"}, read) == {"a": "it is damaged"}


def test_another_process_with_an_older_view_takes_nothing_from_the_answer(tmp_path: Path, facts: Facts) -> None:
    with Index.open(tmp_path / "index.sqlite") as one, Index.open(tmp_path / "index.sqlite") as other:
        assert set(one.sync({"a": "1", "new": "1"}, lambda _: facts)) == {"a", "new"}
        assert set(other.sync({"a": "1"}, lambda _: facts)) == {"a"}
        assert set(one.sync({"a": "1", "new": "1"}, lambda _: facts)) == {"a", "new"}


def test_a_value_that_changed_is_noticed(tmp_path: Path, facts: Facts) -> None:
    path = tmp_path / "index.sqlite"
    with Index.open(path) as index:
        index.sync({"a": "1"}, lambda _: facts)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE records SET facts = replace(facts, 'support', 'sabotage')")
    connection.close()
    with Index.open(path) as index, pytest.raises(sqlite3.DatabaseError, match="damaged"):
        index.sync({"a": "1"}, lambda _: facts)
    with Index.open_anew(path) as index:
        assert index.sync({"a": "1"}, lambda _: facts) == {"a": facts}


@pytest.mark.parametrize("data", [b"", b"no database at all", bytes(4096), b"SQLite format 3\0" + bytes(84)])
def test_what_is_no_index_is_made_one(tmp_path: Path, facts: Facts, data: bytes) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(data)
    with Index.open(path) as index:
        assert index.sync({"a": "1"}, lambda _: facts) == {"a": facts}
    with Index.open(path) as index:
        assert index.sync({"a": "1"}, lambda path: pytest.fail(path)) == {"a": facts}


def test_where_none_can_be_written_one_in_memory_does(tmp_path: Path, facts: Facts) -> None:
    (tmp_path / "index.sqlite").mkdir()
    with Index.open(tmp_path / "index.sqlite") as index:
        assert index.sync({"a": "1"}, lambda _: facts) == {"a": facts}
    with Index.open(tmp_path / "nowhere" / "index.sqlite") as index:
        assert index.sync({"a": "1"}, lambda _: facts) == {"a": facts}
    assert not (tmp_path / "nowhere").exists()
