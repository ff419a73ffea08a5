"""The port through which everything is written, and its implementation on a POSIX file system.

The port is small so that a test can stand in for it and die before, in or after each single operation. It has no
reads: what is on the disk is read from the disk. Every OSError leaves as an error of `os_errors`.

None of these calls is durable by itself. Bytes are durable after `OutputFile.sync`, names after `sync_directory` of
the directory that holds them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ingot.storage import copying, kernel
from ingot.storage.copying import CopyMethod
from ingot.storage.lock import PosixLock
from ingot.storage.os_errors import free_nbytes, output_fault
from ingot.storage.write_behind import WriteBehind

#: O_DIRECT wants offsets, lengths and addresses in multiples of this: the logical block of every common disk.
DIRECT_ALIGNMENT = 4096

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REOPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MODE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class OutputFile(Protocol):
    """A file being written. `write_at` may be called from several threads at once; the others from one."""

    @property
    def direct(self) -> bool:
        """Whether writes bypass the page cache now; can turn false at any write, never true."""

    def write_at(self, data: memoryview | bytes | bytearray, offset: int) -> None:
        """Write all of `data` at byte `offset`. When `direct`: address, offset and length in DIRECT_ALIGNMENT."""

    def truncate(self, nbytes: int) -> None:
        """Cut, or extend with zeros, to `nbytes`."""

    def sync(self) -> None:
        """Make bytes and length durable. After a failure the file's content is unknown for ever."""

    def close(self) -> None:
        """Give the descriptor back; idempotent; makes nothing durable."""


class Lock(Protocol):
    """One run at a time for one output; see `lock.PosixLock`."""

    def release(self) -> None:
        """Let the next run in; idempotent."""


class Disk(Protocol):
    """Everything that changes a file system. Raises ResourceError and OutputError only."""

    def make_directory(self, path: Path, mode: int) -> None:
        """mkdir(2) with `mode & ~umask`; refuses an existing name."""

    def create(self, path: Path, *, nbytes: int, direct: bool) -> OutputFile:
        """A new file of mode 0666 & ~umask with room reserved for `nbytes`; refuses an existing name, even a link."""

    def clone(self, path: Path, source: int) -> tuple[OutputFile, CopyMethod]:
        """A new file with all bytes of descriptor `source`, sharing its blocks where the file system can."""

    def reopen(self, path: Path) -> OutputFile:
        """An existing regular file, to write on in it."""

    def rename(self, source: Path, target: Path) -> None:
        """rename(2): atomic; replaces a file, and a directory only by a directory when empty."""

    def link(self, path: Path, target: Path) -> None:
        """A symbolic link `path` to `target`; refuses an existing name."""

    def set_mode(self, path: Path, mode: int) -> None:
        """chmod(2) of a file or directory that is no link."""

    def remove(self, path: Path) -> None:
        """Remove a file or a link."""

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""

    def sync_directory(self, path: Path) -> None:
        """Make the names in directory `path` durable."""

    def free_nbytes(self, path: Path) -> int:
        """Bytes that this user may still write on the file system of the existing `path`."""

    def lock(self, path: Path) -> Lock:
        """Take the lock file `path`, or raise OutputError at once when another run has it."""


