"""The registry: a directory of artifacts, and what is known of each. See `layout` for what lies where.

Laws. The records and the tags are the truth, the index is a cache. An artifact that was published is whole under its
name or freed; its record is in records/ before it appears and after it goes. One process changes a registry at a
time; readers never wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from ingot.errors import CheckFailed, OutputError, UsageError
from ingot.record.artifact import SIGNATURE_NAME
from ingot.record.card import CARD_NAME
from ingot.record.statement import MAX_RECORD_NBYTES, Record, read_record
from ingot.record.tensor_table import TABLE_NAME
from ingot.registry.entry import Entry, Facts, State, facts_of
from ingot.registry.index import Index
from ingot.registry.layout import MARKER, Layout, default_place
from ingot.registry.places import Places, read_places, write_places
from ingot.registry.tags import Tags, append_tags, check_tag, read_tags
from ingot.storage.amend import replace_file
from ingot.storage.disk import Disk, PosixDisk
from ingot.storage.inputs import InputFile
from ingot.storage.names import name_fault
from ingot.storage.staging import RECORD_NAME
from ingot.storage.workdir import Place

Answer = TypeVar("Answer")
PLACES_NAME = "places.json"
#: What is kept of an artifact when its weights go.
_KEPT = (TABLE_NAME, CARD_NAME, SIGNATURE_NAME, RECORD_NAME)
#: In work/, what is being removed.
_TRASH = "freed-"
_WAIT_SECONDS = 60.0


@dataclass
class Registry:
    """An open registry. `faults`: records that could not be read, and why; refreshed by every look."""

    layout: Layout
    disk: Disk = field(default_factory=PosixDisk)
    faults: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, place: Path | None = None, *, create: bool = False, disk: Disk | None = None) -> Registry:
        """The registry at `place`, or at the default one.

        Raises:
            UsageError: there is none, and `create` is not set; or the place holds something else.
            OutputError, ResourceError: it cannot be made.
        """
        layout, disk = _layout(place), disk or PosixDisk()
        if layout.marker.is_file():
            if layout.marker.read_bytes() != MARKER:
                raise UsageError("the registry is of another version", where=layout.marker,
                                 hint="Upgrade: `pip install -U ingot-merge`.")  # fmt: skip
        elif create:
            _make(layout, disk)
        elif layout.root.exists():
            raise UsageError("this directory is no registry", where=layout.root, hint="Pass --registry DIR.")
        else:
            raise UsageError(
                "there is no registry here yet", where=layout.root,
                hint="`ingot release RECIPE.yaml` or `ingot registry add ARTIFACT` makes it; --registry names another.",
            )  # fmt: skip
        return cls(layout, disk)

    @classmethod
    def to_be(cls, place: Path | None = None) -> Registry:
        """As `open`; where there is none yet, the empty one that `create` would make. Makes nothing."""
        layout = _layout(place)
        if layout.marker.is_file():
            return cls.open(layout.root)
        _check_place(layout)
        return cls(layout)

    # -- looking

    def entries(self) -> list[Entry]:
        """Every artifact, the newest first."""
        return sorted(self._look().values(), key=lambda entry: (entry.facts.made_on, entry.name), reverse=True)

    def tags(self) -> Tags:
        return read_tags(self.layout.tags)

    def reindex(self) -> list[Entry]:
        """Drop the index and make it again from the records; returns every artifact."""
        with Index.open_anew(self.layout.index):
            return self.entries()

    def record_bytes(self, entry: Entry) -> bytes:
        """The record's file: the artifact's own where it is there, as evaluations are added to it."""
        for path in self._records_of(entry):
            if path.is_file():
                with InputFile.open(path.parent, path.name, error=CheckFailed) as file:
                    return file.read(0, min(file.nbytes, MAX_RECORD_NBYTES))
        raise CheckFailed("the record is gone", where=entry.name)

    def record(self, entry: Entry) -> Record:
        """Raises CheckFailed, UnsafeInputError."""
        return read_record(self.record_bytes(entry))

    def places(self, entry: Entry) -> Places:
        """Where things were last seen."""
        return read_places(self.layout.records / entry.identity / PLACES_NAME) or Places(entry.name)

    def folder(self, entry: Entry) -> Path:
        """Where the tensor table and the card are, also of a freed artifact."""
        return Path(entry.place) if entry.place else self.layout.records / entry.identity

    # -- changing

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The registry's lock. Raises OutputError when another process keeps it for a minute."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                lock = self.disk.lock(self.layout.lock)
                break
            except OutputError as error:
                if not isinstance(error.__cause__, BlockingIOError):
                    raise
                if time.monotonic() > deadline:
                    raise OutputError("another process is changing the registry", where=self.layout.root,
                                      hint="Wait for it to end.") from error  # fmt: skip
                time.sleep(random.uniform(0.005, 0.05))
        try:
            yield
        finally:
            lock.release()

    def add(self, artifact: Path, places: Places) -> Entry:
        """Take note of a finished artifact where it lies. Raises CheckFailed where there is none."""
        record, path = record_in(artifact), Path(os.path.abspath(artifact))
        with self.changing():
            inside = path.parent == self.layout.artifacts
            known = self._known_places(record.identity, places.name)
            self._note(record, path, msgspec.structs.replace(
                places if places.inputs else msgspec.structs.replace(known, name=places.name),
                artifact=None if inside else str(path),
            ))  # fmt: skip
        return self._look()[record.identity]

    def publish(self, artifact: Path, places: Places) -> Entry:
        """Move a finished artifact from work/ to artifacts/NAME: whole or absent.

        Raises:
            OutputError: the name is taken by another artifact.
        """
        record, target = record_in(artifact), self.layout.artifacts / places.name
        with self.changing():
            self.check_free(places.name, record.identity)
            self._note(record, artifact, places)
            if not target.exists():
                Place.of(target).check_target_free()
                self.disk.rename(artifact, target)
                self.disk.sync_directory(self.layout.artifacts)
                self.disk.sync_directory(artifact.parent)
        return self._look()[record.identity]

    def check_free(self, name: str, identity: str | None) -> None:
        """Raises OutputError unless `name` is free, or already is the artifact with this identity."""
        fault = name_fault(name)
        if fault is not None:
            raise OutputError("the artifact has no usable name", where=name, found=fault)
        target = self.layout.artifacts / name
        if os.path.lexists(target) and record_in(target).identity != identity:
            raise OutputError("the registry has another artifact of this name", where=target,
                              hint="Give the release another name or version.")  # fmt: skip

    def tag(self, taggings: Iterable[tuple[str, str | None]]) -> None:
        """Give tags to identities, or take them away (None). Raises UsageError for a bad name."""
        wanted = list(taggings)
        for tag, _ in wanted:
            check_tag(tag)
        with self.changing():
            current: dict[str, str | None] = dict(self.tags().current)
            new = []
            for tag, identity in wanted:
                if current.get(tag) != identity:
                    new.append((tag, identity))
                    current[tag] = identity
            if new:
                append_tags(self.disk, self.layout.tags, new)

    def attach(self, entry: Entry, name: str, data: bytes) -> None:
        """Put a file, such as a report, beside the artifact's record."""
        replace_file(self.disk, self.layout.records / entry.identity / name, data)

    def free(self, entry: Entry) -> None:
        """Remove an artifact's files and keep its record. The caller has the lock, and knows that it may go.

            what is kept is noted, durably -> the folder goes to work/ under another name, durably -> it is removed

        A crash before the second arrow leaves the whole artifact, later the record alone; `sweep` removes the rest.

        Raises:
            CheckFailed: what has the name is not this artifact, or more than it: nothing is changed.
            OutputError, ResourceError.
        """
        target, gone = self.layout.artifacts / entry.name, self.layout.work / f"{_TRASH}{entry.identity}"
        fault = self.why_not_ours(entry)
        if fault is not None:
            raise CheckFailed(f"the artifact is not freed: {fault}", where=target)
        self._note(record_in(target), target, msgspec.structs.replace(
            self._known_places(entry.identity, entry.name), name=entry.name
        ))  # fmt: skip
        if record_in(self.layout.records / entry.identity).identity != entry.identity:
            raise CheckFailed("the record was not kept, so the artifact is not freed", where=target)
        remove_tree(self.disk, gone)
        self.disk.rename(target, gone)
        self.disk.sync_directory(self.layout.work)
        self.disk.sync_directory(self.layout.artifacts)
        remove_tree(self.disk, gone)

    def sweep(self) -> None:
        """Remove what a `free` that died has left in work/. The caller has the lock."""
        for name in _names(self.layout.work):
            if name.startswith(_TRASH):
                remove_tree(self.disk, self.layout.work / name)

    def why_not_ours(self, entry: Entry) -> str | None:
        """Why the folder in artifacts/ may not be removed; None where it is this artifact and nothing else."""
        target = self.layout.artifacts / entry.name
        if target.is_symlink() or not target.is_dir():
            return "it is a link, and not a folder of the registry"
        record = record_in(target)
        if record.identity != entry.identity:
            return "another artifact has its name"
        strange = set(_names(target)) - record.subjects.keys() - {RECORD_NAME, SIGNATURE_NAME}
        return f"its folder holds {min(strange)}, which is not of the artifact" if strange else None

    # -- within

    def _note(self, record: Record, artifact: Path, places: Places) -> None:
        """Put the record, the table, the card and a signature in records/; the record last.

        What stands there already is not written again, so that a full disk does not keep an artifact from being freed.
        """
        folder = self.layout.records / record.identity
        _make_folder(self.disk, folder)
        if self._known_places(record.identity, "") != places:
            write_places(self.disk, folder / PLACES_NAME, places)
        for name in _KEPT:
            path, kept = artifact / name, folder / name
            data = path.read_bytes() if path.is_file() else None
            subject = record.subjects.get(name)
            if data is None or (subject is not None and hashlib.sha256(data).hexdigest() != subject.sha256):
                continue  # a damaged table is no reason to forget the right one
            if not kept.is_file() or kept.read_bytes() != data:
                replace_file(self.disk, kept, data)

    def _known_places(self, identity: str, name: str) -> Places:
        """They are hints: where they cannot be read, there are none."""
        try:
            return read_places(self.layout.records / identity / PLACES_NAME) or Places(name)
        except CheckFailed:
            return Places(name)

    def _look(self) -> dict[str, Entry]:
        """Every artifact by identity."""
        return self._ask(lambda _, entries: entries)

    def _ask(self, question: Callable[[Index, dict[str, Entry]], Answer]) -> Answer:
        """Asked of the index once it agrees with what lies here; a database that fails is made anew."""
        for open_index in (Index.open, Index.open_anew, Index.in_memory):
            try:
                with open_index(self.layout.index) as index:
                    return question(index, self._sync(index))
            except sqlite3.Error:
                continue
        raise AssertionError("a database in memory cannot fail")

    def _sync(self, index: Index) -> dict[str, Entry]:
        here, noted = self._sources()
        outside = {identity: places.artifact for identity, places in noted.items() if places.artifact}
        folders = [*(self.layout.artifacts / name for name in here), *map(Path, outside.values()),
                   *(self.layout.records / identity for identity in noted)]  # fmt: skip
        stamps = {str(path): stamp for path in folders if (stamp := _stamp(path / RECORD_NAME))}
        found = index.sync(stamps, lambda path: facts_of(record_in(Path(path))))
        self.faults = {
            path: said for path, said in found.items()
            if isinstance(said, str) and _stamp(Path(path) / RECORD_NAME) == stamps[path]  # else it went meanwhile
        }  # fmt: skip
        facts = {path: said for path, said in found.items() if isinstance(said, Facts)}
        tags: dict[str, list[str]] = {}
        for tag, identity in self.tags().current.items():
            tags.setdefault(identity, []).append(tag)
        entries: dict[str, Entry] = {}

        def enter(path: Path, state: State, name: str, identity: str | None = None) -> None:
            """`identity`: whose place this is; there may be something else by now."""
            known = facts.get(str(path))
            if known is not None and known.identity not in entries and identity in (None, known.identity):
                place = None if state is State.FREED else str(path)
                own = tuple(sorted(tags.get(known.identity, ())))
                entries[known.identity] = Entry(known, name or known.title, state, place, own)

        for name in here:
            enter(self.layout.artifacts / name, State.HERE, name)
        for identity, artifact in outside.items():
            enter(Path(artifact), State.ELSEWHERE, noted[identity].name, identity)
        for identity, places in noted.items():
            if str(self.layout.artifacts / places.name) not in self.faults:  # else it is not freed, but damaged
                enter(self.layout.records / identity, State.FREED, places.name, identity)
        return entries

    def _sources(self) -> tuple[list[str], dict[str, Places]]:
        """Names in artifacts/, and what is noted of each identity in records/."""
        here = _folders(self.layout.artifacts)
        return here, {identity: self._known_places(identity, "") for identity in _folders(self.layout.records)}

    def _records_of(self, entry: Entry) -> tuple[Path, ...]:
        own = (Path(entry.place) / RECORD_NAME,) if entry.place else ()
        return (*own, self.layout.records / entry.identity / RECORD_NAME)


