"""A disk that dies, fails and loses what was not synced: the port of `ingot.storage.disk` on a real directory.

Every call of the port is one operation; a `FaultyDisk` counts them, and at the chosen one

    crash_at=n   raises Crash before, during (half a write) or after operation n, having decided the fate of all that
                 was not durable; every later operation raises Crash again, as a dead process does nothing more
    fail_at=n    lets operation n fail with an errno, a write after half of its bytes (a short write, then the error)

Power loss is modelled harder than any common file system behaves. Bytes are durable after `sync` of their file only,
names after `sync_directory` of the directory that holds the new name only. What is not durable at a crash meets a Fate:

    bytes   kept | dropped (content and length of the last sync) | zeroed | garbled | mixed (each sector its own)
    names   kept | undone (created and renamed names go back, removed ones return) | mixed (a random suffix is undone)

Nothing is synced for real: the operating system does not die, and the sweep takes seconds instead of minutes.
"""

from __future__ import annotations

import errno
import os
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from ingot.storage import CopyMethod, OutputFile, PosixDisk
from ingot.storage.lock import PosixLock
from ingot.storage.os_errors import output_fault

When = Literal["before", "during", "after"]
WHENS: tuple[When, ...] = ("before", "during", "after")
SECTOR = 512
T = TypeVar("T")


class Crash(BaseException):
    """The machine is off. No `except Exception` may survive it."""


@dataclass(frozen=True, slots=True)
class Fate:
    bytes: Literal["kept", "dropped", "zeroed", "garbled", "mixed"]
    names: Literal["kept", "undone", "mixed"]
    seed: int = 0


KEPT = Fate("kept", "kept")
DROPPED = Fate("dropped", "undone")
GARBLED = Fate("garbled", "kept")
#: The three of SQLite's crash VFS, and the crosses that catch a missing sync of one kind alone.
FATES: tuple[Fate, ...] = (
    KEPT, DROPPED, GARBLED,
    Fate("dropped", "kept"), Fate("kept", "undone"), Fate("zeroed", "kept"), Fate("garbled", "undone"),
    Fate("mixed", "mixed", 1), Fate("mixed", "mixed", 2),
)  # fmt: skip


@dataclass(slots=True)
class _Name:
    """A change of a directory that is not durable yet, with what undoing it needs."""

    kind: Literal["create", "mkdir", "rename", "remove", "rmdir"]
    path: Path
    source: Path | None = None
    buried: Path | None = None  # what a remove or a rename took away
    mode: int | None = None  # of a directory that a rmdir or a rename took away


