"""Is an extracted adapter what its record says? Names and sizes, or every byte."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from ingot.errors import CheckFailed, IngotError
from ingot.extract.statement import Statement, read_record
from ingot.record import Check, Depth, Verification
from ingot.record.artifact import NOT_OURS, Reading
from ingot.record.checks import answer, told
from ingot.record.contents import digest_of
from ingot.record.form import Subject
from ingot.record.statement import MAX_RECORD_NBYTES
from ingot.storage import RECORD_NAME, InputFile


def verify(
    path: Path,
    *,
    read: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Verification | None:
    """Check an extracted adapter; a difference is an answer, not an exception. None where `path` holds none.

    Args:
        read: every byte, not sizes alone.

    Raises:
        InputChangedError, Interrupted.
    """
    reading = Reading(progress, stop or threading.Event())
    depth = Depth.READ if read else Depth.STRUCTURE
    try:
        statement = _open_record(path, reading)
    except CheckFailed as error:
        return Verification(depth, (Check("record", False, told(error)),), 0, reading.nbytes, None)
    if statement is None:
        return None
    ingot = statement.predicate.build.internal.ingot
    checks = list(answer("record", (), f"of an extraction, sealed, of ingot {ingot}"))
    subjects = {subject.name: subject for subject in statement.subject}
    with ExitStack() as stack:
        files, unopened = _opened(path, subjects, stack)
        faults = [*unopened, *_file_faults(path, subjects, files)]
        checks += answer("files", faults, f"{len(files)} files, none missing, none extra")
        if read:
            checks += answer("contents", _damaged(subjects, files, reading), "every byte as recorded")
    identity = statement.predicate.run.metadata.ingot_identity
    return Verification(depth, tuple(checks), len(files) + 1, reading.nbytes, identity)


def _open_record(path: Path, reading: Reading) -> Statement | None:
    if not (path / RECORD_NAME).is_file() or not (path / "adapter_config.json").exists():
        return None
    with InputFile.open(path, RECORD_NAME, error=CheckFailed) as file:
        nbytes = min(file.nbytes, MAX_RECORD_NBYTES + 1)
        reading(nbytes)
        return read_record(file.read(0, nbytes))


def _opened(path: Path, subjects: dict[str, Subject], stack: ExitStack) -> tuple[dict[str, InputFile], list[str]]:
    """The files that are there, open; and why one that is there cannot be opened."""
    files, faults = {}, []
    for name in subjects:
        if not os.path.lexists(path / name):
            continue
        try:
            files[name] = stack.enter_context(InputFile.open(path, name, error=CheckFailed))
        except IngotError as error:
            faults.append(f"{name}: {told(error)}")
    return files, faults


def _file_faults(path: Path, subjects: dict[str, Subject], files: dict[str, InputFile]) -> Iterator[str]:
    listed = set(os.listdir(path))
    yield from (f"{name}: missing" for name in sorted(subjects.keys() - listed))
    yield from (f"{name}: not in the record" for name in sorted(listed - subjects.keys() - {RECORD_NAME} - NOT_OURS))
    for name, file in files.items():
        if file.nbytes != subjects[name].nbytes:
            yield f"{name}: {file.nbytes} bytes instead of {subjects[name].nbytes}"


def _damaged(subjects: dict[str, Subject], files: dict[str, InputFile], reading: Reading) -> Iterator[str]:
    for name, file in files.items():
        if file.nbytes == subjects[name].nbytes and digest_of(file, reading) != subjects[name].sha256:
            yield f"{name}: damaged"
