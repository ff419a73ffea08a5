"""Input files: opened once, only when they are what they seem, read through the descriptor, watched for change."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ingot.errors import IngotError, InputChangedError, UnsafeInputError
from ingot.storage import kernel
from ingot.storage.assembled import made_for
from ingot.storage.names import name_fault

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_HUB_FOLDER = re.compile(r"(models|datasets|spaces)--.+")
_HASH_NBYTES = 4 << 20
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISLNK, "a symbolic link"),
)


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What changes when a file is replaced or written to: device, inode, length in bytes, time of the last write."""

    device: int
    inode: int
    nbytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class InputFile:
    """A regular file of an input folder, open for reading. Reads may come from several threads at once.

    Law: every byte comes from the file that was opened, whatever happens to its name; `check_unchanged` tells whether
    the name still means that file and whether it was written to.
    """

    def __init__(self, path: Path, real: Path, fd: int, status: os.stat_result, error: type[IngotError]) -> None:
        """Use `open`. `path` is as asked for; `real` is where it resolved to."""
        self.path = path
        self.real = real
        self.fd = fd
        self.identity = FileIdentity.of(status)
        self.ctime_ns = status.st_ctime_ns
        self.opened_ns = time.time_ns()
        self._error = error

    @classmethod
    def open(cls, root: Path, name: str, *, error: type[IngotError]) -> InputFile:
        """Open the file `name` of the folder `root`.

        A link is followed only when it ends at a regular file inside `root`, or, where `root` is a snapshot of the
        Hub's cache (`models--*/snapshots/<commit>`), in `blobs/` of the same `models--*`. A link that `assembled`
        made ends where it was made for.

        Raises:
            error: there is no such file, or it cannot be read.
            UnsafeInputError: the name is a path; a link leads elsewhere; it is a pipe, a device, a directory. None
                of them is opened, so nothing waits.
        """
        fault = name_fault(name)
        if fault is not None:
            raise UnsafeInputError("a file name is not a plain name", where=root, expected="a plain name", found=fault)
        path = Path(root) / name
        try:
            real = _resolve(Path(root), path)
            _check_regular(os.lstat(real), path)
            fd = os.open(real, _FLAGS)
        except OSError as cause:
            reason = (cause.strerror or str(cause)).lower()
            raise error(f"cannot open a file ({reason})", where=path) from cause
        try:
            status = os.fstat(fd)
            _check_regular(status, path)
            return cls(path, real, fd, status, error)
        except BaseException:
            os.close(fd)
            raise

    @property
    def nbytes(self) -> int:
        """Length when it was opened."""
        return self.identity.nbytes

    @property
    def known_sha256(self) -> str | None:
        """The sha256 that the Hub's cache gives the file by its name in `blobs/`; claimed there, not computed here."""
        in_cache = self.real.parent.name == "blobs" and _HUB_FOLDER.fullmatch(self.real.parent.parent.name)
        return self.real.name if in_cache and _SHA256_HEX.fullmatch(self.real.name) else None

    def read_into(self, buffer: memoryview | bytearray, offset: int) -> None:
        """Fill all of `buffer` from byte `offset`.

        Raises:
            ValueError: the range was never inside the file.
            InputChangedError: the file has become shorter.
            IngotError: the `error` class of `open`: the disk cannot be read.
        """
        view = memoryview(buffer).cast("B")
        if offset < 0 or offset + len(view) > self.nbytes:
            raise ValueError(f"[{offset}, {offset + len(view)}) is not inside {self.path}, {self.nbytes} bytes")
        done = 0
        while done < len(view):
            try:
                count = kernel.read_some(self.fd, view[done:], offset + done)
            except OSError as cause:
                raise self._error(f"cannot read a file ({cause.strerror})", where=self.path) from cause
            if count == 0:
                raise InputChangedError("the file became shorter while it was read", where=self.path,
                                        expected=f"{self.nbytes} bytes", found=f"{offset + done} bytes")  # fmt: skip
            done += count

    def read(self, offset: int, nbytes: int) -> bytes:
        """Bytes [offset, offset + nbytes); raises as `read_into`."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"[{offset}, {offset + nbytes}) is not inside {self.path}, {self.nbytes} bytes")
        buffer = bytearray(nbytes)
        self.read_into(buffer, offset)
        return bytes(buffer)

    def sha256(self) -> str:
        """Digest of the whole file, read from the disk. Raises as `read_into`; InputChangedError if it grew."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(_HASH_NBYTES, self.nbytes)))
        for begin in range(0, self.nbytes, _HASH_NBYTES):
            piece = buffer[: self.nbytes - begin]
            self.read_into(piece, begin)
            digest.update(piece)
        self.check_unchanged()
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raises InputChangedError: the file was written to, or its name means another file now."""
        for subject, now in (("the file", self._stat_open()), ("its name", self._stat_path())):
            if now != self.identity:
                raise InputChangedError(f"an input changed during the run: {subject} is not as it was",
                                        where=self.path, expected=self.identity, found=now or "no file")  # fmt: skip

    def advise_sequential(self) -> None:
        """Tell the kernel that the file is read from start to end."""
        kernel.sequential(self.fd)

    def will_need(self, offset: int, nbytes: int) -> None:
        """Have the kernel read a range ahead."""
        kernel.will_need(self.fd, offset, nbytes)

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stat_open(self) -> FileIdentity:
        return FileIdentity.of(os.fstat(self.fd))

    def _stat_path(self) -> FileIdentity | None:
        try:
            return FileIdentity.of(os.stat(self.path))
        except OSError:
            return None


def _resolve(root: Path, path: Path) -> Path:
    """Where `path` really is. Raises OSError when it is nowhere, UnsafeInputError when it is elsewhere."""
    real_root = Path(os.path.realpath(root, strict=True))
    try:
        real = Path(os.path.realpath(path, strict=True))
    except OSError as cause:
        if not path.is_symlink():
            raise
        raise UnsafeInputError("a link leads nowhere", where=path, found=os.readlink(path)) from cause
    blobs = _hub_blobs(real_root)
    if made_for(real_root / path.name) == real:
        return real
    if real.is_relative_to(real_root) or (blobs is not None and real.parent == blobs):
        return real
    raise UnsafeInputError("a link leads out of its folder", where=path, expected=f"inside {real_root}", found=real)


def _hub_blobs(real_root: Path) -> Path | None:
    """`models--x/blobs` when `real_root` is `models--x/snapshots/<commit>` or a folder in it."""
    for folder in (real_root, *real_root.parents):
        if folder.parent.name == "snapshots" and _HUB_FOLDER.fullmatch(folder.parent.parent.name):
            return folder.parent.parent / "blobs"
    return None


def _check_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = next((name for test, name in _KINDS if test(status.st_mode)), "something else")
    raise UnsafeInputError("an input is not a regular file", where=path, expected="a regular file", found=kind)
