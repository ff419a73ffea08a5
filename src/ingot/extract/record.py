"""ingot.json beside an extracted adapter: what it was made of, how, and how well it holds the difference.

The same envelope as a merge's record (`registry/form.py`), of another build type, sealed in the same way.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.extract.model import Request
from ingot.extract.result import Extraction, FitGroup
from ingot.plan.public import public_name
from ingot.registry.form import PREDICATE_TYPE, STATEMENT_TYPE
from ingot.registry.statement import seal
from ingot.storage import DigestMemory, Finished
from ingot.version import __version__

BUILD_TYPE = "urn:ingot:extract:v1"


def build_record(
    request: Request,
    result: Extraction,
    files: Mapping[str, Finished],
    inputs: Mapping[str, Checkpoint],
    memory: DigestMemory,
) -> bytes:
    """The record's bytes. `inputs` are "base" and "tuned"; digests that are not remembered are computed from them."""
    finished = datetime.now(UTC)
    return seal(
        {
            "_type": STATEMENT_TYPE,
            "subject": [_file(name, file.sha256, {"size": file.nbytes}) for name, file in sorted(files.items())],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": _asked(request, inputs),
                    "internalParameters": {"ingot": __version__, "torch": metadata.version("torch")},
                    "resolvedDependencies": _dependencies(inputs, memory),
                },
                "runDetails": {
                    "builder": {"id": f"urn:ingot:{__version__}"},
                    "metadata": {
                        "invocationId": str(uuid.uuid4()),
                        "startedOn": _time(finished - timedelta(seconds=result.seconds)),
                        "finishedOn": _time(finished),
                    },
                    "ingot_checks": {
                        "parameters": {"total": result.parameters, "equal": result.equal},
                        "factors": [as_json(group) for group in result.fit_groups],
                        "whole": [vars(group) for group in result.whole_groups],
                    },
                },
            },
        }
    )


def as_json(group: FitGroup) -> dict[str, object]:
    """A row of the table."""
    return {
        "modules": group.pattern, "count": len(group.fits), "rank": list(group.ranks),
        "energy": {"mean": group.energy, "lowest": group.worst.energy, "lowest_in": group.worst.name},
        "rounding": group.rounding, "left": group.left, "nbytes": group.nbytes,
    }  # fmt: skip


def _asked(request: Request, inputs: Mapping[str, Checkpoint]) -> dict[str, object]:
    where = {of: checkpoint.location for of, checkpoint in inputs.items()}
    models = {of: {"name": public_name(one.name), "revision": one.revision} for of, one in where.items()}
    budget = request.budget
    return {
        **models, "rank": budget.rank, "energy": budget.energy, "max_rank": budget.max_rank,
        "dtype": request.dtype, "save_modules": list(request.save),
    }  # fmt: skip


def _dependencies(inputs: Mapping[str, Checkpoint], memory: DigestMemory) -> Sequence[dict[str, Any]]:
    found = []
    for of, checkpoint in inputs.items():
        where = checkpoint.location
        known = {key: value for key, value in (("revision", where.revision), ("commit", where.commit)) if value}
        for name, file in sorted(checkpoint.inputs.items()):
            found.append(_file(name, memory.sha256(file), {"of": of, "size": file.nbytes, **known}))
    return found


def _file(name: str, sha256: str, notes: Mapping[str, object]) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}, "annotations": dict(notes)}


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
