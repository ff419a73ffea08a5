"""Where a registry may be made, and its making: by many at once, and with nothing in the way after a crash."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ingot.errors import OutputError, UsageError
from ingot.registry.layout import Layout, default_place
from ingot.registry.looking import names_in
from ingot.storage.disk import Disk
from ingot.storage.workdir import Place


def layout_at(place: Path | None) -> Layout:
    """The paths of the registry at `place`, or at the default one. Raises UsageError."""
    root = place or default_place()
    if root is None:
        raise UsageError("there is no home directory for a registry", hint="Pass --registry DIR.")
    return Layout(Path(os.path.abspath(root)))


def check_place(layout: Layout) -> None:
    """Raises UsageError: no registry can be made there, because something else is."""
    for path in (layout.root, *layout.root.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                raise UsageError("a registry is a directory, and this is none", where=path,
                                 hint="Name another with --registry DIR.")  # fmt: skip
            break
    ours = {layout.lock.name, *(folder.name for folder in layout.folders)}
    strange = {name for name in names_in(layout.root) if not name.startswith(f".{layout.marker.name}.")} - ours
    if layout.marker.name in strange:
        return  # another process made it just now
    if strange:
        raise UsageError("this directory holds something else, so no registry is made in it", where=layout.root,
                         found=min(strange), hint="Name an empty or a new directory.")  # fmt: skip


def make_folders(layout: Layout, disk: Disk) -> None:
    """All but the marker. Raises UsageError, OutputError, ResourceError."""
    check_place(layout)
    for folder in layout.folders:
        make_folder(disk, folder)


def make_folder(disk: Disk, folder: Path) -> None:
    """Unless it is there."""
    Place.of(folder).make_parent(disk)
    if not folder.is_dir():
        with contextlib.suppress(OutputError):  # another process made it just now
            disk.make_directory(folder, 0o777)
        disk.sync_directory(folder.parent)
