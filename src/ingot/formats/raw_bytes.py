"""Bytes at an offset of an open file, exactly as many as asked for, and the look-alike that is no model at all."""

from __future__ import annotations

import os
import stat

from ingot.errors import IngotError, UnsafeInputError

_LFS_PREFIX = b"version https://git-lfs.github.com/spec/"


def file_nbytes(fd: int, *, file: str) -> int:
    """Size of the regular file behind `fd`.

    Raises:
        UnsafeInputError: `fd` is a directory, a pipe, a device.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeInputError("not a regular file", where=file)
    return status.st_size


def read_exactly(fd: int, begin: int, end: int, *, file: str, incomplete: type[IngotError]) -> bytes:
    """file[begin, end) of the open file; the file position is neither used nor moved.

    Raises:
        incomplete: the file ends before `end`, or the disk cannot read it.
    """
    parts: list[bytes] = []
    while begin < end:
        try:
            part = os.pread(fd, end - begin, begin)
        except OSError as error:
            raise incomplete("file cannot be read", where=file, found=error.strerror) from error
        if not part:
            raise incomplete("file ends too early", where=file, expected=f"{end} bytes", found=f"{begin} bytes")
        parts.append(part)
        begin += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def refuse_lfs_pointer(prefix: bytes, *, file: str, incomplete: type[IngotError]) -> None:
    """Refuse the few lines of text that git leaves in place of a large file; `prefix` is how the file begins.

    Source: git-lfs, docs/spec.md, "The Pointer".
    """
    if _LFS_PREFIX.startswith(prefix[: len(_LFS_PREFIX)]) and len(prefix) >= len(b"version "):
        raise incomplete(
            "file is a git-lfs pointer, the weights themselves were never downloaded",
            where=file,
            hint="Run `git lfs pull` in the directory that holds it.",
        )
