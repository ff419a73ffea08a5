"""Computes a plan's output once more, writes nothing, and compares it with the files of an artifact."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from ingot.engine.chunk import Chunk, ShardReader, chunks_of, new_buffer
from ingot.engine.pump import LazyPatcher
from ingot.errors import Interrupted
from ingot.plan.model import Plan
from ingot.storage.inputs import InputFile

Files = Mapping[str, InputFile]


def recompute(
    plan: Plan,
    base: Files,
    adapters: Sequence[Files],
    artifact: Files,
    *,
    device: str,
    stop: threading.Event,
    progress: Callable[[int], None],
) -> Iterator[tuple[str, str, int]]:
    """Every tensor whose bytes differ from what the plan gives: (file, tensor, bytes that differ in its first chunk).

    A difference in a shard's header is told with an empty tensor name. Yields nothing when all is equal.
    """
    patcher, buffer = LazyPatcher(plan, base, adapters, device), new_buffer()
    for shard in plan.shards:
        reader = ShardReader(shard, base, patcher, trust_base=True)
        told: set[str] = set()
        for chunk in chunks_of(shard):
            if stop.is_set():
                raise Interrupted("the check was interrupted", hint="Run the same command again; checks write nothing.")
            expected = reader.fill(chunk, buffer, {})
            found = artifact[shard.file].read(chunk.begin, chunk.end - chunk.begin)
            if expected != found:
                for name, differing in _differences(shard_names(reader, chunk), expected, found, chunk):
                    if name not in told:
                        told.add(name)
                        yield shard.file, name, differing
            progress(chunk.end - chunk.begin)


def shard_names(reader: ShardReader, chunk: Chunk) -> list[tuple[str, int, int]]:
    """What stands in a chunk: (tensor name, begin, end) in file offsets; the header has the empty name."""
    shard = reader.shard
    ranges = [("", 0, shard.header.nbytes), *((ref.name, ref.begin, ref.end) for ref in shard.header.tensors)]
    return [
        (name, max(a, chunk.begin), min(b, chunk.end)) for name, a, b in ranges if a < chunk.end and chunk.begin < b
    ]


def _differences(
    ranges: Sequence[tuple[str, int, int]], expected: memoryview, found: bytes, chunk: Chunk
) -> Iterator[tuple[str, int]]:
    for name, begin, end in ranges:
        one, other = expected[begin - chunk.begin : end - chunk.begin], found[begin - chunk.begin : end - chunk.begin]
        if one != other:
            yield name, sum(a != b for a, b in zip(one, other, strict=True))
