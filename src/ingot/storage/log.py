"""A file of entries that only grows, for work that is done piece by piece: what was done is found again after a kill.

The first line says what the work depends on. Lines check themselves and their order (`lines`), so a line that was torn
ends the trusted part, and the rest is cut off; a file of other work is replaced. One run at a time has it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from ingot.storage import lines
from ingot.storage.disk import Disk, Lock, OutputFile

_FORMAT = "ingot log 1"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Log:
    """An open log. A context manager. Law: `append` returns only when the entry is durable."""

    def __init__(self, file: OutputFile, lock: Lock, check: str, nbytes: int) -> None:
        """Use `open`."""
        self._file, self._lock = file, lock
        self._check, self._nbytes = check, nbytes
        self.entries: list[lines.Entry] = []

    @classmethod
    def open(cls, disk: Disk, path: Path, identity: Mapping[str, str]) -> Log:
        """The log at `path` with the entries of earlier runs on the same `identity`; a new one where there are none.

        The directory is made where it is missing, its parent is not.

        Raises:
            OutputError: another run has it, or nothing can be written there.
            ResourceError: the disk is full, or fails.
        """
        if not path.parent.is_dir():
            disk.make_directory(path.parent, 0o777)
        lock = disk.lock(path.with_name(f"{path.name}.lock"))
        try:
            first: lines.Entry = {"format": _FORMAT, "identity": dict(identity)}
            chain = list(lines.decode_chain(_read(path)))
            if not chain or chain[0][0] != first:
                return cls._begin(disk, path, lock, first)
            check = lines.START
            for entry, _ in chain:
                check = lines.check_of(entry, check)
            log = cls(disk.reopen(path), lock, check, chain[-1][1])
            log._file.truncate(log._nbytes)
            log.entries = [entry for entry, _ in chain[1:]]
            return log
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _begin(cls, disk: Disk, path: Path, lock: Lock, first: lines.Entry) -> Log:
        if os.path.lexists(path):
            disk.remove(path)
        log = cls(disk.create(path, nbytes=0, direct=False), lock, lines.START, 0)
        try:
            log._write(first)
            disk.sync_directory(path.parent)
        except BaseException:
            log._file.close()
            raise
        return log

    def append(self, entry: lines.Entry) -> None:
        """Raises ResourceError: the disk is full, or fails."""
        self._write(entry)
        self.entries.append(entry)

    def _write(self, entry: lines.Entry) -> None:
        line = lines.encode(entry, self._check)
        self._file.write_at(line, self._nbytes)
        self._file.sync()
        self._check = lines.check_of(entry, self._check)
        self._nbytes += len(line)

    def close(self) -> None:
        """Idempotent."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(path: Path) -> bytes:
    try:
        with open(os.open(path, _READ), "rb") as file:
            return file.read()
    except OSError:
        return b""  # what cannot be read is not believed; what cannot be replaced is told then
