"""`sign`: model.sig beside the record of an artifact."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from ingot.errors import CheckFailed, InputChangedError
from ingot.record import Depth, Record, verify
from ingot.record.artifact import SIGNATURE_NAME, Reading, open_record
from ingot.registry.signing import oms
from ingot.registry.signing.keys import SigningKey
from ingot.storage.amend import replace_file
from ingot.storage.disk import Disk, PosixDisk
from ingot.storage.staging import RECORD_NAME
from ingot.storage.workdir import Place


def sign(
    artifact: Path,
    signer: SigningKey,
    *,
    read: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
    disk: Disk | None = None,
) -> Path:
    """Sign the artifact in this directory; returns the signature's path. An older signature is replaced.

    The digests are the record's. That the files have them is checked by their form, or, with `read`, by every byte: it
    is wise where the artifact lay in another's hands since it was made.

    Raises:
        UsageError: no such directory; a key, password or certificate that cannot be used.
        CheckFailed: the artifact is not as its record says. It is not signed.
        MissingComponent: the library is not installed.
        OutputError, ResourceError: the signature cannot be written; an older one is as it was.
        InputChangedError, Interrupted.
    """
    stop = stop or threading.Event()
    maker = oms.make_signer(signer)
    found = verify(artifact, depth=Depth.READ if read else Depth.STRUCTURE, progress=progress, stop=stop)
    found.raise_failure()
    record = open_record(artifact, Reading(lambda _: None, stop))
    if record.identity != found.identity:
        raise InputChangedError("the record changed while it was being signed", where=artifact / RECORD_NAME)
    place = Place.of(Path(os.path.abspath(artifact)))
    data = oms.signed(maker, place.name, digests_of(record))
    target = place.target / SIGNATURE_NAME
    # beside the artifact, not in it: a run that dies here leaves no strange file there
    replace_file(disk or PosixDisk(), target, data, part=place.parent / f".{place.name}.ingot-signature")
    return target


def digests_of(record: Record) -> dict[str, str]:
    """File name -> sha256 of the whole artifact, the record among it. Raises CheckFailed."""
    if SIGNATURE_NAME in record.subjects:
        raise CheckFailed("the artifact has a file of its own with the signature's name", where=SIGNATURE_NAME)
    return {name: subject.sha256 for name, subject in record.subjects.items()} | {RECORD_NAME: record.sha256}
