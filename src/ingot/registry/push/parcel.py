"""What is pushed: the files of one artifact with the digests that its record gives them, and nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import CheckFailed, InputChangedError
from ingot.record.artifact import SIGNATURE_NAME
from ingot.record.form import Subject
from ingot.storage.inputs import InputFile
from ingot.storage.staging import RECORD_NAME

_PIECE_NBYTES = 4 << 20


@dataclass(frozen=True)
class ParcelFile:
    """A file by its name, its length in bytes and the sha256 that it must have."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Parcel:
    """The files of the artifact in `path`, sorted by name; the record is one of them.

    Attributes:
        identity: the artifact's id.
    """

    path: Path
    identity: str
    files: tuple[ParcelFile, ...]

    @property
    def by_name(self) -> Mapping[str, ParcelFile]:
        return {file.name: file for file in self.files}

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    def open(self, file: ParcelFile) -> InputFile:
        """One of the files, of the right length.

        Raises:
            CheckFailed: it is missing or cannot be read.
            InputChangedError: it is longer or shorter than it must be.
            UnsafeInputError: it is no file of the directory.
        """
        opened = InputFile.open(self.path, file.name, error=CheckFailed)
        if opened.nbytes != file.nbytes:
            opened.close()
            raise InputChangedError("a file of the artifact has another length than its record says",
                                    where=opened.path, expected=file.nbytes, found=opened.nbytes)  # fmt: skip
        return opened

    def git_blob(self, file: ParcelFile) -> str:
        """The id that git gives the file's content: sha1 over a short header and the bytes, which are proved first.

        Raises:
            InputChangedError: the bytes are not those of the record.
        """
        git = hashlib.sha1(b"blob %d\0" % file.nbytes, usedforsecurity=False)
        proof = hashlib.sha256()
        with self.open(file) as opened:
            for begin in range(0, file.nbytes, _PIECE_NBYTES):
                piece = opened.read(begin, min(_PIECE_NBYTES, file.nbytes - begin))
                git.update(piece)
                proof.update(piece)
        if proof.hexdigest() != file.sha256:
            raise InputChangedError("a file of the artifact is not what its record says", where=file.name)
        return git.hexdigest()


def parcel_of(path: Path, identity: str, subjects: Iterable[Subject]) -> Parcel:
    """The parcel of an artifact whose record was read: its subjects, the record, and a signature where there is one.

    Raises:
        CheckFailed: the record is not there.
    """
    beside = [SIGNATURE_NAME] if os.path.lexists(path / SIGNATURE_NAME) else []
    files = [ParcelFile(subject.name, subject.nbytes, subject.sha256) for subject in subjects]
    for name in (RECORD_NAME, *beside):
        with InputFile.open(path, name, error=CheckFailed) as file:
            files.append(ParcelFile(name, file.nbytes, file.sha256()))
    return Parcel(path, identity, tuple(sorted(files, key=lambda file: file.name)))
