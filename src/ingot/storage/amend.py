"""Small files that may change after they were made: the record of a published output, and reports.

    write beside -> length -> fsync -> rename over the old one -> fsync the directory

A reader sees the old file or the new one. What a dying run leaves beside it is overwritten by the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ingot.errors import CheckFailed
from ingot.storage.disk import Disk
from ingot.storage.inputs import InputFile
from ingot.storage.staging import RECORD_NAME
from ingot.storage.workdir import Place


def amend_record(disk: Disk, target: Path, change: Callable[[bytes], bytes]) -> bytes:
    """Put what `change` makes of the record of `target` in its place; returns that. Nothing is written when it raises.

    Raises:
        CheckFailed: there is no record.
        OutputError: another run works on this output, or its parent cannot be written.
        ResourceError: the disk failed or is full.
    """
    place = Place.of(target)
    lock = disk.lock(place.lock)
    try:
        with InputFile.open(place.target, RECORD_NAME, error=CheckFailed) as file:
            data = change(file.read(0, file.nbytes))
        # beside the output, not in it: a run that dies here leaves no strange file in an artifact
        replace_file(disk, place.target / RECORD_NAME, data, part=place.parent / f".{place.name}.ingot-record")
    finally:
        lock.release()
    return data


def replace_file(disk: Disk, path: Path, data: bytes, *, part: Path | None = None) -> None:
    """Make or replace the file `path`, durably. `part`: where it stands meanwhile, on the same file system.

    Raises:
        OutputError: the directory cannot be written, or `path` is one.
        ResourceError: the disk failed or is full; the old file is as it was.
    """
    part = part or path.with_name(f".{path.name}.ingot-part")
    if os.path.lexists(part):
        disk.remove(part)
    file = disk.create(part, nbytes=len(data), direct=False)
    try:
        file.write_at(data, 0)
        file.truncate(len(data))
        file.sync()
    finally:
        file.close()
    disk.rename(part, path)
    disk.sync_directory(path.parent)