class PosixDisk:
    """The real disk: Linux, and macOS with buffered writes."""

    def make_directory(self, path: Path, mode: int) -> None:
        with _as_output_fault(path):
            os.mkdir(path, mode)

    def create(self, path: Path, *, nbytes: int, direct: bool) -> OutputFile:
        with _as_output_fault(path, needed=nbytes):
            fd = os.open(path, _CREATE, 0o666)
            try:
                # subtle: O_DIRECT is set after the open, because a file system that refuses it at open(2) with
                # O_CREAT may already have made the file.
                is_direct = direct and kernel.set_direct(fd, True)
                kernel.preallocate(fd, round_up(nbytes) if is_direct else nbytes)
            except BaseException:
                os.close(fd)
                os.unlink(path)
                raise
        return PosixOutputFile(fd, path, direct=is_direct)

    def clone(self, path: Path, source: int) -> tuple[OutputFile, CopyMethod]:
        nbytes = os.fstat(source).st_size
        with _as_output_fault(path, needed=nbytes):
            fd = os.open(path, _CREATE, 0o666)
            try:
                method = copying.copy_contents(source, fd, nbytes)
            except BaseException:
                os.close(fd)
                os.unlink(path)
                raise
        return PosixOutputFile(fd, path, direct=False), method

    def reopen(self, path: Path) -> OutputFile:
        with _as_output_fault(path):
            return PosixOutputFile(os.open(path, _REOPEN), path, direct=False)

    def rename(self, source: Path, target: Path) -> None:
        with _as_output_fault(target):
            os.rename(source, target)

    def link(self, path: Path, target: Path) -> None:
        with _as_output_fault(path):
            os.symlink(target, path)

    def set_mode(self, path: Path, mode: int) -> None:
        with _as_output_fault(path):
            # subtle: fchmod(2), for Linux has no chmod that does not follow a link
            fd = os.open(path, _MODE)
            try:
                os.fchmod(fd, mode)
            finally:
                os.close(fd)

    def remove(self, path: Path) -> None:
        with _as_output_fault(path):
            os.unlink(path)

    def remove_directory(self, path: Path) -> None:
        with _as_output_fault(path):
            os.rmdir(path)

    def sync_directory(self, path: Path) -> None:
        with _as_output_fault(path):
            fd = os.open(path, _DIRECTORY)
            try:
                kernel.full_sync(fd)
            except OSError as error:
                # Some network and FUSE file systems cannot sync a directory at all; there is nothing better to do.
                if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                    raise
            finally:
                os.close(fd)

    def free_nbytes(self, path: Path) -> int:
        with _as_output_fault(path):
            return free_nbytes(path)

    def lock(self, path: Path) -> Lock:
        return PosixLock(path)


class PosixOutputFile:
    """A file written with pwrite(2): past the page cache where the file system allows it, else by `WriteBehind`."""

    def __init__(self, fd: int, path: Path, *, direct: bool) -> None:
        self._fd = fd
        self._path = path
        self._direct = direct
        self._behind = WriteBehind(fd)

    @property
    def direct(self) -> bool:
        return self._direct

    def write_at(self, data: memoryview | bytes | bytearray, offset: int) -> None:
        view = memoryview(data).cast("B")
        with _as_output_fault(self._path, needed=len(view)):
            written = 0
            while written < len(view):
                written += self._write_some(view[written:], offset + written)
            if not self._direct:
                self._behind.add(offset, len(view))

    def _write_some(self, view: memoryview, offset: int) -> int:
        """One pwrite; a short one is continued by the caller, a refusal of direct I/O is answered by buffered I/O."""
        was_direct = self._direct
        try:
            written = os.pwrite(self._fd, view, offset)
        except OSError as error:
            if error.errno != errno.EINVAL or not was_direct:
                raise
            # subtle: the kernel's flag goes first, so that a thread that sees `direct` false is never refused.
            kernel.set_direct(self._fd, False)
            self._direct = False
            return 0
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def truncate(self, nbytes: int) -> None:
        with _as_output_fault(self._path, needed=nbytes):
            os.ftruncate(self._fd, nbytes)

    def sync(self) -> None:
        with _as_output_fault(self._path):
            kernel.full_sync(self._fd)

    def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        # NFS reports a failed write at close; after a successful sync there is nothing left to report.
        with _as_output_fault(self._path):
            os.close(fd)


def round_up(nbytes: int, alignment: int = DIRECT_ALIGNMENT) -> int:
    """The least multiple of `alignment` that is not below `nbytes`. Example: round_up(4097) -> 8192"""
    return -(-nbytes // alignment) * alignment


@contextmanager
def _as_output_fault(path: Path, *, needed: int | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_fault(error, path, needed=needed) from error
