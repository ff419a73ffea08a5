"""A folder of links to input files that lie elsewhere, under the names that they need.

Links that lead out of their folder are refused wherever a folder comes from a stranger. These come from us: each is
known by its path, and leads to the one file that it was made for, in this process, as long as the folder is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ingot.errors import OutputError
from ingot.storage.disk import Disk
from ingot.storage.names import name_fault

_made: dict[Path, Path] = {}


def made_for(link: Path) -> Path | None:
    """The real path of the file that a link of `assembled` was made for; None for any other path."""
    return _made.get(link)


@contextmanager
def assembled(disk: Disk, folder: Path, files: Mapping[str, Path]) -> Iterator[Path]:
    """The new `folder` with `files` under their names: each a link to a regular file. It is removed again.

    Raises:
        OutputError: the folder exists or cannot be made; a name is none.
    """
    for name in files:
        fault = name_fault(name)
        if fault is not None:
            raise OutputError("a file name is not a plain name", where=folder, expected="a plain name", found=fault)
    disk.make_directory(folder, 0o700)
    real_folder = Path(os.path.realpath(folder))
    links: list[Path] = []
    try:
        for name, path in files.items():
            real = Path(os.path.realpath(path))
            disk.link(real_folder / name, real)
            links.append(real_folder / name)
            _made[real_folder / name] = real
        yield real_folder
    finally:
        for link in links:
            _made.pop(link, None)
            disk.remove(link)
        disk.remove_directory(real_folder)
