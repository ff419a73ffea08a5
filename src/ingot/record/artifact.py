"""An artifact directory, opened by its record: files, sizes and modes. Nothing outside the directory is touched."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import CheckFailed, IngotError, Interrupted, UsageError
from ingot.record.checks import told
from ingot.record.statement import MAX_RECORD_NBYTES, Record, read_record
from ingot.storage.inputs import InputFile
from ingot.storage.staging import RECORD_NAME

#: A detached signature of the artifact (registry/signing). It is made last, of all other files.
SIGNATURE_NAME = "model.sig"
#: What stands beside a model and in no record: signatures, and what the Hub's tools and git put there. No library takes
#: it for a part of a model.
NOT_OURS = frozenset({".cache", ".git", ".gitattributes", SIGNATURE_NAME})


class Reading:
    """Counts the bytes of a verification, from any thread, and ends it when the user says so."""

    def __init__(self, progress: Callable[[int], None], stop: threading.Event) -> None:
        self.stop = stop
        self.nbytes = 0
        self._progress = progress
        self._lock = threading.Lock()

    def __call__(self, nbytes: int) -> None:
        """Raises Interrupted."""
        if self.stop.is_set():
            raise Interrupted("the check was interrupted", hint="Run the same command again; checks write nothing.")
        with self._lock:
            self.nbytes += nbytes
        self._progress(nbytes)


@dataclass(frozen=True)
class Artifact:
    """`files`: those of the record that are there and can be opened. `listed`: every name in the directory."""

    path: Path
    record: Record
    files: Mapping[str, InputFile]
    unopened: Mapping[str, str]
    listed: frozenset[str]

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(name for name in self.record.subjects if name.endswith(".safetensors"))

    @property
    def ggufs(self) -> tuple[str, ...]:
        return tuple(name for name in self.record.subjects if name.endswith(".gguf"))


def list_names(path: Path) -> frozenset[str]:
    """Every name in the directory. Raises UsageError when it is none, or cannot be read."""
    try:
        return frozenset(os.listdir(path))
    except OSError as cause:
        raise UsageError(
            f"cannot open the artifact ({(cause.strerror or str(cause)).lower()})", where=path,
            hint="Give the directory that holds ingot.json.",
        ) from cause  # fmt: skip


def open_record(path: Path, reading: Reading) -> Record:
    """The record of the directory. Raises CheckFailed, UnsafeInputError."""
    if not os.path.lexists(path / RECORD_NAME):
        raise CheckFailed("the record is missing, so this is no artifact of ingot, or not a whole one",
                          where=RECORD_NAME)  # fmt: skip
    with InputFile.open(path, RECORD_NAME, error=CheckFailed) as file:
        if file.nbytes > MAX_RECORD_NBYTES:
            raise CheckFailed("the record is too large", where=RECORD_NAME,
                              expected=f"at most {MAX_RECORD_NBYTES} bytes", found=file.nbytes)  # fmt: skip
        reading(file.nbytes)
        fault = mode_fault(file)
        if fault is not None:
            raise CheckFailed(f"the record {fault}", where=RECORD_NAME)
        return read_record(file.read(0, file.nbytes))


def record_in(artifact: Path) -> Record:
    """The record of the artifact in this directory. Raises CheckFailed, UnsafeInputError."""
    if not (artifact / RECORD_NAME).is_file():
        raise CheckFailed("there is no record, so this is no artifact of ingot", where=artifact / RECORD_NAME,
                          hint="Name a directory that `ingot merge`, `quantize` or `release` made.")  # fmt: skip
    with InputFile.open(artifact, RECORD_NAME, error=CheckFailed) as file:
        return read_record(file.read(0, min(file.nbytes, MAX_RECORD_NBYTES + 1)))


def open_artifact(path: Path, record: Record, stack: ExitStack) -> Artifact:
    """Open every file that the record names; the stack closes them."""
    listed = list_names(path)
    files: dict[str, InputFile] = {}
    unopened: dict[str, str] = {}
    for name in record.subjects:
        if name not in listed:
            continue
        try:
            files[name] = stack.enter_context(InputFile.open(path, name, error=CheckFailed))
        except IngotError as error:
            unopened[name] = told(error)
    return Artifact(path, record, files, unopened, listed)


def file_faults(artifact: Artifact) -> Iterator[str]:
    """What is missing, extra, of another length, or of a mode in which it cannot be used."""
    subjects = artifact.record.subjects
    extra = sorted(artifact.listed - subjects.keys() - {RECORD_NAME} - NOT_OURS)
    for name in subjects.keys() - artifact.listed:
        likely = [other for other in extra if _nbytes(artifact.path / other) == subjects[name].nbytes]
        yield f"{name}: missing" + (f" (renamed to {likely[0]}?)" if likely else "")
    yield from (f"{name}: not in the record" for name in extra)
    yield from (f"{name}: {reason}" for name, reason in artifact.unopened.items())
    for name, file in artifact.files.items():
        expected = subjects[name].nbytes
        if file.nbytes != expected:
            yield f"{name}: {file.nbytes} bytes instead of {expected}"
        fault = mode_fault(file)
        if fault is not None:
            yield f"{name}: {fault}"


def mode_fault(file: InputFile) -> str | None:
    """Why the mode of an open file is not one to serve from; None when it is.

    Wider modes than ours are no fault: file systems without modes show 0777 for everything.
    """
    mode = stat.S_IMODE(os.fstat(file.fd).st_mode)
    if not mode & stat.S_IRUSR:
        return f"its owner may not read it (mode {mode:04o})"
    if mode & (stat.S_ISUID | stat.S_ISGID):
        return f"it is set to run as its owner or group (mode {mode:04o})"
    return None


def _nbytes(path: Path) -> int | None:
    try:
        return os.lstat(path).st_size
    except OSError:
        return None
