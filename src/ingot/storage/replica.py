"""A folder of copies of input files: whole or absent, proven to be copies, and never changed again.

    lock -> clone every file -> read-only -> fsync -> sha256 of the copy -> rename -> fsync parent -> folder read-only

A copy that died half-way lies in a work directory beside the folder, and is removed by the next run that makes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ingot.errors import IngotError, OutputError, ResourceError
from ingot.storage.claims import drop
from ingot.storage.disk import Disk
from ingot.storage.inputs import InputFile
from ingot.storage.names import name_fault
from ingot.storage.workdir import Place, WorkDirectory, remove_work

FILE_MODE = 0o444
FOLDER_MODE = 0o555


def replicate(disk: Disk, files: Mapping[str, tuple[InputFile, str]], target: Path) -> bool:
    """Make the folder `target` of `files` (name -> open file and its sha256); whether there was something to do.

    A folder that is there already is read again, and its modes are set.

    Raises:
        OutputError: another run makes it; the folder holds something else; a file was changed on its way.
        ResourceError: no room, or the disk does not give back what was written.
        InputChangedError: a file became shorter.
    """
    for name in files:
        fault = name_fault(name)
        if fault is not None:
            raise OutputError("a file name is not a plain name", where=target, expected="a plain name", found=fault)
    place = Place.of(target)
    place.make_parent(disk)
    lock = disk.lock(place.lock)
    try:
        drop(disk, place)
        is_new = not os.path.lexists(place.target)
        if is_new:
            _make(disk, files, place)
        else:
            _check(files, place.target)
            for name in files:
                disk.set_mode(place.target / name, FILE_MODE)
        disk.set_mode(place.target, FOLDER_MODE)
    finally:
        lock.release()
    return is_new


def _make(disk: Disk, files: Mapping[str, tuple[InputFile, str]], place: Place) -> None:
    work = place.new_work()
    disk.make_directory(work.path, 0o700)
    try:
        disk.make_directory(work.files, 0o777)
        for name, (file, sha256) in files.items():
            _copy(disk, file, sha256, work, name)
        disk.sync_directory(work.files)
        disk.rename(work.files, place.target)
        disk.sync_directory(place.parent)
    except IngotError:
        remove_work(disk, work)
        raise
    remove_work(disk, work)


def _copy(disk: Disk, file: InputFile, sha256: str, work: WorkDirectory, name: str) -> None:
    path = work.files / name
    copy, _ = disk.clone(path, file.fd)
    try:
        disk.set_mode(path, FILE_MODE)
        copy.sync()
    finally:
        copy.close()
    file.check_unchanged()
    found = _sha256(work.files, name)
    if found != sha256:
        raise ResourceError("a copy is not what was copied", where=file.path, expected=sha256, found=found,
                            hint="Check the disk; nothing was kept.")  # fmt: skip


def _check(files: Mapping[str, tuple[InputFile, str]], folder: Path) -> None:
    """Raises OutputError where the folder does not hold exactly these files."""
    hint = "Nothing in ingot changes this folder. Look at it, remove it, and run the same command again."
    names = set(os.listdir(folder)) if folder.is_dir() and not folder.is_symlink() else set()
    if names != files.keys():
        raise OutputError("a folder of copies holds other files", where=folder, expected=sorted(files),
                          found=sorted(names) or "no folder", hint=hint)  # fmt: skip
    for name, (_, sha256) in files.items():
        found = _sha256(folder, name)
        if found != sha256:
            raise OutputError("a copy was damaged", where=folder / name, expected=sha256, found=found, hint=hint)


def _sha256(folder: Path, name: str) -> str:
    with InputFile.open(folder, name, error=OutputError) as file:
        return file.sha256()
