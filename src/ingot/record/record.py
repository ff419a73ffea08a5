"""From an outcome to the last files of an artifact: the tensor table, the model card, and the record itself."""

from __future__ import annotations

import platform
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING
from urllib.parse import quote

from ingot.checkpoint.quantized.encoded import Encoded
from ingot.combine.parameters import Method
from ingot.plan.model import PLAN_VERSION, OpKind, Plan, Rounding
from ingot.plan.public import claim_matches, is_hub_id, public_name
from ingot.record.card import CARD_NAME, build_card
from ingot.record.form import (
    BUILD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    AdapterFacts,
    AdapterSpec,
    BaseClaim,
    BaseSpec,
    BuildDefinition,
    Builder,
    Byproduct,
    Dependency,
    DependencyNotes,
    Digest,
    Dtypes,
    Internals,
    Metadata,
    Predicate,
    Recipe,
    Release,
    RunDetails,
    Statement,
    Subject,
    SubjectNotes,
)
from ingot.record.statement import write_record
from ingot.record.tensor_table import TABLE_NAME, build_table
from ingot.storage.staging import RECORD_NAME
from ingot.version import __version__

if TYPE_CHECKING:
    from ingot.engine.outcome import FileDigest, Outcome
    from ingot.plan.model import AdapterInfo, BaseInfo

#: Libraries whose version may matter for the bytes or for the names of tensors.
_LIBRARIES = ("torch", "numpy", "transformers", "safetensors", "huggingface_hub", "gguf", "tokenizers")


def finish(outcome: Outcome, release: Release | None = None) -> tuple[Mapping[str, bytes], Callable[[Outcome], bytes]]:
    """The small files that end an artifact, and what makes the record once they are written (`engine.run.Finish`).

    Law: the small files depend on the plan, the release and the shards' digests alone, so that a resumed run writes the
    same bytes.
    """
    small = {TABLE_NAME: build_table(outcome), CARD_NAME: build_card(outcome, release)}
    return small, partial(build_record, release=release)


def build_record(outcome: Outcome, release: Release | None = None) -> bytes:
    """ingot.json: see `form`. `outcome.files` are all other files of the artifact."""
    files = sorted(outcome.files, key=lambda file: file.name)
    table = next(file for file in files if file.name == TABLE_NAME)
    finished = datetime.now(UTC)
    build = BuildDefinition(
        build_type=BUILD_TYPE,
        external=_recipe(outcome.plan, release),
        internal=_internals(outcome),
        dependencies=tuple(_dependencies(outcome)),
    )
    run = RunDetails(
        builder=Builder(f"urn:ingot:{__version__}"),
        metadata=Metadata(str(uuid.uuid4()), _time(finished - timedelta(seconds=outcome.seconds)), _time(finished)),
        byproducts=(Byproduct(table.name, Digest(table.sha256)),),
        checks=_checks(outcome),
        base_claims=tuple(_claim(number, info, outcome.plan.base) for number, info in enumerate(outcome.plan.adapters)),
        parents=_parents(outcome),
        evaluations=(),
    )
    subjects = tuple(Subject(file.name, Digest(file.sha256), SubjectNotes(file.nbytes)) for file in files)
    return write_record(Statement(STATEMENT_TYPE, subjects, PREDICATE_TYPE, Predicate(build, run)))


def _recipe(plan: Plan, release: Release | None) -> Recipe:
    return Recipe(
        base=BaseSpec(public_name(plan.base.name), plan.base.revision),
        adapters=tuple(AdapterSpec(public_name(info.name), info.revision, info.weight) for info in plan.adapters),
        options=plan.options,
        release=release,
    )


