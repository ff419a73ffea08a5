"""What was found of an artifact after it was made: evaluations in its record.

They say nothing of how it was made, so they are outside its identity: the same files have the same id, however often
they were evaluated. The seal covers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingot.errors import CheckFailed
from ingot.formats.strict_json import loads
from ingot.record.statement import MAX_RECORD_NBYTES, Record, read_record, seal
from ingot.storage.amend import amend_record
from ingot.storage.disk import Disk, PosixDisk
from ingot.storage.staging import RECORD_NAME


def add_evaluation(path: Path, evaluation: Mapping[str, Any], *, disk: Disk | None = None) -> Record:
    """Add an evaluation (JSON types) to the record of the artifact at `path`.

    Raises:
        CheckFailed: there is no record, it was changed since it was sealed, or it would become too large.
        OutputError, ResourceError: it cannot be written; the record is as it was.
    """

    def change(before: bytes) -> bytes:
        record = read_record(before)
        value = loads(before, where=RECORD_NAME, max_nbytes=MAX_RECORD_NBYTES, error=CheckFailed)
        assert isinstance(value, dict)
        value["predicate"]["runDetails"]["ingot_evaluations"].append(dict(evaluation))
        after = seal(value)
        if len(after) > MAX_RECORD_NBYTES:
            raise CheckFailed("the record would become too large", where=RECORD_NAME,
                              expected=f"at most {MAX_RECORD_NBYTES} bytes", found=len(after))  # fmt: skip
        assert read_record(after).identity == record.identity
        return after

    return read_record(amend_record(disk or PosixDisk(), path, change))
