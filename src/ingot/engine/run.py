"""Executes a plan: stage, pump every shard, side files, record, publish."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from ingot.engine.chunk import Sampled
from ingot.engine.pump import Progress, Pump, Running, ShardResult
from ingot.errors import Interrupted
from ingot.formats.index import build_index
from ingot.plan.model import Plan, ShardPlan
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.disk import Disk
from ingot.storage.inputs import InputFile
from ingot.storage.staging import Staging

Files = Mapping[str, InputFile]

#: Shards that are written at the same time.
_TOGETHER = 2


@dataclass(frozen=True)
class FileDigest:
    """A file of the output or of an input."""

    name: str
    nbytes: int
    sha256: str


@dataclass
class Outcome:
    """What a run did, for the record. `shards` and `results` go together; `resumed` were finished by an earlier run."""

    plan: Plan
    files: list[FileDigest] = field(default_factory=list)
    base_files: list[FileDigest] = field(default_factory=list)
    adapter_files: list[list[FileDigest]] = field(default_factory=list)
    running: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sampled: dict[str, Sampled] = field(default_factory=dict)
    resumed: list[str] = field(default_factory=list)
    device: str = "cpu"
    written_nbytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Run:
    """How a plan is executed: nothing here changes a byte of the output, except `device`, which is recorded."""

    disk: Disk
    jobs: int
    device: str
    version: str
    stop: threading.Event
    progress: Progress
    restart: bool = False
    memory: DigestMemory = field(default_factory=DigestMemory)


#: Makes the last files from the outcome: the small ones (name -> bytes), and the record, given what was written so far.
Finish = Callable[[Outcome], tuple[Mapping[str, bytes], Callable[[Outcome], bytes]]]


def execute(plan: Plan, base: Files, adapters: Sequence[Files], target: Path, run: Run, finish: Finish) -> Outcome:
    """Write the plan's artifact to `target`: whole or absent.

    Raises:
        OutputError, ResourceError, NonFiniteError, InputChangedError, Interrupted: what was finished stays staged, and
            the same call resumes it.
    """
    started = time.monotonic()
    outcome = Outcome(plan, device=run.device)
    outcome.adapter_files = [[_digest(file, name, run.memory) for name, file in files.items()] for files in adapters]
    with Staging.open(run.disk, target, _identity(plan, base, outcome, run), restart=run.restart) as staging:
        base_digests = _write_shards(plan, base, adapters, staging, run, outcome)
        for name, file in base.items():
            sha256 = base_digests.get(name)
            if sha256 is None:
                outcome.base_files.append(_digest(file, name, run.memory))
            else:
                run.memory.remember(file, sha256)
                outcome.base_files.append(FileDigest(name, file.nbytes, sha256))
        for name, data in _small_files(plan, base, adapters).items():
            _write_small(staging, name, data, outcome)
        small, record = finish(outcome)
        for name, data in small.items():
            _write_small(staging, name, data, outcome)
        for file in [*base.values(), *(file for files in adapters for file in files.values())]:
            file.check_unchanged()
        if run.stop.is_set():  # told to stop when every shard was whole already: they are kept, nothing is published
            raise Interrupted("the run was interrupted")
        outcome.seconds = time.monotonic() - started
        staging.publish(record(outcome))
    return outcome


def _write_shards(
    plan: Plan, base: Files, adapters: Sequence[Files], staging: Staging, run: Run, outcome: Outcome
) -> dict[str, str]:
    """Write what is not finished yet; returns the digests of base shards that were learnt on the way."""
    pump = Pump(plan, base, adapters, jobs=run.jobs, device=run.device, stop=run.stop, progress=run.progress)
    learnt: dict[str, str] = {}
    under_way: list[Running] = []
    try:
        for first in range(0, len(plan.shards), _TOGETHER):
            group = plan.shards[first : first + _TOGETHER]
            started = [r for shard in group if (r := _start(shard, base, staging, pump, run, outcome, learnt))]
            pump.submit(started)
            for running in under_way:  # commit while the workers are at the next shards
                _commit(running, base, staging, outcome, learnt)
            under_way = started
        for running in under_way:
            _commit(running, base, staging, outcome, learnt)
    except BaseException:
        run.stop.set()
        raise
    finally:
        pump.close()
    return learnt


def _start(
    shard: ShardPlan, base: Files, staging: Staging, pump: Pump, run: Run, outcome: Outcome, learnt: dict[str, str]
) -> Running | None:
    """Make a shard ready to be written; None where an earlier run has finished it."""
    done = staging.trust(shard.file)
    if done is not None:
        outcome.resumed.append(shard.file)
        run.progress(shard.nbytes)
        _note(shard, _from_journal(done.sha256, done.extra), outcome, learnt)
        return None
    known = shard.source is not None and _is_known(base[shard.source], run.memory)
    # an untouched shard is copied by the kernel, or shares its blocks with the base where the disk can
    staged = None if shard.untouched else staging.create(shard.file, shard.nbytes, direct=True)
    return pump.ready(shard, staged, digest_base=not known)


def _commit(running: Running, base: Files, staging: Staging, outcome: Outcome, learnt: dict[str, str]) -> None:
    shard, result = running.shard, running.result()
    if running.file is not None:
        staging.commit(running.file, result.sha256, _to_journal(result))
    elif shard.source is not None:
        staging.copy(shard.file, base[shard.source].fd, sha256=result.sha256, extra=_to_journal(result))
    outcome.written_nbytes += shard.nbytes
    _note(shard, result, outcome, learnt)


def _note(shard: ShardPlan, result: ShardResult, outcome: Outcome, learnt: dict[str, str]) -> None:
    outcome.files.append(FileDigest(shard.file, shard.nbytes, result.sha256))
    outcome.running[shard.file] = result.running
    outcome.sampled.update(result.sampled)
    if shard.source is not None and result.base_sha256 is not None:
        learnt[shard.source] = result.base_sha256


def _to_journal(result: ShardResult) -> dict[str, object]:
    sampled = {name: [s.seen, s.changed] for name, s in result.sampled.items()}
    return {"running": list(result.running), "base_sha256": result.base_sha256, "sampled": sampled}


def _from_journal(sha256: str, extra: Mapping[str, object]) -> ShardResult:
    running, sampled, base = extra["running"], extra["sampled"], extra["base_sha256"]
    assert isinstance(running, list)
    assert isinstance(sampled, dict)
    return ShardResult(
        sha256,
        tuple(map(str, running)),
        base if isinstance(base, str) else None,
        {name: Sampled(int(seen), int(changed)) for name, (seen, changed) in sampled.items()},
    )


def _small_files(plan: Plan, base: Files, adapters: Sequence[Files]) -> dict[str, bytes]:
    """The side files' bytes, and the index."""
    files: dict[str, bytes] = {}
    for side in plan.side_files:
        if side.content is not None:
            files[side.name] = side.content
        else:
            source = (base if side.origin == "base" else adapters[int(side.origin)])[side.name]
            files[side.name] = source.read(0, source.nbytes)
    if plan.index_name is not None:
        weight_map = {ref.name: shard.file for shard in plan.shards for ref in shard.header.tensors}
        files[plan.index_name] = build_index(weight_map, plan.payload_nbytes, {})
    return files


def _write_small(staging: Staging, name: str, data: bytes, outcome: Outcome) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    done = staging.trust(name)
    if done is None:
        done = staging.write(name, data)
    elif done.sha256 != sha256:  # made of another outcome (times, sampled shares): the shards are what counts
        raise AssertionError(f"{name} differs from the one that an earlier run of the same plan wrote")
    outcome.files.append(FileDigest(name, done.nbytes, done.sha256))


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


def _is_known(file: InputFile, memory: DigestMemory) -> bool:
    return (file.known_sha256 or memory.recall(file)) is not None


def _digest(file: InputFile, name: str, memory: DigestMemory) -> FileDigest:
    return FileDigest(name, file.nbytes, memory.sha256(file))
