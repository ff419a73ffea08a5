"""index.sqlite: what stands in the records, where it can be found fast. A cache in every sense.

Every record that was read is kept in brief, with the file's stamp (length, times, inode); a file with another stamp is
read again. So the index needs no telling: whoever changes a record, with ingot or without, the next look sees it. A
database that is missing, damaged or of another version is made anew; where none can be written, one in memory does.

    records    path, stamp, facts (JSON, see `entry.Facts`) or fault
    artifacts  identity, title, version, format, base, made_on, nbytes      for people with a SQL prompt
    files      identity, role, name, nbytes, sha256                         from a digest to all that has it

Source of the pragmas: sqlite.org. WAL is left out on purpose: it does not work on network file systems.
"""

from __future__ import annotations

import contextlib
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

_VERSION = 1
_WAIT_SECONDS = 60.0
_SCHEMA = """
CREATE TABLE records (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, identity TEXT, facts BLOB, fault TEXT);
CREATE TABLE artifacts (identity TEXT PRIMARY KEY, title TEXT, version TEXT, format TEXT, base TEXT, made_on TEXT,
                        nbytes INTEGER);
CREATE TABLE files (identity TEXT, role TEXT, name TEXT, nbytes INTEGER, sha256 TEXT,
                    PRIMARY KEY (identity, role, name));
CREATE INDEX files_by_digest ON files (sha256);
"""
_NAMES = ("records", "artifacts", "files", "files_by_digest")


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

        Raises sqlite3.DatabaseError where the database is damaged under us.
        """
        if self._known() != stamps:  # looked at without the lock first, so that readers do not wait for each other
            with self._transaction():
                known = self._known()
                for path in known.keys() - stamps.keys():
                    self._connection.execute("DELETE FROM records WHERE path = ?", (path,))
                for path in (path for path, stamp in stamps.items() if known.get(path) != stamp):
                    self._put(path, stamps[path], read)
                self._fill_tables()
        rows = self._connection.execute("SELECT path, facts, fault FROM records").fetchall()
        return {path: fault if facts is None else msgspec.json.decode(facts, type=Facts) for path, facts, fault in rows}

    def with_digest(self, prefix: str) -> list[tuple[str, str, str, str]]:
        """(identity, role, name, sha256) of every file whose digest begins with `prefix`, a hexadecimal number."""
        rows = self._connection.execute(
            "SELECT identity, role, name, sha256 FROM files WHERE sha256 >= ? AND sha256 < ? ORDER BY 1, 2, 3",
            (prefix, prefix + "g"),
        )  # fmt: skip
        return rows.fetchall()

    def _known(self) -> dict[str, str]:
        return dict(self._connection.execute("SELECT path, stamp FROM records"))

    def _put(self, path: str, stamp: str, read: Callable[[str], Facts]) -> None:
        facts: Facts | None = None
        fault = None
        try:
            facts = read(path)
        except IngotError as error:
            fault = error.message
        self._connection.execute(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)",
            (path, stamp, facts and facts.identity, facts and msgspec.json.encode(facts), fault),
        )

    def _fill_tables(self) -> None:
        """The two tables that follow from the first."""
        run = self._connection.execute
        run("DELETE FROM artifacts")
        run("DELETE FROM files")
        for (data,) in run("SELECT facts FROM records WHERE facts IS NOT NULL").fetchall():
            facts = msgspec.json.decode(data, type=Facts)
            run("INSERT OR REPLACE INTO artifacts VALUES (?, ?, ?, ?, ?, ?, ?)", (
                facts.identity, facts.title, facts.version, facts.format, facts.base, facts.made_on, facts.nbytes,
            ))  # fmt: skip
            self._connection.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                [(facts.identity, file.role, file.name, file.nbytes, file.sha256) for file in facts.files],
            )

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
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:  # else another process has made it just now
            connection.execute("ROLLBACK")
            raise sqlite3.DatabaseError("the index is of another version")
        connection.execute("COMMIT")
    (tables,) = connection.execute(f"SELECT count(*) FROM sqlite_master WHERE name IN {_NAMES}").fetchone()
    if tables != len(_NAMES):
        raise sqlite3.DatabaseError("the index has lost a table")
    (sound,) = connection.execute("PRAGMA quick_check").fetchone()
    if sound != "ok":
        raise sqlite3.DatabaseError(f"the index is damaged: {sound}")
    return connection


def _forget(path: Path) -> None:
    """Remove a damaged database: all of it stands elsewhere. Its journal goes first, or it would be played back."""
    for suffix in ("-journal", "-wal", "-shm", ""):
        with contextlib.suppress(OSError):
            os.unlink(f"{path}{suffix}")
