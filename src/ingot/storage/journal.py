"""The journal of a work directory: whose work it is, then one line for each file that is durable under its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ingot.storage import lines
from ingot.storage.disk import Disk, OutputFile
from ingot.storage.names import name_fault

_FORMAT = "ingot journal 1"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Finished:
    """A file that is written, synced and named: its length, its digest, and what the caller wants to know again."""

    nbytes: int
    sha256: str
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JournalText:
    """What could be trusted of a journal file: its entries, and where the trusted part ends."""

    identity: Mapping[str, str]
    finished: Mapping[str, Finished]
    check: str
    nbytes: int


def read_journal(path: Path) -> JournalText | None:
    """`parse_journal` of the file `path`; None too when it cannot be read."""
    try:
        with open(os.open(path, _READ), "rb") as file:
            return parse_journal(file.read())
    except OSError:
        return None


def parse_journal(data: bytes) -> JournalText | None:
    """The trusted beginning of a journal; None when not even the identity line can be trusted."""
    chain = list(lines.decode_chain(data))
    identity = _identity_of(chain[0][0]) if chain else None
    if identity is None:
        return None
    finished: dict[str, Finished] = {}
    check, end = lines.check_of(chain[0][0]), chain[0][1]
    for entry, line_end in chain[1:]:
        named = _finished_of(entry)
        if named is None:
            break
        finished[named[0]] = named[1]
        check, end = lines.check_of(entry, check), line_end
    return JournalText(identity, finished, check, end)


class Journal:
    """An open journal. Law: `append` returns only when the line is durable."""

    def __init__(self, file: OutputFile, check: str, nbytes: int) -> None:
        self._file = file
        self._check = check
        self._nbytes = nbytes

    @classmethod
    def begin(cls, disk: Disk, path: Path, identity: Mapping[str, str]) -> Journal:
        """A new journal with its durable identity line; 1 file sync."""
        journal = cls(disk.create(path, nbytes=0, direct=False), lines.START, 0)
        try:
            journal._append({"format": _FORMAT, "identity": dict(identity)})
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def resume(cls, disk: Disk, path: Path, text: JournalText) -> Journal:
        """The journal at `path`, cut to its trusted part; no sync, since what is cut is not believed anyway."""
        file = disk.reopen(path)
        file.truncate(text.nbytes)
        return cls(file, text.check, text.nbytes)

    def append(self, name: str, finished: Finished) -> None:
        """Record `name` as finished; 1 file sync. A later line for the same name replaces the earlier."""
        nbytes, sha256, extra = finished.nbytes, finished.sha256, dict(finished.extra)
        self._append({"name": name, "nbytes": nbytes, "sha256": sha256, "extra": extra})

    def _append(self, entry: lines.Entry) -> None:
        line = lines.encode(entry, self._check)
        self._file.write_at(line, self._nbytes)
        self._file.sync()
        self._check = lines.check_of(entry, self._check)
        self._nbytes += len(line)

    def close(self) -> None:
        self._file.close()


def _identity_of(entry: lines.Entry) -> Mapping[str, str] | None:
    identity = entry.get("identity")
    if entry.get("format") != _FORMAT or not isinstance(identity, dict):
        return None
    return identity if all(isinstance(value, str) for value in identity.values()) else None


def _finished_of(entry: lines.Entry) -> tuple[str, Finished] | None:
    match entry:
        case {"name": str(name), "nbytes": int(nbytes), "sha256": str(sha256), "extra": dict(extra)}:
            return (name, Finished(nbytes, sha256, extra)) if name_fault(name) is None else None
    return None
