"""Whole folders of ours, removed: released artifacts, and what releases and rebuilds have left."""

from __future__ import annotations

import os
from pathlib import Path

from ingot.storage.disk import Disk
from ingot.storage.staging import RECORD_NAME


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
