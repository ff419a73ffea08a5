"""Executes plans: stage, write the large files, the records, publish."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version

from ingot.engine.outcome import FileDigest, Files, Making, Outcome, Output, Run, Sink
from ingot.engine.shards import ShardSink, write_small
from ingot.errors import IngotError, Interrupted
from ingot.plan.model import Plan
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.inputs import InputFile
from ingot.storage.staging import Staging


def execute(
    outputs: Sequence[Output], base: Files, adapters: Sequence[Files], run: Run, sink: Sink | None = None
) -> list[Outcome | IngotError]:
    """Write the artifacts of `outputs` in one pass over the inputs: each whole or absent.

    Returns:
        Of each output its outcome, or the error that ended it alone (see `Making.alone`).

    Raises:
        OutputError: a target is in use, or an interrupted run of another plan has it; nothing was written.
        ResourceError, NonFiniteError, InputChangedError, Interrupted: what was finished stays staged, and the same call
            resumes it. An artifact that was published before, is whole: leave it out.
    """
    started = time.monotonic()
    adapter_files = [[_digest(file, name, run.memory) for name, file in files.items()] for files in adapters]
    with ExitStack() as stagings:
        makings = []
        for output in outputs:
            outcome = Outcome(output.plan, device=run.device, adapter_files=adapter_files)
            identity = {**_identity(output.plan, base, outcome, run), **output.identity}
            staging = Staging.open(run.disk, output.target, identity, restart=run.restart)
            makings.append(Making(output, stagings.enter_context(staging), outcome))
        learnt = (sink or ShardSink()).write(makings, base, adapters, run)
        if any(making.alive for making in makings):
            _finish(makings, base, adapters, run, learnt, started)
    return [making.failure or making.outcome for making in makings]


def _finish(
    makings: Sequence[Making],
    base: Files,
    adapters: Sequence[Files],
    run: Run,
    learnt: Mapping[str, str],
    started: float,
) -> None:
    """Small files, records, publish. `learnt` are digests of base files, `started` is of the monotonic clock."""
    base_files = [_base_digest(file, name, learnt, run.memory) for name, file in base.items()]
    records = []
    for making in makings:
        if making.alive:
            with making.alone():
                making.outcome.base_files = base_files
                small, record = making.output.finish(making.outcome)
                for name, data in small.items():
                    write_small(making.staging, name, data, making.outcome)
                records.append((making, record))
    for file in [*base.values(), *(file for files in adapters for file in files.values())]:
        file.check_unchanged()
    if run.stop.is_set():  # told to stop when every shard was whole already: they are kept, nothing is published
        raise Interrupted("the run was interrupted")
    for making, record in records:
        with making.alone():
            making.outcome.seconds = time.monotonic() - started
            making.staging.publish(record(making.outcome))


def _identity(plan: Plan, base: Files, outcome: Outcome, run: Run) -> dict[str, str]:
    """What must agree for a resume: anything else and the two halves would not be of one model."""
    seen = "\n".join(f"{name} {file.nbytes} {file.identity.mtime_ns}" for name, file in sorted(base.items()))
    return {
        "plan": plan.digest,
        "base files": hashlib.sha256(seen.encode()).hexdigest(),
        "adapter files": ",".join(d.sha256 for files in outcome.adapter_files for d in files),
        "ingot version": run.version,
        "torch version": version("torch"),
        "device": run.device,
    }


def _base_digest(file: InputFile, name: str, learnt: Mapping[str, str], memory: DigestMemory) -> FileDigest:
    sha256 = learnt.get(name)
    if sha256 is None:
        return _digest(file, name, memory)
    memory.remember(file, sha256)
    return FileDigest(name, file.nbytes, sha256)


def _digest(file: InputFile, name: str, memory: DigestMemory) -> FileDigest:
    return FileDigest(name, file.nbytes, memory.sha256(file))