def remove_tree(disk: Disk, folder: Path) -> None:
    """Remove a folder of ours and its files, the record first: what is left of it is no artifact. Follows no link."""
    if folder.is_symlink():
        disk.remove(folder)
        return
    if not folder.exists():
        return
    names = sorted(os.listdir(folder), key=lambda name: (name != RECORD_NAME, name))
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            remove_tree(disk, path)
        else:
            disk.remove(path)
    disk.remove_directory(folder)


def record_in(artifact: Path) -> Record:
    """The record of the artifact in this directory. Raises CheckFailed, UnsafeInputError."""
    if not (artifact / RECORD_NAME).is_file():
        raise CheckFailed("there is no record, so this is no artifact of ingot", where=artifact / RECORD_NAME,
                          hint="Name a directory that `ingot merge`, `quantize` or `release` made.")  # fmt: skip
    with InputFile.open(artifact, RECORD_NAME, error=CheckFailed) as file:
        return read_record(file.read(0, min(file.nbytes, MAX_RECORD_NBYTES + 1)))


def _stamp(path: Path) -> str | None:
    """What changes whenever the file does; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _names(path: Path) -> list[str]:
    """In order; none where there is no such folder. Raises CheckFailed: what cannot be read is not nothing."""
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckFailed("a folder of the registry cannot be read", where=path, found=error.strerror) from error


def _folders(path: Path) -> list[str]:
    return [name for name in _names(path) if not name.startswith(".") and (path / name).is_dir()]


def _layout(place: Path | None) -> Layout:
    root = place or default_place()
    if root is None:
        raise UsageError("there is no home directory for a registry", hint="Pass --registry DIR.")
    return Layout(Path(os.path.abspath(root)))


def _check_place(layout: Layout) -> None:
    """Raises UsageError: no registry can be made there, because something else is."""
    for path in (layout.root, *layout.root.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                raise UsageError("a registry is a directory, and this is none", where=path,
                                 hint="Name another with --registry DIR.")  # fmt: skip
            break
    ours = {layout.lock.name, *(folder.name for folder in layout.folders)}
    strange = {name for name in _names(layout.root) if not name.startswith(f".{layout.marker.name}.")} - ours
    if layout.marker.name in strange:
        return  # another process made it just now
    if strange:
        raise UsageError("this directory holds something else, so no registry is made in it", where=layout.root,
                         found=min(strange), hint="Name an empty or a new directory.")  # fmt: skip


def _make(layout: Layout, disk: Disk) -> None:
    """The folders, and the marker last."""
    _check_place(layout)
    for folder in layout.folders:
        _make_folder(disk, folder)
    with Registry(layout, disk).changing():  # another process may make it, too
        if not layout.marker.is_file():
            replace_file(disk, layout.marker, MARKER)


def _make_folder(disk: Disk, folder: Path) -> None:
    Place.of(folder).make_parent(disk)
    if not folder.is_dir():
        with contextlib.suppress(OutputError):  # another process made it just now
            disk.make_directory(folder, 0o777)
        disk.sync_directory(folder.parent)
