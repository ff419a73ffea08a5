"""Executes a plan: stage, write the large files, the record, publish."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ingot.engine.outcome import FileDigest, Files, Finish, Outcome, Run, Sink
from ingot.engine.shards import ShardSink, write_small
from ingot.errors import Interrupted
from ingot.plan.model import Plan
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.inputs import InputFile
from ingot.storage.staging import Staging


def execute(
    plan: Plan,
    base: Files,
    adapters: Sequence[Files],
    target: Path,
    run: Run,
    finish: Finish,
    sink: Sink | None = None,
) -> Outcome:
    """Write the plan's artifact to `target`: whole or absent.

    Raises:
        OutputError, ResourceError, NonFiniteError, InputChangedError, Interrupted: what was finished stays staged, and
            the same call resumes it.
    """
    started = time.monotonic()
    outcome = Outcome(plan, device=run.device)
    outcome.adapter_files = [[_digest(file, name, run.memory) for name, file in files.items()] for files in adapters]
    sink = sink or ShardSink()
    identity = {**_identity(plan, base, outcome, run), **sink.identity()}
    with Staging.open(run.disk, target, identity, restart=run.restart) as staging:
        base_digests = sink.write(plan, base, adapters, staging, run, outcome)
        for name, file in base.items():
            sha256 = base_digests.get(name)
            if sha256 is None:
                outcome.base_files.append(_digest(file, name, run.memory))
            else:
                run.memory.remember(file, sha256)
                outcome.base_files.append(FileDigest(name, file.nbytes, sha256))
        small, record = finish(outcome)
        for name, data in small.items():
            write_small(staging, name, data, outcome)
        for file in [*base.values(), *(file for files in adapters for file in files.values())]:
            file.check_unchanged()
        if run.stop.is_set():  # told to stop when every shard was whole already: they are kept, nothing is published
            raise Interrupted("the run was interrupted")
        outcome.seconds = time.monotonic() - started
        staging.publish(record(outcome))
    return outcome


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
        **({"notes": run.notes} if run.notes else {}),
    }


def _digest(file: InputFile, name: str, memory: DigestMemory) -> FileDigest:
    return FileDigest(name, file.nbytes, memory.sha256(file))
