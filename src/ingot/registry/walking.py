"""A folder tree, looked at within limits: no hidden folder, no link to a folder, not more files than one waits for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingot.record.artifact import Reading

#: A walk ends here. A home directory with a few environments has some hundred thousand files.
MAX_FILES = 1_000_000


@dataclass(frozen=True)
class Candidate:
    """A regular file, by its status alone."""

    path: Path
    nbytes: int


@dataclass(frozen=True)
class Folder:
    """A folder and what is in it. `names` are all its names; `files` no links; `folders` neither links nor hidden."""

    path: Path
    names: frozenset[str] = frozenset()
    files: tuple[Candidate, ...] = ()
    folders: tuple[Candidate, ...] = ()


class Walk:
    """The folders at and below `roots`, in order of name, each once. `limited` afterwards: it ended at MAX_FILES."""

    def __init__(self, roots: Sequence[Path], reading: Reading) -> None:
        self._roots = roots
        self._reading = reading
        self.limited = False

    def __iter__(self) -> Iterator[Folder]:
        """Raises Interrupted."""
        seen: set[str] = set()
        files = 0
        for root in self._roots:
            waiting = [root.expanduser()]
            while waiting:
                path = waiting.pop()
                self._reading(0)
                real = os.path.realpath(path)
                if real in seen:
                    continue
                seen.add(real)
                folder = entries_of(path)
                yield folder
                files += len(folder.names)
                if files > MAX_FILES:
                    self.limited = True
                    return
                waiting += [one.path for one in reversed(folder.folders)]


def entries_of(path: Path) -> Folder:
    """What is in a folder; nothing where it cannot be read."""
    try:
        with os.scandir(path) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError:
        return Folder(path)
    files, folders = [], []
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    folders.append(Candidate(path / entry.name, 0))
            elif entry.is_file(follow_symlinks=False):
                files.append(Candidate(path / entry.name, entry.stat(follow_symlinks=False).st_size))
        except OSError:
            continue  # it went while we looked
    return Folder(path, frozenset(entry.name for entry in entries), tuple(files), tuple(folders))
