"""Whose work directory this is: begin one, take over an interrupted run's, or sweep a finished run's away.

A claim is a rename to a name of our own. It is atomic, so of two runs one has the directory, and the other meets
missing paths and stops; nothing of a claimed directory can be removed or added by the run that had it before.
The caller holds the lock; the claim is the second wall, for file systems where the lock is void.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ingot.errors import OutputError
from ingot.storage.disk import Disk
from ingot.storage.journal import Finished, Journal, JournalText, read_journal
from ingot.storage.workdir import Place, WorkDirectory, check_contents, list_names, remove_work


@dataclass(frozen=True, slots=True)
class Claim:
    """A work directory that is ours, its open journal, and the files that the journal vouches for."""

    work: WorkDirectory
    journal: Journal
    finished: Mapping[str, Finished]


def begin(disk: Disk, place: Place, identity: Mapping[str, str]) -> Claim:
    """A new, durable work directory; whatever was there before is removed. 1 file sync, 2 directory syncs."""
    drop(disk, place)
    work = place.new_work()
    disk.make_directory(work.path, 0o700)
    disk.make_directory(work.files, 0o777)
    journal = Journal.begin(disk, work.journal, identity)
    try:
        disk.sync_directory(work.path)
        disk.sync_directory(place.parent)
    except BaseException:
        journal.close()
        raise
    return Claim(work, journal, {})


def resume(disk: Disk, place: Place, identity: Mapping[str, str]) -> Claim | None:
    """Claim the work directory of an interrupted run, cleared of all that its journal does not vouch for.

    None when there is none whose identity can be read. No sync: a claim that a power loss undoes is made again.

    Raises:
        OutputError: that run had another identity, or a living one took the directory at this moment.
    """
    for old in place.found_work():
        text = read_journal(old.journal)
        if text is None:
            continue
        _check_identity(text, identity, place)
        check_contents(old)
        work = _claim(disk, place, old)
        # subtle: read again after the claim; until then the run that had it may still have added a line.
        text = read_journal(work.journal) or text
        _remove_unfinished(disk, work, text)
        return Claim(work, Journal.resume(disk, work.journal, text), text.finished)
    return None


def drop(disk: Disk, place: Place) -> None:
    """Remove every work directory, whatever it holds."""
    for old in place.found_work():
        _remove(disk, place, old)


def sweep_published(disk: Disk, place: Place) -> None:
    """Remove each work directory without files/: its run has published, or died before it began."""
    for work in place.found_work():
        if not os.path.lexists(work.files):
            _remove(disk, place, work)


def _claim(disk: Disk, place: Place, old: WorkDirectory) -> WorkDirectory:
    work = place.new_work()
    disk.rename(old.path, work.path)
    return work


def _remove(disk: Disk, place: Place, old: WorkDirectory) -> None:
    check_contents(old)
    remove_work(disk, _claim(disk, place, old))


def _remove_unfinished(disk: Disk, work: WorkDirectory, text: JournalText) -> None:
    for part in work.parts():
        disk.remove(part)
    for name in sorted(set(list_names(work.files)) - set(text.finished)):
        disk.remove(work.files / name)


def _check_identity(text: JournalText, identity: Mapping[str, str], place: Place) -> None:
    if dict(text.identity) == dict(identity):
        return
    keys = [*identity, *sorted(set(text.identity) - set(identity))]
    key = next(key for key in keys if identity.get(key) != text.identity.get(key))
    raise OutputError(
        f"an interrupted run of another plan holds this output; they differ in {key}",
        where=place.target,
        expected=identity.get(key, "nothing"),
        found=text.identity.get(key, "nothing"),
        hint="Add `--restart` to drop its work, or choose another output.",
    )