class FaultyDisk:
    """See the module. `graveyard` is an empty directory outside the output, on the same file system."""

    def __init__(
        self,
        graveyard: Path,
        *,
        crash_at: int | None = None,
        when: When = "before",
        fate: Fate = KEPT,
        fail_at: int | None = None,
        fail_errno: int = errno.ENOSPC,
    ) -> None:
        self.operations: list[tuple[str, str]] = []
        self.crashed = False
        self._disk = PosixDisk()
        self._graveyard = Path(tempfile.mkdtemp(dir=graveyard))
        self._crash_at, self._when, self._fate = crash_at, when, fate
        self._fail_at, self._fail_errno = fail_at, fail_errno
        self._graves = 0
        self._names: list[_Name] = []
        self._files: list[FaultyFile] = []
        self._locks: list[PosixLock] = []
        self._mutex = threading.RLock()

    @property
    def counts(self) -> Counter[str]:
        """Operations by kind; the syncs are "sync_file" and "sync_directory"."""
        return Counter(kind for kind, _ in self.operations)

    def make_directory(self, path: Path, mode: int) -> None:
        def act() -> None:
            self._disk.make_directory(path, mode)
            self._names.append(_Name("mkdir", path))

        self._operate("make_directory", path, act)

    def create(self, path: Path, *, nbytes: int, direct: bool) -> OutputFile:
        def act() -> OutputFile:
            inner = self._disk.create(path, nbytes=nbytes, direct=direct)
            self._names.append(_Name("create", path))
            return self._watch(inner, path, durable=b"", pending=[])

        return self._operate("create", path, act)

    def clone(self, path: Path, source: int) -> tuple[OutputFile, CopyMethod]:
        def act() -> tuple[OutputFile, CopyMethod]:
            inner, method = self._disk.clone(path, source)
            self._names.append(_Name("create", path))
            pending = [(0, os.stat(path).st_size)]
            return self._watch(inner, path, durable=b"", pending=pending), method

        return self._operate("clone", path, act)

    def reopen(self, path: Path) -> OutputFile:
        def act() -> OutputFile:
            return self._watch(self._disk.reopen(path), path, durable=path.read_bytes(), pending=[])

        return self._operate("reopen", path, act)

    def rename(self, source: Path, target: Path) -> None:
        def act() -> None:
            name = _Name("rename", target, source)
            if target.is_dir():
                name.mode = target.stat().st_mode
            elif target.exists():
                name.buried = self._bury(target)
            self._disk.rename(source, target)
            self._names.append(name)

        self._operate("rename", target, act)

    def link(self, path: Path, target: Path) -> None:
        def act() -> None:
            self._disk.link(path, target)
            self._names.append(_Name("create", path))

        self._operate("link", path, act)

    def set_mode(self, path: Path, mode: int) -> None:
        self._operate("set_mode", path, lambda: self._disk.set_mode(path, mode))

    def remove(self, path: Path) -> None:
        def act() -> None:
            name = _Name("remove", path, buried=self._bury(path))
            self._disk.remove(path)
            self._names.append(name)

        self._operate("remove", path, act)

    def remove_directory(self, path: Path) -> None:
        def act() -> None:
            name = _Name("rmdir", path, mode=path.stat().st_mode)
            self._disk.remove_directory(path)
            self._names.append(name)

        self._operate("remove_directory", path, act)

    def sync_directory(self, path: Path) -> None:
        self._operate("sync_directory", path, lambda: self._names_durable(path))

    def free_nbytes(self, path: Path) -> int:
        return self._operate("free_nbytes", path, lambda: self._disk.free_nbytes(path))

    def lock(self, path: Path) -> FaultyLock:
        def act() -> FaultyLock:
            lock = PosixLock(path)
            self._locks.append(lock)
            return FaultyLock(self, lock)

        return self._operate("lock", path, act)

    def power_off(self) -> None:
        """Crash now, between two operations; does not raise."""
        with self._mutex:
            self._die()

    def _operate(self, kind: str, path: Path, act: Callable[[], T], half: Callable[[], object] | None = None) -> T:
        with self._mutex:
            if self.crashed:
                raise Crash
            number = len(self.operations)
            self.operations.append((kind, path.name))
            if number == self._crash_at:
                if self._when == "during" and half is not None:
                    half()
                elif self._when != "before":
                    act()
                self._die()
                raise Crash
            if number == self._fail_at and kind != "unlock":  # giving a lock back cannot fail
                if half is not None:
                    half()
                raise output_fault(OSError(self._fail_errno, os.strerror(self._fail_errno)), path, needed=1)
            return act()

    def _die(self) -> None:
        self.crashed = True
        chance = random.Random(self._fate.seed)
        for lock in self._locks:
            lock.drop()
        for file in self._files:
            file.meet(self._fate, chance)
            file.drop()
        undone = {"kept": 0, "undone": len(self._names)}.get(self._fate.names)
        if undone is None:
            undone = chance.randint(0, len(self._names))
        for name in list(reversed(self._names))[:undone]:
            self._undo(name)

    def _watch(self, inner: OutputFile, path: Path, durable: bytes, pending: list[tuple[int, int]]) -> FaultyFile:
        file = FaultyFile(self, inner, path, os.open(path, os.O_RDWR), durable, pending)
        self._files.append(file)
        return file

    def _bury(self, path: Path) -> Path:
        """A second name, out of sight, under which a file outlives its removal."""
        grave = self._new_grave()
        os.link(path, grave, follow_symlinks=False)
        return grave

    def _new_grave(self) -> Path:
        self._graves += 1
        return self._graveyard / str(self._graves)

    def _names_durable(self, directory: Path) -> None:
        for name in list(self._names):
            if name.path.parent == directory:
                older = self._names[: self._names.index(name)]
                self._names.remove(name)
                if name.kind == "rename" and name.source is not None:
                    self._follow(older, name.source, name.path)

    def _follow(self, older: list[_Name], source: Path, target: Path) -> None:
        """A rename became durable: earlier changes at its source are part of it, those below it have moved."""
        for name in older:
            if name.path == source and name in self._names:
                self._names.remove(name)
            if source in name.path.parents:
                name.path = target / name.path.relative_to(source)
            if name.source is not None and source in name.source.parents:
                name.source = target / name.source.relative_to(source)

    def _undo(self, name: _Name) -> None:
        path = name.path
        if not path.parent.is_dir():
            return  # went with the directory it was in
        if name.kind in ("create", "mkdir"):
            if os.path.lexists(path):
                os.rename(path, self._new_grave())
            return
        if name.kind == "rename":
            if name.source is None or not os.path.lexists(path) or not name.source.parent.is_dir():
                return
            os.rename(path, name.source)
        if name.buried is not None and not os.path.lexists(path):
            os.link(name.buried, path, follow_symlinks=False)
        elif name.mode is not None and not os.path.lexists(path):
            path.mkdir()
            path.chmod(name.mode & 0o7777)


