"""The registry: a directory of artifacts, and what is known of each. See `layout` for what lies where.

Laws. The records and the tags are the truth, the index is a cache. An artifact that was published is whole under its
name or freed; its record is in records/ before it appears and after it goes. One process changes a registry at a
time; readers never wait.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ingot.errors import CheckFailed, OutputError, UsageError
from ingot.record.artifact import SIGNATURE_NAME, record_in
from ingot.record.card import CARD_NAME
from ingot.record.statement import MAX_RECORD_NBYTES, Record, read_record
from ingot.record.tensor_table import TABLE_NAME
from ingot.registry.entry import Entry
from ingot.registry.founding import check_place, layout_at, make_folder, make_folders
from ingot.registry.index import Index
from ingot.registry.layout import MARKER, Layout
from ingot.registry.looking import look, names_in
from ingot.registry.places import PLACES_NAME, Places, known_places, read_places, write_places
from ingot.registry.tags import Tags, append_tags, check_tag, read_tags
from ingot.storage.amend import replace_file
from ingot.storage.disk import Disk, PosixDisk
from ingot.storage.inputs import InputFile
from ingot.storage.names import name_fault
from ingot.storage.removing import remove_tree
from ingot.storage.staging import RECORD_NAME
from ingot.storage.workdir import Place

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
        layout, disk = layout_at(place), disk or PosixDisk()
        if layout.marker.is_file():
            if layout.marker.read_bytes() != MARKER:
                raise UsageError("the registry is of another version", where=layout.marker,
                                 hint="Upgrade: `pip install -U ingot-merge`.")  # fmt: skip
        elif create:
            make_folders(layout, disk)
            with cls(layout, disk).changing():  # another process may make it, too
                if not layout.marker.is_file():
                    replace_file(disk, layout.marker, MARKER)
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
        layout = layout_at(place)
        if layout.marker.is_file():
            return cls.open(layout.root)
        check_place(layout)
        return cls(layout)

    # -- looking

    def entries(self) -> list[Entry]:
        """Every artifact, the newest first."""
        found = look(self.layout)
        self.faults = found.faults
        return sorted(found.entries.values(), key=lambda entry: (entry.facts.made_on, entry.name), reverse=True)

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
            known = known_places(self.layout, record.identity, places.name)
            self._note(record, path, msgspec.structs.replace(
                places if places.inputs else msgspec.structs.replace(known, name=places.name),
                artifact=None if inside else str(path),
            ))  # fmt: skip
        return look(self.layout).entries[record.identity]

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
        return look(self.layout).entries[record.identity]

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
            known_places(self.layout, entry.identity, entry.name), name=entry.name
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
        for name in names_in(self.layout.work):
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
        strange = set(names_in(target)) - record.subjects.keys() - {RECORD_NAME, SIGNATURE_NAME}
        return f"its folder holds {min(strange)}, which is not of the artifact" if strange else None

    # -- within

    def _note(self, record: Record, artifact: Path, places: Places) -> None:
        """Put the record, the table, the card and a signature in records/; the record last.

        What stands there already is not written again, so that a full disk does not keep an artifact from being freed.
        """
        folder = self.layout.records / record.identity
        make_folder(self.disk, folder)
        if known_places(self.layout, record.identity, "") != places:
            write_places(self.disk, folder / PLACES_NAME, places)
        for name in _KEPT:
            path, kept = artifact / name, folder / name
            data = path.read_bytes() if path.is_file() else None
            subject = record.subjects.get(name)
            if data is None or (subject is not None and hashlib.sha256(data).hexdigest() != subject.sha256):
                continue  # a damaged table is no reason to forget the right one
            if not kept.is_file() or kept.read_bytes() != data:
                replace_file(self.disk, kept, data)

    def _records_of(self, entry: Entry) -> tuple[Path, ...]:
        own = (Path(entry.place) / RECORD_NAME,) if entry.place else ()
        return (*own, self.layout.records / entry.identity / RECORD_NAME)
