"""An advisory lock on a file: one run at a time for one output."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from ingot.errors import OutputError
from ingot.storage.os_errors import output_fault

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}


class PosixLock:
    """flock(2) on a file that exists only while it is locked; the kernel releases it when the process dies.

    Law: where flock works, at most one process holds the lock of a path. Some network file systems grant
    flock to everybody, or to nobody: there the lock is void, and the claim by rename keeps two runs apart (`claims`).
    """

    def __init__(self, path: Path) -> None:
        """Take the lock at once or raise OutputError that says who holds it."""
        self.path = path
        while True:
            self._fd = _open(path)
            try:
                _flock(self._fd, path)
            except BaseException:
                os.close(self._fd)
                raise
            if self._holds():
                break
            # subtle: the holder before us removed the file between our open and our flock; ours is a dead inode.
            os.close(self._fd)
        _write_pid(self._fd)

    def _holds(self) -> bool:
        """Whether the path still names the very file that we locked."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self.path, follow_symlinks=False))
        except OSError:
            return False

    def release(self) -> None:
        """Remove the file, then unlock it. Removing first is what `_holds` relies on. Idempotent."""
        if self._fd < 0:
            return
        try:
            if self._holds():
                os.unlink(self.path)
        except OSError:
            pass  # a lock file left behind is locked by nobody
        self.drop()

    def drop(self) -> None:
        """Unlock without touching the path, as the kernel does for a process that dies."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open(path: Path) -> int:
    try:
        fd = os.open(path, _FLAGS, 0o666)
    except OSError as error:
        raise output_fault(error, path) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OutputError("the lock is not a regular file", where=path, hint="Remove it, or choose another output.")
    return fd


def _flock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _read_pid(fd)
        who = "another run" if holder is None else f"another run (process {holder})"
        hint = "Wait for it to end, or choose another output."
        raise OutputError(f"{who} is writing this output", where=path, hint=hint) from error
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise output_fault(error, path) from error


def _read_pid(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _write_pid(fd: int) -> None:
    """Only for the message of a run that finds the lock taken, so a full disk is no reason to stop."""
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
    except OSError:
        pass
