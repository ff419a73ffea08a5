"""Whether a job was done before: is what lies at its target what it would make?"""

from __future__ import annotations

from pathlib import Path

from ingot.errors import IngotError
from ingot.merge.job import Job
from ingot.record import Record, verify
from ingot.record.artifact import record_in
from ingot.storage import RECORD_NAME, DigestMemory, PosixDisk, sweep


def made_before(job: Job, target: Path) -> Record | None:
    """The record of a finished artifact at `target`, where it is what this very job would make; None otherwise.

    Then the run itself says what is wrong with the target.
    """
    if not (target / RECORD_NAME).is_file():
        return None
    try:
        record = record_in(target)
    except IngotError:
        return None
    if record.internals.plan_digest != job.plan.digest:
        return None
    memory = DigestMemory()
    for of, files in (("base", job.base.inputs), *((str(n), files) for n, files in enumerate(job.adapter_files))):
        recorded = {name: entry.digest.sha256 for name, entry in record.dependencies(of).items()}
        if recorded != {name: memory.sha256(file) for name, file in files.items()}:
            return None
    if not verify(target).ok:
        return None
    sweep(PosixDisk(), target)  # what a run that died right after its last step left
    return record
