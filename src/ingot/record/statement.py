"""ingot.json, sealed and read strictly: an in-toto Statement v1 with an SLSA provenance v1 predicate.

Two digests stand in `runDetails.metadata`, the one part that differs between two runs of one plan:

    ingot_identity   of everything but the metadata and the evaluations: the artifact's id, the same for every run
                     that made the same, and whatever was found of it later
    ingot_seal       of everything but itself: any change of the file is noticed. It proves integrity, not authorship:
                     who rewrites the record can seal it again

Both are sha256 over canonical JSON (`strict_json.dumps_canonical`).
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import msgspec

from ingot.errors import CheckFailed, UnsafeInputError
from ingot.formats.strict_json import dumps_canonical, dumps_pretty, loads
from ingot.plan.model import Options
from ingot.record.form import (
    BUILD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Dependency,
    Internals,
    Recipe,
    Statement,
    Subject,
)
from ingot.storage.names import name_fault
from ingot.storage.staging import RECORD_NAME

MAX_RECORD_NBYTES = 64 << 20
_BUILD_TYPE = re.compile(r"urn:ingot:merge:v([0-9]{1,9})")


@dataclass(frozen=True)
class Record:
    """A record that was read: sealed, of the right form, and naming nothing outside its directory.

    Attributes:
        sha256: of the file's bytes.
    """

    statement: Statement
    sha256: str

    @property
    def identity(self) -> str:
        """The artifact's id."""
        return self.statement.predicate.run.metadata.ingot_identity

    @property
    def recipe(self) -> Recipe:
        return self.statement.predicate.build.external

    @property
    def internals(self) -> Internals:
        return self.statement.predicate.build.internal

    @cached_property
    def subjects(self) -> Mapping[str, Subject]:
        """The artifact's files by name: all but the record itself."""
        return {subject.name: subject for subject in self.statement.subject}

    def dependencies(self, of: str) -> Mapping[str, Dependency]:
        """The input files of "base", or of the adapter with this number, by name."""
        every = self.statement.predicate.build.dependencies
        return {entry.name: entry for entry in every if entry.annotations.of == of}

    def commit(self, of: str) -> str | None:
        """The commit of the Hub that "base", or the adapter with this number, came from."""
        return next((entry.annotations.commit for entry in self.dependencies(of).values()), None)


def write_record(statement: Statement) -> bytes:
    """The record's bytes, with identity and seal put in."""
    return seal(msgspec.to_builtins(statement))


def digest_of(part: msgspec.Struct) -> str:
    """sha256 of the canonical JSON of a part of a record."""
    return _sha256(msgspec.to_builtins(part))


def seal(value: Mapping[str, Any]) -> bytes:
    """The bytes of a record given as JSON, with both digests computed anew."""
    value = copy.deepcopy(dict(value))
    metadata = value["predicate"]["runDetails"]["metadata"]
    metadata["ingot_identity"] = _identity(value)
    metadata["ingot_seal"] = _seal(value)
    return dumps_pretty(value)


def read_record(data: bytes) -> Record:
    """The record that these bytes are.

    Raises:
        CheckFailed: not a record, of a version that this ingot does not know, or changed since it was written.
        UnsafeInputError: it names a file outside its directory.
    """
    value = loads(data, where=RECORD_NAME, max_nbytes=MAX_RECORD_NBYTES, error=CheckFailed)
    _check_version(value)
    try:
        statement = msgspec.convert(value, Statement)
    except msgspec.ValidationError as cause:
        raise CheckFailed("the record is not of its form", where=RECORD_NAME, found=cause) from cause
    assert isinstance(value, dict)
    _check_options(value)
    metadata = statement.predicate.run.metadata
    for what, kept, computed in (
        ("the record was changed after it was sealed", metadata.ingot_seal, _seal(value)),
        ("the record's identity is not that of its content", metadata.ingot_identity, _identity(value)),
    ):
        if kept != computed:
            raise CheckFailed(what, where=RECORD_NAME, expected=kept, found=computed)
    if dumps_pretty(value) != data:
        raise CheckFailed("the record was written anew by another tool", where=RECORD_NAME)
    _check_subjects(statement)
    return Record(statement, hashlib.sha256(data).hexdigest())


def _check_version(value: object) -> None:
    """Raises CheckFailed for whatever is no record of this major version."""
    head = value if isinstance(value, dict) else {}
    if (head.get("_type"), head.get("predicateType")) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise CheckFailed("this is no record of ingot", where="predicateType", expected=PREDICATE_TYPE)
    build_type = _at(value, "predicate", "buildDefinition", "buildType")
    match = _BUILD_TYPE.fullmatch(build_type) if isinstance(build_type, str) else None
    if match is None:
        found = repr(build_type)[:80]
        raise CheckFailed("this is no record of ingot", where="buildType", expected=BUILD_TYPE, found=found)
    if build_type != BUILD_TYPE:
        raise CheckFailed(
            "the record is of a version that this ingot does not know", where="buildType",
            expected=BUILD_TYPE, found=build_type, hint="Upgrade: `pip install -U ingot-merge`.",
        )  # fmt: skip


def _check_options(value: Mapping[str, Any]) -> None:
    """Raises CheckFailed for an option that this version does not know; one that is not there has its default."""
    options = value["predicate"]["buildDefinition"]["externalParameters"]["options"]
    unknown = sorted(options.keys() - {field.name for field in fields(Options)})
    if unknown:
        raise CheckFailed("the record has an option that this ingot does not know", where=RECORD_NAME,
                          found=unknown[0], hint="Upgrade: `pip install -U ingot-merge`.")  # fmt: skip


def _check_subjects(statement: Statement) -> None:
    names = [subject.name for subject in statement.subject]
    for name in (*names, *(entry.name for entry in statement.predicate.build.dependencies)):
        fault = name_fault(name)
        if fault is not None:
            raise UnsafeInputError("the record names what is no file of its directory", where=name[:200], found=fault)
    if names != sorted(set(names)) or RECORD_NAME in names:
        raise CheckFailed("the record's files are not a sorted list of distinct names", where=RECORD_NAME)


def _at(value: object, *keys: str) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _identity(value: Mapping[str, Any]) -> str:
    predicate = value["predicate"]
    details = {key: item for key, item in predicate["runDetails"].items() if key != "metadata"}
    details["ingot_evaluations"] = []
    return _sha256({**value, "predicate": {**predicate, "runDetails": details}})


def _seal(value: Mapping[str, Any]) -> str:
    predicate = value["predicate"]
    details = predicate["runDetails"]
    metadata = {key: item for key, item in details["metadata"].items() if key != "ingot_seal"}
    return _sha256({**value, "predicate": {**predicate, "runDetails": {**details, "metadata": metadata}}})


def _sha256(value: object) -> str:
    return hashlib.sha256(dumps_canonical(value)).hexdigest()
