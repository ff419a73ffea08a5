"""One table from the operating system's errors to ingot's.

    ENOSPC, EDQUOT, EFBIG          ResourceError   no room; the message says how much was needed and is free
    EIO, ENXIO, ENODEV             ResourceError   the disk itself failed: no other input or output name would help
    ENOMEM, EMFILE, ENFILE         ResourceError   the machine is at a limit
    EACCES, EPERM, EROFS           OutputError     not allowed to write there
    everything else                OutputError     the place is not usable: missing, not a directory, name too long ...

A failed fsync is final. Linux marks the dirty pages clean after reporting the error once, so a second fsync that
succeeds proves nothing: the file is given up, never synced again.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ingot.errors import IngotError, OutputError, ResourceError

_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the file system or a limit allows",
}
_DISK_FAILED = {errno.EIO, errno.ENXIO, errno.ENODEV}
_AT_A_LIMIT = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


def output_fault(error: OSError, path: Path, *, needed: int | None = None) -> IngotError:
    """`error`, met while writing `path`, as the ingot error to raise from it; `needed` is in bytes."""
    reason = (error.strerror or str(error)).lower()
    if error.errno in _NO_ROOM:
        return _no_room(error.errno, path, needed)
    if error.errno in _DISK_FAILED:
        hint = "Look at the system log for disk errors; write to another disk."
        return ResourceError(f"the disk failed ({reason})", where=path, hint=hint)
    if error.errno in _AT_A_LIMIT:
        hint = "Raise the limit (`ulimit -a` shows them) or use fewer jobs."
        return ResourceError(f"the system is at a limit ({reason})", where=path, hint=hint)
    if error.errno in _NOT_ALLOWED:
        return OutputError(f"cannot write here ({reason})", where=path, hint="Choose an output that you may write.")
    return OutputError(f"cannot write here ({reason})", where=path)


def _no_room(code: int, path: Path, needed: int | None) -> ResourceError:
    wanted = None if needed is None else f"{needed:,} bytes of room"
    try:
        found: str | None = f"{free_nbytes(path.parent):,} bytes free"
    except OSError:
        found = None
    return ResourceError(_NO_ROOM[code], where=path, expected=wanted, found=found)


def free_nbytes(path: Path) -> int:
    """Bytes that this user may still write on the file system of `path`. Raises OSError."""
    figures = os.statvfs(path)
    return figures.f_bavail * figures.f_frsize
