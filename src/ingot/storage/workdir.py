"""Where an unfinished output lies, and whether what lies there may be touched.

    parent/OUT                              absent, or whole
    parent/.OUT.ingot-lock                  exists while a run works on OUT
    parent/.OUT.ingot-partial-<8 hex>/      mode 0700, one run's property
        journal.jsonl                       identity, then one line a finished file
        <16 hex>.part                       a file being written
        files/                              finished files under their final names; becomes OUT

The eight digits are the claim: a run that resumes renames the directory to digits of its own, in one atomic step.
Where flock is void (some network file systems), the run that had it before finds its paths gone and stops, so that
two runs never write into one output.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import OutputError
from ingot.storage.disk import Disk
from ingot.storage.names import name_fault
from ingot.storage.os_errors import output_fault

JOURNAL_NAME = "journal.jsonl"
FILES_NAME = "files"
_PART = re.compile(r"[0-9a-f]{16}\.part")


@dataclass(frozen=True, slots=True)
class WorkDirectory:
    """One claimed work directory."""

    path: Path

    @property
    def journal(self) -> Path:
        return self.path / JOURNAL_NAME

    @property
    def files(self) -> Path:
        return self.path / FILES_NAME

    def new_part(self) -> Path:
        """A name for a file in progress that no other run can have."""
        return self.path / f"{secrets.token_hex(8)}.part"

    def parts(self) -> list[Path]:
        """Files in progress: of this run, or left by the one before. Raises OutputError."""
        return [self.path / name for name in sorted(list_names(self.path)) if _PART.fullmatch(name)]


@dataclass(frozen=True, slots=True)
class Place:
    """An output path and its siblings. `parent` is absolute and free of links, so the working directory may change."""

    parent: Path
    name: str

    @classmethod
    def of(cls, target: Path) -> Place:
        """Raises OutputError: the name is not one that an output can have."""
        path = Path(target)
        fault = name_fault(path.name)
        if fault is not None:
            raise OutputError("the output has no usable name", where=target, found=fault)
        return cls(Path(os.path.realpath(path.parent)), path.name)

    @property
    def target(self) -> Path:
        return self.parent / self.name

    @property
    def lock(self) -> Path:
        return self.parent / f".{self.name}.ingot-lock"

    def new_work(self) -> WorkDirectory:
        """A work directory name of this run's own; nothing is created."""
        return WorkDirectory(self.parent / f".{self.name}.ingot-partial-{secrets.token_hex(4)}")

    def found_work(self) -> list[WorkDirectory]:
        """The work directories that earlier runs left, in order of name.

        Raises:
            OutputError: one of them is a link or no directory, or belongs to somebody else: it was put there to
                make us write or delete elsewhere.
        """
        own = re.compile(re.escape(f".{self.name}.ingot-partial-") + "[0-9a-f]{8}")
        names = list_names(self.parent) if os.path.isdir(self.parent) else []
        paths = [self.parent / name for name in sorted(names) if own.fullmatch(name)]
        found = []
        for path in paths:
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue  # another run claimed it just now
            _refuse_planted(path, status)
            found.append(WorkDirectory(path))
        return found

    def make_parent(self, disk: Disk) -> None:
        """Create the missing folders above the output, each durable."""
        if os.path.isdir(self.parent):
            return
        above = Place(self.parent.parent, self.parent.name)
        above.make_parent(disk)
        try:
            disk.make_directory(self.parent, 0o777)
        except OutputError:
            if not os.path.isdir(self.parent):  # else another run made it just now
                raise
        disk.sync_directory(above.parent)

    def check_target_free(self) -> None:
        """Raises OutputError unless the output is absent or an empty directory that a rename can replace."""
        try:
            status = os.lstat(self.target)
        except FileNotFoundError:
            return
        except OSError as error:
            raise output_fault(error, self.target) from error
        if stat.S_ISLNK(status.st_mode):
            raise OutputError("the output is a symbolic link", where=self.target, hint="Name the real folder.")
        if not stat.S_ISDIR(status.st_mode):
            raise OutputError("the output is not a directory", where=self.target, hint="Choose another output.")
        if list_names(self.target):
            hint = "Choose another output, or remove this one first."
            raise OutputError("the output exists and is not empty", where=self.target, hint=hint)
        if os.path.ismount(self.target):
            hint = f"Choose a new folder inside it, for example {self.target / 'model'}."
            raise OutputError("the output is a mount point, which cannot be replaced", where=self.target, hint=hint)


def list_names(path: Path) -> list[str]:
    """Names in directory `path`. Raises OutputError."""
    try:
        return os.listdir(path)
    except OSError as error:
        raise output_fault(error, path) from error


def is_regular(path: Path, nbytes: int | None = None) -> bool:
    """Whether `path` is a regular file itself, not a link to one, and of length `nbytes` where that is given."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and nbytes in (None, status.st_size)


def check_contents(work: WorkDirectory) -> None:
    """Raises OutputError: the directory holds what ingot did not put there, so it is not ours to use or remove."""
    hint = "Look at it, then remove it yourself, or choose another output."
    for name in sorted(list_names(work.path)):
        if name not in (JOURNAL_NAME, FILES_NAME) and not _PART.fullmatch(name):
            raise OutputError("a work directory holds something strange", where=work.path, found=name, hint=hint)
    if os.path.islink(work.files) or os.path.isfile(work.files):
        raise OutputError("files/ of a work directory is no directory", where=work.files, hint=hint)


def remove_work(disk: Disk, work: WorkDirectory) -> None:
    """Remove a claimed work directory.

    The journal goes first: from then on nothing in there is believed, wherever a crash comes.
    """
    if os.path.lexists(work.journal):
        disk.remove(work.journal)
    for part in work.parts():
        disk.remove(part)
    if os.path.lexists(work.files):
        for name in sorted(list_names(work.files)):
            disk.remove(work.files / name)
        disk.remove_directory(work.files)
    disk.remove_directory(work.path)


def _refuse_planted(path: Path, status: os.stat_result) -> None:
    hint = "Look at it, then remove it yourself, or choose another output."
    if not stat.S_ISDIR(status.st_mode):
        raise OutputError("the name of the work directory is taken by something else", where=path, hint=hint)
    if status.st_uid != os.geteuid():
        raise OutputError("the work directory belongs to another user", where=path, hint=hint,
                          expected=f"uid {os.geteuid()}", found=f"uid {status.st_uid}")  # fmt: skip
