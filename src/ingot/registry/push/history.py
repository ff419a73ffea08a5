"""Where an artifact was pushed, and when: a log of self-checking lines beside its record."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from ingot.registry.push.pushed import Pushed
from ingot.storage.disk import Disk
from ingot.storage.lines import Entry, decode_chain
from ingot.storage.log import Log

PUSHES_NAME = "pushes.jsonl"


def note(disk: Disk, folder: Path, pushed: Pushed) -> None:
    """Add a push to the log in `folder`, a directory of the registry that exists.

    Raises:
        OutputError: another process is writing it.
        ResourceError: the disk is full, or fails.
    """
    entry: Entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": pushed.target, "url": pushed.url, "commit": pushed.commit, "changed": pushed.changed,
    }  # fmt: skip
    with Log.open(disk, folder / PUSHES_NAME, {"identity": pushed.identity}) as log:
        log.append(entry)


def pushes(folder: Path) -> tuple[Entry, ...]:
    """What `note` wrote there, oldest first; a torn end is left out."""
    try:
        data = (folder / PUSHES_NAME).read_bytes()
    except OSError:
        return ()
    return tuple(entry for entry, _ in decode_chain(data))[1:]
