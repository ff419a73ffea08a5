"""Every byte of an artifact against the digests of its record; a damaged shard's first damaged tensor is named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ingot.record.artifact import Artifact, Reading
from ingot.record.checks import Check, answer
from ingot.record.tensor_table import TABLE_NAME, Table, first_damaged
from ingot.storage.inputs import InputFile

_PIECE_NBYTES = 4 << 20


def check_contents(artifact: Artifact, table: Table | None, reading: Reading, jobs: int) -> list[Check]:
    """One digest a file, `jobs` files at a time; memory is one piece a worker.

    Raises:
        Interrupted: the user stopped it.
        InputChangedError: a file was written to meanwhile.
    """
    subjects = artifact.record.subjects
    # A longer file was told before. Its length is whatever somebody gave it, so it is not read to its end.
    names = [name for name, file in artifact.files.items() if file.nbytes <= subjects[name].nbytes]
    with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="ingot-verify") as pool:
        digests = dict(zip(names, pool.map(lambda name: digest_of(artifact.files[name], reading), names), strict=True))
    damaged = [name for name in names if digests[name] != subjects[name].sha256]
    if TABLE_NAME in damaged or TABLE_NAME not in digests:
        table = None  # what it says of tensors cannot be believed
    faults = _faults(artifact, damaged, table, reading)
    return list(answer("contents", faults, f"{len(names)} files, every byte as recorded"))


def digest_of(file: InputFile, reading: Reading) -> str:
    """sha256 of all of an open file."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(_PIECE_NBYTES, file.nbytes)))
    for begin in range(0, file.nbytes, _PIECE_NBYTES):
        piece = buffer[: file.nbytes - begin]
        reading(len(piece))
        file.read_into(piece, begin)
        digest.update(piece)
    file.check_unchanged()
    return digest.hexdigest()


def _faults(artifact: Artifact, damaged: list[str], table: Table | None, reading: Reading) -> Iterator[str]:
    for name in damaged:
        row = first_damaged(artifact.files[name], table.rows.get(name, ()), reading) if table else None
        place = f", first in {row.title} (bytes [{row.begin}, {row.end}))" if row else ""
        yield f"{name}: damaged{place}"
