"""Calls that differ between Linux, macOS and file systems. Where one is missing, the slow way is taken."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from contextlib import suppress
from functools import cache
from typing import Any

_O_DIRECT = getattr(os, "O_DIRECT", 0)
_F_FULLFSYNC = getattr(fcntl, "F_FULLFSYNC", None)
#: From glibc's malloc.h: blocks from this size on are mapped by themselves.
_M_MMAP_THRESHOLD = -3


def set_direct(fd: int, on: bool) -> bool:
    """Turn O_DIRECT on or off; returns whether it is on afterwards. Linux only."""
    if not _O_DIRECT:
        return False
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | _O_DIRECT if on else flags & ~_O_DIRECT)
    except OSError:
        return False
    return on


def preallocate(fd: int, nbytes: int) -> None:
    """Reserve `nbytes` of disk, so that a full disk shows before the first byte. Raises OSError when there is no room.

    fallocate(2) is called itself: posix_fallocate(3) of glibc writes to every block where the file system cannot.
    """
    call = _libc("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while nbytes and call is not None and call(fd, 0, 0, nbytes) != 0:
        if ctypes.get_errno() != errno.EINTR:
            _raise_disk_error()
            return


def start_writeout(fd: int, offset: int, nbytes: int) -> None:
    """Have the kernel begin to write the range to the disk. Raises OSError. Linux only."""
    _sync_file_range(fd, offset, nbytes, 2)


def finish_writeout(fd: int, offset: int, nbytes: int) -> None:
    """Wait until the range is written. Raises OSError. Linux only; durable it is not, the disk has a cache."""
    _sync_file_range(fd, offset, nbytes, 1 | 2 | 4)


def _sync_file_range(fd: int, offset: int, nbytes: int, flags: int) -> None:
    call = _libc("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    if call is not None and call(fd, offset, nbytes, flags) != 0:
        # subtle: an error told here is not told again by fsync, so it must not be lost.
        _raise_disk_error()


def _raise_disk_error() -> None:
    """Raise what the last call met, unless it only says that it is not offered here."""
    code = ctypes.get_errno()
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        raise OSError(code, os.strerror(code))


def give_back_freed_blocks(nbytes: int = 1 << 18) -> None:
    """Have glibc return blocks of `nbytes` and more to the system when they are freed.

    It would keep them for later, in an arena a thread, and the peak would grow with the number of threads (measured: by
    50 MB in a merge at rank 64, by 250 MB where a model's layers are streamed). Elsewhere than on glibc this does
    nothing.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, nbytes)


@cache
def _libc(name: str, *arguments: Any) -> Any:
    """A function of the C library that Python does not offer; None off Linux and where it is missing."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, f"{name}64", None) or getattr(libc, name, None)
    if call is not None:
        call.argtypes = arguments
    return call


def full_sync(fd: int) -> None:
    """fsync(2); on macOS F_FULLFSYNC, because fsync there stops at the drive's cache. Raises OSError."""
    if _F_FULLFSYNC is not None:
        try:
            fcntl.fcntl(fd, _F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
    os.fsync(fd)


def drop_pages(fd: int, offset: int, nbytes: int) -> None:
    """Forget the range's clean pages."""
    _advise(fd, offset, nbytes, "POSIX_FADV_DONTNEED")


def sequential(fd: int) -> None:
    """The file will be read from start to end: double the readahead."""
    _advise(fd, 0, 0, "POSIX_FADV_SEQUENTIAL")


def will_need(fd: int, offset: int, nbytes: int) -> None:
    """Start reading the range now."""
    _advise(fd, offset, nbytes, "POSIX_FADV_WILLNEED")


def _advise(fd: int, offset: int, nbytes: int, advice: str) -> None:
    if hasattr(os, "posix_fadvise") and hasattr(os, advice):
        with suppress(OSError):
            os.posix_fadvise(fd, offset, nbytes, getattr(os, advice))


def read_some(fd: int, room: memoryview, offset: int) -> int:
    """Read at `offset` into `room`, at most len(room) bytes; 0 at the end of the file. Raises OSError."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [room], offset)
    piece = os.pread(fd, len(room), offset)
    room[: len(piece)] = piece
    return len(piece)