@dataclass(slots=True)
class FaultyLock:
    disk: FaultyDisk
    lock: PosixLock

    def release(self) -> None:
        if not self.disk.crashed:
            self.disk._operate("unlock", self.lock.path, self.lock.release)


@dataclass(slots=True)
class FaultyFile:
    """A file whose bytes since the last sync are at the mercy of a crash."""

    disk: FaultyDisk
    inner: OutputFile
    path: Path
    fd: int
    durable: bytes
    pending: list[tuple[int, int]] = field(default_factory=list)

    @property
    def direct(self) -> bool:
        return self.inner.direct

    def write_at(self, data: memoryview | bytes | bytearray, offset: int) -> None:
        view = memoryview(data).cast("B")

        def write(nbytes: int) -> None:
            # Half of an aligned write may be unaligned; through our own descriptor it is buffered.
            if nbytes == len(view):
                self.inner.write_at(view, offset)
            else:
                os.pwrite(self.fd, view[:nbytes], offset)
            self.pending.append((offset, offset + nbytes))

        self.disk._operate("write", self.path, lambda: write(len(view)), lambda: write(len(view) // 2))

    def truncate(self, nbytes: int) -> None:
        def act() -> None:
            self.inner.truncate(nbytes)
            self.pending.append((nbytes, nbytes))

        self.disk._operate("truncate", self.path, act)

    def sync(self) -> None:
        def act() -> None:
            self.durable = self._content()
            self.pending.clear()

        self.disk._operate("sync_file", self.path, act)

    def close(self) -> None:
        with self.disk._mutex:  # another thread may be in the middle of the crash, which drops the same descriptor
            if not self.disk.crashed:
                self.inner.close()
                if not self.pending:
                    self.drop()

    def __del__(self) -> None:
        self.drop()

    def drop(self) -> None:
        self.inner.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def meet(self, fate: Fate, chance: random.Random) -> None:
        """Give what was not synced its fate."""
        if self.pending and fate.bytes != "kept":
            content = self._after(fate, chance)
            os.ftruncate(self.fd, len(content))
            os.pwrite(self.fd, content, 0)

    def _after(self, fate: Fate, chance: random.Random) -> bytes:
        if fate.bytes == "dropped":
            return self.durable
        content = bytearray(self._content())
        old = self.durable.ljust(len(content), b"\0")
        for begin, end in self.pending:
            for at in range(begin, min(end, len(content)), SECTOR):
                stop = min(at + SECTOR, end, len(content))
                lot = chance.choice(("kept", "dropped", "garbled")) if fate.bytes == "mixed" else fate.bytes
                if lot in ("dropped", "zeroed"):
                    content[at:stop] = old[at:stop] if lot == "dropped" else bytes(stop - at)
                elif lot == "garbled":
                    content[at:stop] = chance.randbytes(stop - at)
        keeps_length = fate.bytes != "mixed" or chance.random() < 0.5
        return bytes(content if keeps_length else content[: len(self.durable)])

    def _content(self) -> bytes:
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0)
