"""Calls that differ between Linux, macOS and file systems. Where one is missing, the slow way is taken."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import sys
from contextlib import suppress
from functools import cache
from typing import Any, Literal

from ingot.errors import InputChangedError

CopyMethod = Literal["reflink", "copy_file_range", "read_write"]

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_O_DIRECT = getattr(os, "O_DIRECT", 0)
_F_FULLFSYNC = getattr(fcntl, "F_FULLFSYNC", None)
_COPY_NBYTES = 8 << 20
_RANGE_NBYTES = 1 << 30  # short enough that Ctrl-C is answered between two calls
_NO_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


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
    call = _fallocate()
    if nbytes == 0 or call is None:
        return
    while call(fd, 0, 0, nbytes) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise OSError(code, os.strerror(code))
        if code != errno.EINTR:
            return


@cache
def _fallocate() -> Any:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        call.restype = ctypes.c_int
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
    """Start writing the range out and forget its clean pages, so that dirty pages never pile up to the throttle."""
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


def copy_contents(source: int, target: int, nbytes: int) -> CopyMethod:
    """Copy bytes [0, nbytes) of `source` into the empty `target` the cheapest way there is; says which way it was.

    A reflink shares the blocks (btrfs, XFS, bcachefs) and takes no time; copy_file_range keeps the bytes in the
    kernel or on the file server. Raises OSError of the target; InputChangedError when the source is shorter.
    """
    if _reflink(source, target):
        return "reflink"
    done = _copy_in_kernel(source, target, nbytes)
    if done == nbytes and nbytes:
        return "copy_file_range"
    _copy_by_hand(source, target, done, nbytes)
    return "read_write"


def _reflink(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _copy_in_kernel(source: int, target: int, nbytes: int) -> int:
    """How many bytes copy_file_range(2) took over before it refused, or met the end of the source."""
    done = 0
    if not hasattr(os, "copy_file_range"):
        return done
    preallocate(target, nbytes)
    while done < nbytes:
        try:
            count = os.copy_file_range(source, target, min(nbytes - done, _RANGE_NBYTES), done, done)
        except OSError as error:
            if error.errno in _NO_RANGE:
                break
            raise
        if count == 0:
            break
        drop_pages(target, done, count)
        done += count
    return done


def read_some(fd: int, room: memoryview, offset: int) -> int:
    """Read at `offset` into `room`, at most len(room) bytes; 0 at the end of the file. Raises OSError."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [room], offset)
    piece = os.pread(fd, len(room), offset)
    room[: len(piece)] = piece
    return len(piece)


def _copy_by_hand(source: int, target: int, begin: int, nbytes: int) -> None:
    with mmap.mmap(-1, _COPY_NBYTES) as buffer, memoryview(buffer) as view:
        while begin < nbytes:
            with view[: nbytes - begin] as room:
                count = read_some(source, room, begin)
            if count == 0:
                raise InputChangedError("the file became shorter while it was copied", expected=nbytes, found=begin)
            written = 0
            while written < count:
                with view[written:count] as rest:
                    written += os.pwrite(target, rest, begin + written)
            drop_pages(target, begin, count)
            begin += count
