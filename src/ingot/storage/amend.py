"""Changing the record of an output that was published: the one file of it that may still say more, later.

    lock -> read -> write beside the output -> length -> fsync -> rename over the record -> fsync the output

A reader sees the old record or the new one. What a dying run leaves beside the output is overwritten by the next.
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
    """Put what `change` makes of the record in its place; returns that. Nothing is written when it raises.

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
        part = place.parent / f".{place.name}.ingot-record"
        if os.path.lexists(part):
            disk.remove(part)
        staged = disk.create(part, nbytes=len(data), direct=False)
        try:
            staged.write_at(data, 0)
            staged.truncate(len(data))
            staged.sync()
        finally:
            staged.close()
        disk.rename(part, place.target / RECORD_NAME)
        disk.sync_directory(place.target)
    finally:
        lock.release()
    return data
