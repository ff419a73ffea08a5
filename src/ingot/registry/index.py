"""index.sqlite: what stands in the records, where it can be read fast. A cache in every sense.

Every record that was read is kept in brief, with the file's stamp (length, times, inode); a file with another stamp is
read again. So the index needs no telling: whoever changes a record, with ingot or without, the next look sees it. A
database that is missing, damaged or of another version is made anew; where none can be written, one in memory does.
SQLite notices damage to its own structure; each row has a digest, so that damage to what it says is noticed too.

    records    path, stamp, facts (JSON, see `entry.Facts`) or fault, sum

Source of the pragmas: sqlite.org. WAL is left out on purpose: it does not work on network file systems.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ingot.errors import IngotError
from ingot.registry.entry import Facts

_VERSION = 2
_WAIT_SECONDS = 60.0
_SCHEMA = """CREATE TABLE records (
    path TEXT PRIMARY KEY, stamp TEXT NOT NULL, facts TEXT, fault TEXT, sum TEXT NOT NULL
) WITHOUT ROWID"""
#: By path: the stamp, and the facts or why there are none.
_Rows = dict[str, tuple[str, Facts | str]]


class Index:
    """The open index. A context manager; one thread uses it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use `open`."""
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Index:
        """The index at `path`, sound and of this version. Raises no error of the database's own."""
        for _ in range(3):
            try:
                return cls(_opened(path))
            except sqlite3.OperationalError:
                break  # locked for long, or a place that cannot be written
            except sqlite3.DatabaseError:
                _forget(path)
        return cls.in_memory()

    @classmethod
    def open_anew(cls, path: Path) -> Index:
        """An empty index at `path`."""
        _forget(path)
        return cls.open(path)

    @classmethod
    def in_memory(cls, _: Path | None = None) -> Index:
        """An empty index that no other process sees."""
        return cls(_prepared(sqlite3.connect(":memory:", isolation_level=None)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def sync(self, stamps: Mapping[str, str], read: Callable[[str], Facts]) -> dict[str, Facts | str]:
        """The facts of every record in `stamps` (path: stamp), or why it has none; `read` is asked of changed ones.

        Raises sqlite3.Error where the database is damaged under us.
        """
        rows = self._rows()  # looked at without the lock first, so that readers do not wait for each other
        if not _is_of(rows, stamps):
            with self._transaction():
                rows = self._rows()
                for path in rows.keys() - stamps.keys():
                    self._connection.execute("DELETE FROM records WHERE path = ?", (path,))
                    del rows[path]
                for path, stamp in stamps.items():
                    if path not in rows or rows[path][0] != stamp:
                        rows[path] = stamp, self._put(path, stamp, read)
        return {path: said for path, (_, said) in rows.items()}

    def _rows(self) -> _Rows:
        found: _Rows = {}
        for path, stamp, facts, fault, digest in self._connection.execute("SELECT * FROM records"):
            if digest != _sum(path, stamp, facts, fault):
                raise sqlite3.DatabaseError("a row of the index is damaged")
            try:
                found[path] = stamp, fault if facts is None else msgspec.json.decode(facts, type=Facts)
            except msgspec.DecodeError as error:
                raise sqlite3.DatabaseError("a row of the index is of another version") from error
        return found

    def _put(self, path: str, stamp: str, read: Callable[[str], Facts]) -> Facts | str:
        said: Facts | str
        try:
            said = read(path)
            facts, fault = msgspec.json.encode(said).decode(), None
        except IngotError as error:
            said = error.message
            facts, fault = None, said
        row = (path, stamp, facts, fault)
        self._connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", (*row, _sum(*row)))
        return said

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _opened(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.DatabaseError where there is something that is no index of this version."""
    connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
    try:
        return _prepared(connection)
    except BaseException:
        connection.close()
        raise


def _prepared(connection: sqlite3.Connection) -> sqlite3.Connection:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != _VERSION:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:  # else another process has made it just now
            connection.execute("ROLLBACK")
            raise sqlite3.DatabaseError("the index is of another version")
        connection.execute("COMMIT")
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'records'").fetchone():
        raise sqlite3.DatabaseError("the index has lost its table")
    (sound,) = connection.execute("PRAGMA quick_check").fetchone()
    if sound != "ok":
        raise sqlite3.DatabaseError(f"the index is damaged: {sound}")
    return connection


def _forget(path: Path) -> None:
    """Remove a damaged database: all of it stands elsewhere. Its journal goes first, or it would be played back."""
    for suffix in ("-journal", "-wal", "-shm", ""):
        with contextlib.suppress(OSError):
            os.unlink(f"{path}{suffix}")


def _is_of(rows: _Rows, stamps: Mapping[str, str]) -> bool:
    return {path: stamp for path, (stamp, _) in rows.items()} == stamps


def _sum(*row: str | None) -> str:
    return hashlib.sha256(msgspec.json.encode(row)).hexdigest()
