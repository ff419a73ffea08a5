"""Copying a file whose bytes do not change, the cheapest way that the file system offers."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
from typing import Literal

from ingot.errors import InputChangedError
from ingot.storage import kernel
from ingot.storage.write_behind import WriteBehind

CopyMethod = Literal["reflink", "copy_file_range", "read_write"]

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_PIECE_NBYTES = 8 << 20
_NO_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


def copy_contents(source: int, target: int, nbytes: int) -> CopyMethod:
    """Copy bytes [0, nbytes) of `source` into the empty `target`; says which way it went.

    A reflink shares the blocks (btrfs, XFS, bcachefs) and takes no time; copy_file_range keeps the bytes in the
    kernel or on the file server. Raises OSError; InputChangedError when the source is shorter.
    """
    if _reflink(source, target):
        return "reflink"
    kernel.preallocate(target, nbytes)
    behind = WriteBehind(target)
    done = _copy_in_kernel(source, target, nbytes, behind)
    if done == nbytes and nbytes:
        return "copy_file_range"
    _copy_by_hand(source, target, done, nbytes, behind)
    return "read_write"


def _reflink(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _copy_in_kernel(source: int, target: int, nbytes: int, behind: WriteBehind) -> int:
    """How many bytes copy_file_range(2) took over before it refused, or met the end of the source."""
    done = 0
    while done < nbytes and hasattr(os, "copy_file_range"):
        try:
            count = os.copy_file_range(source, target, min(nbytes - done, _PIECE_NBYTES), done, done)
        except OSError as error:
            if error.errno in _NO_RANGE:
                break
            raise
        if count == 0:
            break
        behind.add(done, count)
        done += count
    return done


def _copy_by_hand(source: int, target: int, begin: int, nbytes: int, behind: WriteBehind) -> None:
    buffer = memoryview(mmap.mmap(-1, _PIECE_NBYTES))
    while begin < nbytes:
        count = kernel.read_some(source, buffer[: nbytes - begin], begin)
        if count == 0:
            raise InputChangedError("the file became shorter while it was copied", expected=nbytes, found=begin)
        written = 0
        while written < count:
            written += os.pwrite(target, buffer[written:count], begin + written)
        behind.add(begin, count)
        begin += count
