"""From names of a base and adapters to jobs: everything is opened, and planned."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.adapters.factor import Factor
from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.locate import locate
from ingot.errors import AdapterError, BaseError
from ingot.merge.job import Job
from ingot.plan.budget import budget, for_gguf
from ingot.plan.build import build
from ingot.plan.model import GgufOptions, Options, Plan
from ingot.plan.resolve import Weighted
from ingot.storage import pace

if TYPE_CHECKING:
    from ingot.quantize.gguf.document import Document


@dataclass(frozen=True)
class Wanted:
    """One artifact of `prepare_formats`.

    Attributes:
        target: the directory to be made; its disk's free space goes into the plan.
        gguf: None for safetensors shards.
        imatrix: the importance matrix of `gguf`.
        llama_cpp: its checkout of llama.cpp.
    """

    target: Path | None = None
    gguf: GgufOptions | None = None
    imatrix: Path | None = None
    llama_cpp: Path | None = None


def prepare(
    base: str,
    adapters: Sequence[tuple[str, float]],
    options: Options | None = None,
    *,
    target: Path | None = None,
    jobs: int | None = None,
    imatrix: Path | None = None,
    llama_cpp: Path | None = None,
    renamed: Callable[[Plan], Plan] = lambda plan: plan,
) -> Job:
    """Open base and adapters and plan their merge; reads headers, configs and a few rows, writes nothing.

    Args:
        base: a directory or a Hub id.
        adapters: each adapter's directory or Hub id, and its weight.
        options: what changes the output's bytes.
        jobs: threads that compute; default as many as the cores it may use.
        target, imatrix, llama_cpp: see `Wanted`.
        renamed: gives the plan the names of a record, before anything is made of them: a GGUF holds the plan's digest.

    Raises:
        BaseError, AdapterError, MismatchError, UnsafeInputError: what does not hold, before a weight is read.
    """
    options = options or Options()
    wanted = Wanted(target, options.gguf, imatrix, llama_cpp)
    (job,) = prepare_formats(base, adapters, options, [wanted], jobs=jobs, renamed=renamed)
    return job


def prepare_formats(
    base: str,
    adapters: Sequence[tuple[str, float]],
    options: Options | None,
    formats: Sequence[Wanted],
    *,
    jobs: int | None = None,
    renamed: Callable[[Plan], Plan] = lambda plan: plan,
) -> list[Job]:
    """Open base and adapters once, and plan an artifact of each format; see `prepare`.

    The jobs share what is open: close them (each, or any one) when none of them is to run anymore. `options.gguf` is
    not looked at.
    """
    options = options or Options()
    if not formats:
        raise ValueError("no format is wanted")
    if not adapters and any(wanted.gguf is None for wanted in formats):
        raise AdapterError("no adapter was named", hint="Type `ingot merge BASE ADAPTER -o OUT`.")
    opened: list[Weighted] = []
    checkpoint = Checkpoint.open(locate(base, what="base", error=BaseError))
    try:
        for number, (spec, weight) in enumerate(adapters):
            location = locate(spec, what="adapter", error=AdapterError)
            opened.append(Weighted.open(location, number, weight, options.assume_peft_version, options.expert_layout))
        plan = renamed(build(checkpoint, opened, options, lambda a, b: _same_values(opened, a, b)))
        return [_job(checkpoint, opened, plan, wanted, jobs or cores()) for wanted in formats]
    except BaseException:
        checkpoint.close()
        for weighted in opened:
            weighted.close()
        raise


def _job(base: Checkpoint, adapters: Sequence[Weighted], plan: Plan, wanted: Wanted, workers: int) -> Job:
    """The job of one format. `plan` says everything but the format."""
    plan = replace(plan, options=replace(plan.options, gguf=wanted.gguf))
    cost = budget(
        plan,
        adapter_nbytes=sum(file.nbytes for w in adapters for file in w.inputs.values()),
        base_nbytes=base.nbytes,
        target=wanted.target,
        jobs=workers,
        measured=pace.recall(),
    )
    document = _document(plan, base, adapters, wanted.imatrix, wanted.llama_cpp)
    if document is not None:
        from ingot.quantize.gguf.memory import memory_nbytes

        cost = for_gguf(cost, document.nbytes, memory_nbytes(document, workers))
    return Job(base, tuple(adapters), replace(plan, budget=cost), wanted.target, workers, document)


def _document(
    plan: Plan, base: Checkpoint, adapters: Sequence[Weighted], imatrix: Path | None, llama_cpp: Path | None
) -> Document | None:
    if plan.options.gguf is None:
        return None
    from ingot.quantize.gguf.run import document_of

    files = [weighted.inputs for weighted in adapters]
    return document_of(plan, base.inputs, files, imatrix=imatrix, llama_cpp=llama_cpp)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _same_values(adapters: Sequence[Weighted], one: Factor, other: Factor) -> bool:
    """Whether two factors hold the same numbers; reads both tensors. Asked only of tied embeddings."""
    import torch

    from ingot.engine.factors import FactorReader

    if one.shape != other.shape:
        return False
    read = FactorReader([w.inputs for w in adapters], torch.device("cpu"))
    return torch.equal(read(one), read(other))
