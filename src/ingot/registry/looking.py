"""What a registry holds at this moment: the records as they lie there, asked of the index, and the tags.

Where a record is read from decides the state: artifacts/NAME is here, a noted place outside is elsewhere, and what is
left in records/ was freed.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import CheckFailed
from ingot.record.artifact import record_in
from ingot.registry.entry import Entry, Facts, State, facts_of
from ingot.registry.index import Index
from ingot.registry.layout import Layout
from ingot.registry.places import Places, known_places
from ingot.registry.tags import read_tags
from ingot.storage.staging import RECORD_NAME


@dataclass(frozen=True)
class Look:
    """Every artifact by identity; and by path the records that could not be read, with the reason."""

    entries: dict[str, Entry]
    faults: dict[str, str]


def look(layout: Layout) -> Look:
    """Once the index agrees with what lies there; a database that fails is made anew. Raises CheckFailed."""
    for open_index in (Index.open, Index.open_anew, Index.in_memory):
        try:
            with open_index(layout.index) as index:
                return _look(layout, index)
        except sqlite3.Error:
            continue
    raise AssertionError("a database in memory cannot fail")


def _look(layout: Layout, index: Index) -> Look:
    here, noted = folders_in(layout.artifacts), _noted(layout)
    outside = {identity: places.artifact for identity, places in noted.items() if places.artifact}
    paths = [*(layout.artifacts / name for name in here), *map(Path, outside.values()),
             *(layout.records / identity for identity in noted)]  # fmt: skip
    stamps = {str(path): stamp for path in paths if (stamp := _stamp(path / RECORD_NAME))}
    found = index.sync(stamps, lambda path: facts_of(record_in(Path(path))))
    faults = {
        path: said for path, said in found.items()
        if isinstance(said, str) and _stamp(Path(path) / RECORD_NAME) == stamps[path]  # else it went meanwhile
    }  # fmt: skip
    facts = {path: said for path, said in found.items() if isinstance(said, Facts)}
    tags: dict[str, list[str]] = {}
    for tag, identity in read_tags(layout.tags).current.items():
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
        enter(layout.artifacts / name, State.HERE, name)
    for identity, artifact in outside.items():
        enter(Path(artifact), State.ELSEWHERE, noted[identity].name, identity)
    for identity, places in noted.items():
        if str(layout.artifacts / places.name) not in faults:  # else it is not freed, but damaged
            enter(layout.records / identity, State.FREED, places.name, identity)
    return Look(entries, faults)


def _noted(layout: Layout) -> dict[str, Places]:
    """What is noted of each identity in records/."""
    return {identity: known_places(layout, identity, "") for identity in folders_in(layout.records)}


def _stamp(path: Path) -> str | None:
    """What changes whenever the file does; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def names_in(path: Path) -> list[str]:
    """Of all that is in a folder, in order; none where there is no such folder.

    Raises CheckFailed: what cannot be read is not nothing.
    """
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckFailed("a folder of the registry cannot be read", where=path, found=error.strerror) from error


def folders_in(path: Path) -> list[str]:
    """The same of folders that are not hidden."""
    return [name for name in names_in(path) if not name.startswith(".") and (path / name).is_dir()]
