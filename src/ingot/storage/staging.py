"""The commit protocol: an output is whole or absent, and an interrupted run is resumed, never mixed with another.

    open     lock; refuse a target that is in use; claim the work directory of an interrupted run, or make one
    create   a new file beside files/, with its room reserved
    commit   every byte written? -> cut -> length -> fsync file -> rename into files/ -> fsync files/ -> journal line
    publish  files/ holds exactly this run's files? -> record, written last -> rename files/ to OUT -> fsync parent

Laws. OUT is never seen half-made. A name in files/ whose journal line stands is durable; any other is removed at the
next open. A file of an earlier run is used only after its sha256 was computed anew. There is nothing that a dying run
must clean up: the next run, or nobody, does.

fsyncs (files + directories), held by a test:

    a new work directory   1 + 2    journal; the work directory; its parent
    a resumed one          0 + 0
    a committed file       2 + 1    the file, the journal; files/   (large or small, the same)
    publish                1 + 2    the record; files/; the parent of OUT
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from ingot.errors import IngotError, OutputError
from ingot.storage.claims import Claim, begin, drop, resume, sweep_published
from ingot.storage.copying import CopyMethod
from ingot.storage.disk import Disk, Lock
from ingot.storage.journal import Finished
from ingot.storage.names import name_fault
from ingot.storage.staged_file import StagedFile
from ingot.storage.workdir import Place, is_regular, list_names, remove_work

#: The record is the completeness marker: it enters files/ last, and only through `publish`.
RECORD_NAME = "ingot.json"

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Staging:
    """One output being made. Use as a context manager; leaving it without `publish` keeps the work for a resume.

    `create`, `write`, `copy`, `commit` and `trust` may be called from several threads, each name by one of them.
    """

    def __init__(self, disk: Disk, place: Place, lock: Lock, claim: Claim) -> None:
        self._disk = disk
        self._place = place
        self._lock = lock
        self._work = claim.work
        self._journal = claim.journal
        self._finished = dict(claim.finished)
        self._confirmed: set[str] = set()
        self._open: dict[str, StagedFile] = {}
        self._mutex = threading.Lock()
        self._closed = False

    @classmethod
    def open(cls, disk: Disk, target: Path, identity: Mapping[str, str], *, restart: bool = False) -> Staging:
        """Begin or resume the output `target`.

        Args:
            identity: what decides the bytes: plan digest, fingerprints of the inputs, version of ingot.
            restart: drop the work of an interrupted run instead of resuming it, whatever its identity.

        Raises:
            OutputError: the target is in use or no place for an output; another run has the lock; the interrupted
                run had another identity (the first differing field is named).
            ResourceError: no room for the work directory.
        """
        place = Place.of(target)
        place.make_parent(disk)
        lock = disk.lock(place.lock)
        try:
            sweep_published(disk, place)
            place.check_target_free()
            claimed = None if restart else resume(disk, place, identity)
            return cls(disk, place, lock, claimed or begin(disk, place, identity))
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    @property
    def target(self) -> Path:
        """The absolute path that the output will have."""
        return self._place.target

    @property
    def finished(self) -> Mapping[str, Finished]:
        """Files whose journal line stands, of earlier runs too; `trust` before you rely on one of those."""
        return MappingProxyType(self._finished)

    def trust(self, name: str) -> Finished | None:
        """Read the staged file `name` again; its entry when length and sha256 are as journalled.

        Otherwise the file is removed, and None says: make it again. Reads the whole file.
        """
        entry = self._finished.get(name)
        if entry is None:
            return None
        path = self._work.files / name
        if _holds(path, entry):
            with self._mutex:
                self._confirmed.add(name)
            return entry
        self._check_ours()
        with self._mutex:
            del self._finished[name]
        if os.path.lexists(path):
            self._disk.remove(path)
        return None

    def create(self, name: str, nbytes: int, *, direct: bool = True) -> StagedFile:
        """A new file that will be called `name` and hold `nbytes`. Raises ResourceError when there is no room."""
        _check_name(name)
        return self._create(name, nbytes, direct)

    def commit(self, staged: StagedFile, sha256: str, extra: Mapping[str, object] | None = None) -> None:
        """Give a fully written file its name, durably. `extra` is JSON that `finished` will give back.

        Raises:
            ValueError: a byte was never written: a bug of the caller, and no file to be believed.
            OutputError: another run took the work over.
            ResourceError: the disk failed or is full.
        """
        entry = Finished(staged.nbytes, sha256, dict(extra or {}))
        self._place_file(staged)
        with self._mutex:
            self._journal.append(staged.name, entry)
            self._finished[staged.name] = entry
            self._confirmed.add(staged.name)

    def write(self, name: str, data: bytes, extra: Mapping[str, object] | None = None) -> Finished:
        """A small file in one step: create, write, commit."""
        staged = self.create(name, len(data), direct=False)
        staged.write_at(data, 0)
        self.commit(staged, hashlib.sha256(data).hexdigest(), extra)
        return self._finished[name]

    def copy(
        self, name: str, source: int, *, sha256: str | None = None, extra: Mapping[str, object] | None = None
    ) -> CopyMethod:
        """A file with all bytes of descriptor `source`, sharing its blocks where possible; says how it was copied.

        Without `sha256` the copy is read once more to compute it. Raises InputChangedError: the source was cut.
        """
        _check_name(name)
        self._check_ours()
        path = self._work.new_part()
        file, method = self._disk.clone(path, source)
        nbytes = os.lstat(path).st_size
        staged = StagedFile(name, path, nbytes, file, [(0, nbytes)])
        self._remember(staged)
        self.commit(staged, sha256 or _sha256(path), extra)
        return method

    def publish(self, record: bytes) -> None:
        """Write the record, give the output its name, remove the work directory, release the lock.

        Raises:
            ValueError: a file is still being written, or one of an earlier run was neither trusted nor made again.
            OutputError: a file was changed under us, or the target came into use meanwhile.
            ResourceError: the disk failed or is full.
        """
        self._check_ours()
        self._check_complete()
        staged = self._create(RECORD_NAME, len(record), direct=False)
        staged.write_at(record, 0)
        self._place_file(staged)
        self._place.check_target_free()
        self._disk.rename(self._work.files, self._place.target)
        self._disk.sync_directory(self._place.parent)
        try:
            self._journal.close()
            remove_work(self._disk, self._work)
        except IngotError:
            pass  # the output is complete; the next run sweeps what is left
        self.abandon()

    def abandon(self) -> None:
        """Close every descriptor and release the lock; what is journalled stays for the next run. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            for staged in self._open.values():
                staged.file.close()
            self._journal.close()
        finally:
            self._lock.release()

    def _create(self, name: str, nbytes: int, direct: bool) -> StagedFile:
        self._check_ours()
        path = self._work.new_part()
        staged = StagedFile(name, path, nbytes, self._disk.create(path, nbytes=nbytes, direct=direct))
        self._remember(staged)
        return staged

    def _remember(self, staged: StagedFile) -> None:
        with self._mutex:
            if staged.name in self._open:
                raise ValueError(f"{staged.name!r} is already being written")
            self._open[staged.name] = staged

    def _place_file(self, staged: StagedFile) -> None:
        """The durable half of a commit: afterwards the name stands in files/ and all its bytes are on the disk."""
        gap = staged.first_gap()
        if gap is not None:
            raise ValueError(f"{staged.name!r} was never written at byte {gap} of {staged.nbytes}")
        staged.file.truncate(staged.nbytes)
        staged.file.sync()
        staged.file.close()
        self._check_ours()
        if not is_regular(staged.path, staged.nbytes):
            raise OutputError("a staged file was changed by somebody else", where=staged.path)
        self._disk.rename(staged.path, self._work.files / staged.name)
        self._disk.sync_directory(self._work.files)
        with self._mutex:
            del self._open[staged.name]

    def _check_ours(self) -> None:
        if self._closed:
            raise ValueError("this staging is closed")
        # subtle: the claim is looked at, not the lock: our directory's name is ours alone, and works without flock.
        if not self._work.files.is_dir():
            what = "another run took this output over, or its folder was moved"
            raise OutputError(what, where=self.target, hint="Run the same command again when the other run has ended.")

    def _check_complete(self) -> None:
        """files/ holds exactly the confirmed files, each a regular file of the journalled length."""
        if self._open:
            raise ValueError(f"{min(self._open)!r} is still being written")
        names = set(list_names(self._work.files))
        forgotten = sorted((names & set(self._finished)) - self._confirmed)
        if forgotten:
            raise ValueError(f"{forgotten[0]!r} of an earlier run was neither trusted nor made again")
        for name in sorted(names ^ self._confirmed):
            raise OutputError("the work directory was changed by somebody else", where=self._work.files, found=name)
        for name in sorted(names):
            if not is_regular(self._work.files / name, self._finished[name].nbytes):
                raise OutputError("a staged file was changed by somebody else", where=self._work.files / name)


def sweep(disk: Disk, target: Path) -> None:
    """Remove what a run that died right after publishing left beside `target`. Raises OutputError when locked."""
    place = Place.of(target)
    if not place.found_work() and not os.path.lexists(place.lock):
        return
    lock = disk.lock(place.lock)
    try:
        sweep_published(disk, place)
    finally:
        lock.release()


def discard(disk: Disk, target: Path) -> None:
    """Remove the work of an interrupted run for `target`: nobody will go on with it. Raises OutputError when locked."""
    place = Place.of(target)
    lock = disk.lock(place.lock)
    try:
        drop(disk, place)
    finally:
        lock.release()


def _check_name(name: str) -> None:
    fault = name_fault(name)
    if fault is not None:
        raise OutputError("a file of the output has no usable name", where=name, found=fault)
    if name == RECORD_NAME:
        raise OutputError("the record is written by `publish` alone", where=name)


def _sha256(path: Path) -> str:
    with open(os.open(path, _READ), "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holds(path: Path, entry: Finished) -> bool:
    """Whether `path` has the journalled length and digest; a file that cannot be read has not."""
    try:
        return is_regular(path, entry.nbytes) and _sha256(path) == entry.sha256
    except OSError:
        return False
