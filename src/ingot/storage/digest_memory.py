"""Remembers the sha256 of big input files from run to run, so that an unchanged base is hashed once.

A digest is remembered for (real path, device, inode, length, mtime, ctime). Two rules keep it honest: the file's
status is the same after hashing as when it was opened, and both times are at least two seconds older than the opening
(git's racy rule: within one clock tick, a second write leaves no trace; file systems with two-second ticks exist).

What is kept is a cache in every sense: lines check themselves, bad ones are ignored, and no failure of it is an error.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from ingot.errors import InputChangedError
from ingot.formats import strict_json
from ingot.storage import lines
from ingot.storage.inputs import InputFile

RACY_NS = 2_000_000_000
_FILE_NAME = "digests.jsonl"
#: Above this the file is written anew with its latest entries; about 5,000 lines.
_COMPACT_FROM_NBYTES = 1 << 20
_KEPT_ENTRIES = 2_000


def cache_directory() -> Path | None:
    """$INGOT_CACHE, else ingot/ in $XDG_CACHE_HOME or ~/.cache; None where there is no home."""
    own = os.environ.get("INGOT_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The XDG specification has relative paths ignored.
        return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "ingot"
    except RuntimeError:
        return None


class DigestMemory:
    """The digests in one directory. Any number of processes may use it at once."""

    def __init__(self, directory: Path | None = None) -> None:
        """`directory` None means `cache_directory()`."""
        self._directory = directory or cache_directory()

    def sha256(self, file: InputFile) -> str:
        """The digest of `file`: by its name in the Hub's cache, else remembered, else computed and remembered.

        Raises InputChangedError, and what reading `file` raises.
        """
        return file.known_sha256 or self.recall(file) or self._compute(file)

    def recall(self, file: InputFile) -> str | None:
        """The remembered digest, or None; reads nothing of `file` but its status."""
        try:
            file.check_unchanged()
            return self._load().get(_key(file))
        except (OSError, InputChangedError):
            return None

    def remember(self, file: InputFile, sha256: str) -> None:
        """Keep a digest computed since `file` was opened; does nothing where the rules or the disk say no."""
        status = os.fstat(file.fd)
        settled = max(status.st_mtime_ns, status.st_ctime_ns) <= file.opened_ns - RACY_NS
        if self._directory is None or not settled or status.st_ctime_ns != file.ctime_ns:
            return
        line = lines.encode({"file": _key(file), "sha256": sha256})
        try:
            file.check_unchanged()
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._add(self._directory / _FILE_NAME, line)
        except (OSError, InputChangedError):
            return

    def _compute(self, file: InputFile) -> str:
        digest = file.sha256()
        self.remember(file, digest)
        return digest

    def _load(self) -> dict[str, str]:
        """Digests by key; the latest of each."""
        if self._directory is None:
            return {}
        path = self._directory / _FILE_NAME
        status = path.stat()
        return _read(path, status.st_ino, status.st_size, status.st_mtime_ns)

    def _add(self, path: Path, line: bytes) -> None:
        """One write in append mode, so that lines of two processes do not mix; where they do, both are ignored."""
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
            nbytes = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if nbytes > _COMPACT_FROM_NBYTES:
            self._compact(path)

    def _compact(self, path: Path) -> None:
        """Write the latest entries anew. A line that another process adds meanwhile may be lost, as a cache may."""
        kept = list(self._load().items())[-_KEPT_ENTRIES:]
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_bytes(b"".join(lines.encode({"file": key, "sha256": sha256}) for key, sha256 in kept))
        os.replace(fresh, path)


@lru_cache(maxsize=4)
def _read(path: Path, _inode: int, _nbytes: int, _mtime_ns: int) -> dict[str, str]:
    """What the file says. Each of its states is taken apart once: there may be thousands of lines."""
    entries = (lines.decode(line) for line in path.read_bytes().splitlines(keepends=True))
    known = [entry for entry in entries if entry is not None]
    return {str(entry["file"]): str(entry["sha256"]) for entry in known if {*entry} == {"file", "sha256"}}


def _key(file: InputFile) -> str:
    """What a digest is remembered for, itself digested, so that the cache holds no path."""
    seen = file.identity
    parts = [os.fsencode(file.real).hex(), seen.device, seen.inode, seen.nbytes, seen.mtime_ns, file.ctime_ns]
    return hashlib.sha256(strict_json.dumps_canonical(parts)).hexdigest()
