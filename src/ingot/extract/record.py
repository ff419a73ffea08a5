"""ingot.json beside an extracted adapter: what it was made of, how, and how well it holds the difference."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib import metadata

import msgspec

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.extract.model import Request
from ingot.extract.result import Extraction, FitGroup
from ingot.extract.statement import BUILD_TYPE, Asked, BuildDefinition, Internals, Predicate, RunDetails, Statement
from ingot.plan.public import public_name
from ingot.record.form import (
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    BaseSpec,
    Builder,
    Dependency,
    DependencyNotes,
    Digest,
    Metadata,
    Subject,
    SubjectNotes,
)
from ingot.record.statement import seal
from ingot.storage import DigestMemory, Finished
from ingot.version import __version__

_LIBRARIES = ("torch", "transformers")


def build_record(
    request: Request,
    result: Extraction,
    files: Mapping[str, Finished],
    inputs: Mapping[str, Checkpoint],
    memory: DigestMemory,
) -> bytes:
    """The record's bytes. `inputs` are "base" and "tuned"; digests that are not remembered are computed from them."""
    finished = datetime.now(UTC)
    budget = request.budget
    asked = Asked(
        _spec(inputs["base"]), _spec(inputs["tuned"]),
        budget.rank, budget.energy, budget.max_rank, request.dtype, request.save,
    )  # fmt: skip
    build = BuildDefinition(
        BUILD_TYPE,
        asked,
        Internals(__version__, {name: metadata.version(name) for name in _LIBRARIES}),
        tuple(_dependencies(inputs, memory)),
    )
    times = (_time(finished - timedelta(seconds=result.seconds)), _time(finished))
    run = RunDetails(
        Builder(f"urn:ingot:{__version__}"),
        Metadata(str(uuid.uuid4()), *times),
        {
            "parameters": {"total": result.parameters, "equal": result.equal},
            "factors": [as_json(group) for group in result.fit_groups],
            "whole": [vars(group) for group in result.whole_groups],
        },
    )
    subjects = tuple(
        Subject(name, Digest(file.sha256), SubjectNotes(file.nbytes)) for name, file in sorted(files.items())
    )
    return seal(msgspec.to_builtins(Statement(STATEMENT_TYPE, subjects, PREDICATE_TYPE, Predicate(build, run))))


def as_json(group: FitGroup) -> dict[str, object]:
    """A row of the table."""
    return {
        "modules": group.pattern, "count": len(group.fits), "rank": list(group.ranks),
        "energy": {"mean": group.energy, "lowest": group.worst.energy, "lowest_in": group.worst.name},
        "rounding": group.rounding, "left": group.left, "nbytes": group.nbytes,
    }  # fmt: skip


def _spec(checkpoint: Checkpoint) -> BaseSpec:
    return BaseSpec(public_name(checkpoint.location.name), checkpoint.location.revision)


def _dependencies(inputs: Mapping[str, Checkpoint], memory: DigestMemory) -> Iterator[Dependency]:
    for of, checkpoint in inputs.items():
        where = checkpoint.location
        for name, file in sorted(checkpoint.inputs.items()):
            notes = DependencyNotes(of, file.nbytes, where.revision, where.commit)
            yield Dependency(name, Digest(memory.sha256(file)), notes)


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
