"""A finished artifact that is not published yet, under another recipe that makes the same files.

Gates or tags of a recipe may change while its artifacts wait for them; hours of merging are not done again for that.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ingot.errors import CheckFailed
from ingot.formats.strict_json import loads
from ingot.record.form import Release
from ingot.record.statement import MAX_RECORD_NBYTES, Record, read_record, seal
from ingot.storage.amend import amend_record
from ingot.storage.disk import Disk, PosixDisk
from ingot.storage.staging import RECORD_NAME


def relabel(path: Path, release: Release, *, disk: Disk | None = None) -> Record:
    """Give the artifact at `path` the recipe of `release`, whose labels are the artifact's own. Its identity changes.

    Raises:
        ValueError: the labels differ, so the model card would, too.
        CheckFailed: there is no record, or it was changed since it was sealed.
        OutputError, ResourceError: it cannot be written; the record is as it was.
    """

    def change(before: bytes) -> bytes:
        own = read_record(before).recipe.release
        if own is None or own.labels != release.labels:
            raise ValueError("another release")
        if own == release:
            return before
        value = loads(before, where=RECORD_NAME, max_nbytes=MAX_RECORD_NBYTES, error=CheckFailed)
        assert isinstance(value, dict)
        value["predicate"]["buildDefinition"]["externalParameters"]["release"] = msgspec.to_builtins(release)
        return seal(value)

    return read_record(amend_record(disk or PosixDisk(), path, change))
