"""An artifact against what it was made of: the inputs' digests, the plan's, and every byte computed once more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.checkpoint.locate import locate
from ingot.errors import AdapterError, BaseError, CheckFailed, UsageError
from ingot.formats.index import build_index
from ingot.plan.model import PLAN_VERSION, Plan
from ingot.plan.public import is_hub_id, public_name
from ingot.record.artifact import Artifact, Reading
from ingot.record.card import CARD_NAME
from ingot.record.checks import Check, answer
from ingot.record.contents import digest_of
from ingot.record.form import AdapterSpec, BaseSpec
from ingot.record.statement import Record
from ingot.record.tensor_table import TABLE_NAME
from ingot.storage.inputs import InputFile

if TYPE_CHECKING:
    from ingot.merge import Job
    from ingot.plan.model import AdapterInfo, BaseInfo


def inputs_of(record: Record, base: str | None, adapters: Sequence[str] | None) -> tuple[str, list[str]]:
    """Where base and adapters are: as told, or on the Hub. The record holds no paths.

    Raises:
        UsageError: one is not told and did not come from the Hub, or there are more or fewer adapters than recorded.
    """
    recorded = record.recipe.adapters
    told_adapters = list(adapters or [])
    if told_adapters and len(told_adapters) != len(recorded):
        raise UsageError("not as many adapters as the artifact was made of",
                         expected=f"{len(recorded)}, in this order: {', '.join(a.name for a in recorded)}",
                         found=len(told_adapters))  # fmt: skip
    found = base or _on_the_hub(record, "base", record.recipe.base)
    return found, told_adapters or [_on_the_hub(record, str(n), spec) for n, spec in enumerate(recorded)]


def _on_the_hub(record: Record, of: str, spec: BaseSpec | AdapterSpec) -> str:
    if not is_hub_id(spec.name):
        raise UsageError(
            "the record does not say where this input is", where=spec.name,
            hint="Name base and adapters: `ingot verify OUT --against-inputs --base BASE --adapter ADAPTER`.",
        )  # fmt: skip
    at = record.commit(of) or spec.revision
    return f"{spec.name}@{at}" if at else spec.name


def check_against(
    artifact: Artifact, base: str, adapters: Sequence[str], reading: Reading, *,
    imatrix: Path | None = None, llama_cpp: Path | None = None,
) -> Iterator[Check]:  # fmt: skip
    """Three questions, each asked only when the one before it was answered with yes.

    Raises:
        BaseError, AdapterError, MismatchError, ...: what the plan of these inputs raises.
        Interrupted, InputChangedError.
    """
    record = artifact.record
    inputs = list(answer("inputs", _input_faults(record, base, adapters, reading), "base and adapters as recorded"))
    yield from inputs
    if not all(check.ok for check in inputs):
        return
    from ingot.merge import prepare

    weighted = [(spec, entry.weight) for spec, entry in zip(adapters, record.recipe.adapters, strict=True)]
    names = partial(as_recorded, record=record)
    with prepare(base, weighted, record.recipe.options, imatrix=imatrix, llama_cpp=llama_cpp, renamed=names) as job:
        plan = job.plan
        planned = list(answer("plan", _plan_faults(plan, artifact), f"the same plan: {plan.digest[:12]}"))
        yield from planned
        if all(check.ok for check in planned):
            yield from answer(
                "recomputed", _differences(job, plan, artifact, reading), f"every byte is the same{_elsewhere(record)}"
            )


def as_recorded(plan: Plan, record: Record) -> Plan:
    """The plan under the names of the record: a base may be called and lie otherwise, its bytes are what counts."""
    recipe = record.recipe
    base = replace(plan.base, **_origin(plan.base, recipe.base, record.commit("base")))
    adapters = tuple(
        replace(info, **_origin(info, spec, record.commit(str(number))))
        for number, (info, spec) in enumerate(zip(plan.adapters, recipe.adapters, strict=True))
    )
    return replace(plan, base=base, adapters=adapters)


def _origin(now: BaseInfo | AdapterInfo, spec: BaseSpec | AdapterSpec, commit: str | None) -> dict[str, Any]:
    # subtle: a record shows names with `public_name`; where that changes nothing else, the name itself is what counts
    name = now.name if public_name(now.name) == spec.name else spec.name
    return {"name": name, "revision": spec.revision, "commit": commit}


def _input_faults(record: Record, base: str, adapters: Sequence[str], reading: Reading) -> Iterator[str]:
    yield from _folder_faults(record, "base", "the base", locate(base, what="base", error=BaseError).path, reading)
    for number, spec in enumerate(adapters):
        folder = locate(spec, what="adapter", error=AdapterError).path
        yield from _folder_faults(record, str(number), f"adapter {number + 1}", folder, reading)


def _folder_faults(record: Record, of: str, title: str, folder: Path, reading: Reading) -> Iterator[str]:
    for name, entry in record.dependencies(of).items():
        try:
            with InputFile.open(folder, name, error=CheckFailed) as file:
                same = file.nbytes == entry.annotations.size and digest_of(file, reading) == entry.digest.sha256
        except CheckFailed:
            yield f"{name} of {title} is missing, or cannot be opened"
            continue
        if not same:
            yield f"{name} of {title} is not the file that was merged"


def _plan_faults(plan: Plan, artifact: Artifact) -> Iterator[str]:
    internals = artifact.record.internals
    if internals.plan_version != PLAN_VERSION:
        yield f"made under plan version {internals.plan_version} by ingot {internals.ingot}, not under {PLAN_VERSION}"
    elif plan.digest != internals.plan_digest:
        yield f"this ingot plans something else: {plan.digest[:12]} instead of {internals.plan_digest[:12]}"
    for shard in plan.shards if plan.options.gguf is None else ():
        file = artifact.files.get(shard.file)
        if file is None or file.nbytes != shard.nbytes:
            yield f"{shard.file}: not the {shard.nbytes} bytes of the plan"


def _differences(job: Job, plan: Plan, artifact: Artifact, reading: Reading) -> Iterator[str]:
    """Shards, computed again; then the other files, whose names and bytes the plan fixes too."""
    from ingot.engine.recompute import recompute

    record = artifact.record
    if job.document is not None:
        yield from _gguf_differences(job, plan, artifact, reading)
        return
    differing = recompute(
        plan, job.base.inputs, job.adapter_files, artifact.files,
        device=_device(record), stop=reading.stop, progress=reading,
    )  # fmt: skip
    for file, tensor, count in differing:
        what = f"tensor {tensor} differs" if tensor else f"the header differs in {count} bytes"
        yield f"{file}: {what}{_elsewhere(record)}"
    expected = _small_digests(plan, record)
    for name, sha256 in expected.items():
        subject = record.subjects.get(name)
        if subject is None or subject.sha256 != sha256:
            yield f"{name}: not what the plan makes"
    planned = expected.keys() | {shard.file for shard in plan.shards} | {CARD_NAME, TABLE_NAME}
    yield from (f"{name}: no file of the plan" for name in record.subjects.keys() - planned)


def _gguf_differences(job: Job, plan: Plan, artifact: Artifact, reading: Reading) -> Iterator[str]:
    """The GGUF files, computed again, and what is no file of the plan."""
    from ingot.quantize.gguf.run import differences

    assert job.document is not None
    record, document = artifact.record, job.document
    if document.backends != record.internals.backends:
        yield f"quantized by {record.internals.backends}, and here by {dict(document.backends)}"
    files = {file.name for of in document.formats for file in of.files}
    missing = sorted(files - artifact.files.keys())
    yield from (f"{name}: missing" for name in missing)
    yield from (f"{name}: no file of the plan" for name in record.subjects.keys() - files - {CARD_NAME, TABLE_NAME})
    if missing:
        return
    for file, tensor in differences(
        document, plan, job.base.inputs, job.adapter_files, artifact.files, device=_device(record), progress=reading
    ):
        yield f"{file}: {f'tensor {tensor}' if tensor else 'the header'} differs{_elsewhere(record)}"


def _small_digests(plan: Plan, record: Record) -> dict[str, str | None]:
    """The digests that the index and the side files must have; None for a copy of what the record does not list."""
    digests: dict[str, str | None] = {}
    for side in plan.side_files:
        source = record.dependencies(side.origin).get(side.name)
        copied = source.digest.sha256 if source else None
        digests[side.name] = copied if side.content is None else hashlib.sha256(side.content).hexdigest()
    if plan.index_name is not None:
        weight_map = {ref.name: shard.file for shard in plan.shards for ref in shard.header.tensors}
        digests[plan.index_name] = hashlib.sha256(build_index(weight_map, plan.payload_nbytes)).hexdigest()
    return digests


def _device(record: Record) -> str:
    """The kind of device of the run where this machine has it: another one may round differently."""
    import torch

    return "cuda" if record.internals.device.startswith("cuda") and torch.cuda.is_available() else "cpu"


def _elsewhere(record: Record) -> str:
    made, here = record.internals.device, _device(record)
    return "" if made.startswith(here) else f" (made on {made}, computed here on {here})"
