"""The safetensors sink: the base's shards with patches, and the small files that go with a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingot.engine.chunk import Sampled
from ingot.engine.outcome import FileDigest, Files, Making, Outcome, Run
from ingot.engine.pump import Pump, Running, ShardResult
from ingot.formats.index import build_index
from ingot.plan.model import Plan, ShardPlan
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.inputs import InputFile
from ingot.storage.staging import Staging

#: Shards that are written at the same time.
_TOGETHER = 2


@dataclass(frozen=True)
class ShardSink:
    """See `outcome.Sink`."""

    def write(self, makings: Sequence[Making], base: Files, adapters: Sequence[Files], run: Run) -> Mapping[str, str]:
        """Of one artifact: another one's shards are moved in a pass of their own."""
        (making,) = makings
        plan, staging, outcome = making.output.plan, making.staging, making.outcome
        learnt = _write_shards(plan, base, adapters, staging, run, outcome)
        for name, data in _small_files(plan, base, adapters).items():
            write_small(staging, name, data, outcome)
        return learnt


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


def side_files(plan: Plan, base: Files, adapters: Sequence[Files]) -> dict[str, bytes]:
    """The bytes of the plan's side files, config.json among them."""
    files: dict[str, bytes] = {}
    for side in plan.side_files:
        if side.content is not None:
            files[side.name] = side.content
        else:
            source = (base if side.origin == "base" else adapters[int(side.origin)])[side.name]
            files[side.name] = source.read(0, source.nbytes)
    return files


def _small_files(plan: Plan, base: Files, adapters: Sequence[Files]) -> dict[str, bytes]:
    """The side files' bytes, and the index."""
    files = side_files(plan, base, adapters)
    if plan.index_name is not None:
        weight_map = {ref.name: shard.file for shard in plan.shards for ref in shard.header.tensors}
        files[plan.index_name] = build_index(weight_map, plan.payload_nbytes, {})
    return files


def _is_known(file: InputFile, memory: DigestMemory) -> bool:
    return (file.known_sha256 or memory.recall(file)) is not None


def write_small(staging: Staging, name: str, data: bytes, outcome: Outcome) -> None:
    """A small file of the artifact, unless an earlier run has finished it."""
    sha256 = hashlib.sha256(data).hexdigest()
    done = staging.trust(name)
    if done is None:
        done = staging.write(name, data)
    elif done.sha256 != sha256:  # made of another outcome (times, sampled shares): the shards are what counts
        raise AssertionError(f"{name} differs from the one that an earlier run of the same plan wrote")
    outcome.files.append(FileDigest(name, done.nbytes, done.sha256))
