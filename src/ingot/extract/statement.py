"""The form of an extraction's ingot.json, as one tree of nouns, and its strict reader.

The same envelope as a merge's record (`record/form.py`), of another build type, sealed in the same way.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

from ingot.errors import CheckFailed
from ingot.formats.strict_json import loads
from ingot.record.form import BaseSpec, Builder, Dependency, Metadata, Natural, Subject
from ingot.record.statement import MAX_RECORD_NBYTES, seal
from ingot.storage import RECORD_NAME, name_fault

BUILD_TYPE = "urn:ingot:extract:v1"


class Asked(Struct, frozen=True, forbid_unknown_fields=True):
    """What the user asked for; see `model.Budget` and `model.Request`."""

    base: BaseSpec
    tuned: BaseSpec
    rank: Natural | None
    energy: float | None
    max_rank: Natural
    dtype: str
    save_modules: tuple[str, ...]


class Internals(Struct, frozen=True):
    ingot: str
    libraries: dict[str, str]


class BuildDefinition(Struct, frozen=True):
    """`dependencies` are "base" and "tuned"."""

    build_type: str = field(name="buildType")
    external: Asked = field(name="externalParameters")
    internal: Internals = field(name="internalParameters")
    dependencies: tuple[Dependency, ...] = field(name="resolvedDependencies")


class RunDetails(Struct, frozen=True):
    """`checks`: how well it fits, free in form."""

    builder: Builder
    metadata: Metadata
    checks: dict[str, Any] = field(name="ingot_checks")


class Predicate(Struct, frozen=True):
    build: BuildDefinition = field(name="buildDefinition")
    run: RunDetails = field(name="runDetails")


class Statement(Struct, frozen=True):
    type: str = field(name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = field(name="predicateType")
    predicate: Predicate


def read_record(data: bytes) -> Statement | None:
    """The record that these bytes are; None where they are one of another kind, such as a merge's.

    Raises:
        CheckFailed: it is of an extraction, and not of its form, or changed since it was written.
    """
    value = loads(data, where=RECORD_NAME, max_nbytes=MAX_RECORD_NBYTES, error=CheckFailed)
    if _build_type(value) != BUILD_TYPE:
        return None
    try:
        statement = msgspec.convert(value, Statement)
    except msgspec.ValidationError as cause:
        raise CheckFailed("the record is not of its form", where=RECORD_NAME, found=cause) from cause
    assert isinstance(value, dict)
    if seal(value) != data:
        raise CheckFailed("the record was changed after it was sealed", where=RECORD_NAME)
    names = [subject.name for subject in statement.subject]
    if names != sorted(set(names)) or any(name_fault(name) for name in names):
        raise CheckFailed("the record's files are not a sorted list of distinct names", where=RECORD_NAME)
    return statement


def _build_type(value: object) -> object:
    for key in ("predicate", "buildDefinition", "buildType"):
        value = value.get(key) if isinstance(value, dict) else None
    return value