def _internals(outcome: Outcome) -> Internals:
    import torch

    from ingot.kernels.grid import TILE_ELEMENTS

    plan = outcome.plan
    formulas = Counter(placed.term.formula for op in plan.ops for placed in op.terms)
    return Internals(
        plan_digest=plan.digest,
        plan_version=PLAN_VERSION,
        tile_elements=TILE_ELEMENTS,
        formulas=dict(sorted(formulas.items())),
        adapters=tuple(
            AdapterFacts(public_name(a.name), a.method, a.ranks, a.alphas, a.tensors, a.peft_version)
            for a in plan.adapters
        ),
        dtypes=Dtypes("F32", "F32", tuple(sorted({op.dtype for op in plan.ops}))),
        rounding=plan.options.rounding,
        seed=plan.options.seed if _by_chance(plan) else None,
        device=outcome.device,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        ingot=__version__,
        libraries=versions(),
        backends=outcome.backends,
    )


def _by_chance(plan: Plan) -> bool:
    """Whether the seed decides any byte."""
    return Method(plan.options.method).by_chance or any(op.rounding is Rounding.STOCHASTIC for op in plan.ops)


def versions() -> dict[str, str]:
    """Of Python and the libraries that may matter, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _dependencies(outcome: Outcome) -> Iterator[Dependency]:
    plan = outcome.plan
    yield from _inputs("base", plan.base, outcome.base_files)
    for number, (info, files) in enumerate(zip(plan.adapters, outcome.adapter_files, strict=True)):
        yield from _inputs(str(number), info, files)


def _inputs(of: str, info: BaseInfo | AdapterInfo, files: Iterable[FileDigest]) -> Iterator[Dependency]:
    for file in sorted(files, key=lambda file: file.name):
        notes = DependencyNotes(of, file.nbytes, info.revision, info.commit)
        yield Dependency(file.name, Digest(file.sha256), notes, _package_url(info, file.name))


def _package_url(info: BaseInfo | AdapterInfo, file: str) -> str | None:
    """Where on the Hub a file came from: a package URL of type `huggingface`, the file as its subpath."""
    if info.commit is None and not is_hub_id(info.name):
        return None
    at = f"@{quote(info.commit, safe='')}" if info.commit else ""
    return f"pkg:huggingface/{quote(public_name(info.name))}{at}#{quote(file)}"


def _checks(outcome: Outcome) -> dict[str, object]:
    """What the run itself proves. `no_change_seen` are changed tensors whose sampled elements all kept their value."""
    plan = outcome.plan
    untouched = [op for op in plan.ops if op.kind is OpKind.COPY]
    changed = [op for op in plan.ops if op.terms]
    idle = [op.name for op in changed if (s := outcome.sampled.get(op.name)) is not None and not s.changed]
    tensors = sum(info.tensors for info in plan.adapters)
    consumed = sum(bool(ops) for ops in plan.claims.values())
    return {
        "adapter_tensors": {"total": tensors, "consumed": consumed, "explained": dict(sorted(plan.explained.items()))},
        "tensors_changed": {"planned": len(changed), "changed": len(changed) - len(idle), "no_change_seen": idle},
        "tensors_untouched": {"planned": len(untouched), "moved_as_bytes": len(untouched)},
        "tensors_cast": sum(op.kind is OpKind.CAST for op in plan.ops),
        "base_decoded": dict(sorted(_decoded(plan).items())),
        "tensors_dropped": dict(sorted(plan.dropped.items())),
        "finite": "every computed element" if plan.options.accept_nonfinite_base else "every element",
    }


def _decoded(plan: Plan) -> Counter[str]:
    """Tensors of a quantized base by their format."""
    return Counter(op.source.format.title for op in plan.ops if isinstance(op.source, Encoded))


def _claim(number: int, info: AdapterInfo, base: BaseInfo) -> BaseClaim:
    claimed = public_name(info.claimed_base) if info.claimed_base else None
    matches = claim_matches(base, info)
    return BaseClaim(number, claimed, info.claimed_revision, matches)


def _parents(outcome: Outcome) -> tuple[str, ...]:
    """Digests of the records that lay beside the inputs."""
    files = [*outcome.base_files, *(file for files in outcome.adapter_files for file in files)]
    return tuple(dict.fromkeys(file.sha256 for file in files if file.name == RECORD_NAME))


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
