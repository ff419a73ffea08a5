"""A few workers take the chunks of a shard in file order: read, patch, check, digest; writers write them.

Chunks are independent, so there are no queues; memory is one chunk and one tile a worker, whatever the model's size.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ingot.engine.chunk import Chunk, Sampled, ShardReader, chunks_of, new_buffer
from ingot.engine.digests import HotDigest, OrderedDigest
from ingot.errors import Interrupted
from ingot.plan.model import Plan, ShardPlan
from ingot.storage import kernel
from ingot.storage.inputs import InputFile
from ingot.storage.staged_file import StagedFile

if TYPE_CHECKING:
    from ingot.engine.patch import Patcher

Progress = Callable[[int], None]
#: Threads that hand finished chunks to the disk; they wait more than they work.
WRITERS = 2


@dataclass
class ShardResult:
    """What is known of a shard when its last chunk is written.

    `running` holds the sha256 of the file up to the end of each tensor. `base_sha256` is set when the run digested
    the base's shard on its way.
    """

    sha256: str
    running: tuple[str, ...]
    base_sha256: str | None
    sampled: Mapping[str, Sampled] = field(default_factory=dict)


class Running:
    """A shard that is being written: its chunks are with the workers."""

    def __init__(
        self,
        shard: ShardPlan,
        file: StagedFile | None,
        reader: ShardReader,
        stop: threading.Event,
        failures: list[BaseException],
        *,
        digest_base: bool,
    ) -> None:
        """Without a file the bytes are only checked and digested; `failures` are those of the whole run."""
        self.shard = shard
        self.file = file
        self.reader = reader
        self.stop = stop
        self.failures = failures
        self.written = OrderedDigest(stop, [ref.end for ref in shard.header.tensors])
        # an untouched shard has the base's digest, and one with another header is not read in the base's order
        apart = digest_base and shard.source is not None and not shard.untouched
        self.source = OrderedDigest(stop) if apart else None
        self.samples: list[dict[str, Sampled]] = []
        self._left = len(chunks_of(shard))
        self._whole = True
        self._counting = threading.Lock()
        self._ended = threading.Event()

    def compute(self, chunk: Chunk, buffer: memoryview) -> None:
        """Read, patch, check and digest one chunk; its bytes are then in the front of the buffer."""
        sampled: dict[str, Sampled] = {}
        digest = HotDigest(self.written, chunk.number, buffer[: chunk.end - chunk.begin])
        source = self.source
        read = (lambda data: source.update(chunk.number, data)) if source is not None else None
        self.reader.fill(chunk, buffer, sampled, read=read, final=digest.final)
        digest.close()
        self.samples.append(sampled)

    def write(self, chunk: Chunk, buffer: memoryview) -> None:
        """Write the chunk that stands in the buffer."""
        if self.file is not None:
            padded, length = buffer[: chunk.padded], chunk.end - chunk.begin
            padded[length:] = bytes(chunk.padded - length)
            self.file.write_at(padded, chunk.begin)

    def one_ended(self, *, written: bool) -> None:
        """A chunk was written, or given up; every chunk says so once."""
        with self._counting:
            self._left -= 1
            self._whole = self._whole and written
            if not self._left:
                self._ended.set()

    def result(self) -> ShardResult:
        """Wait for the last chunk. A shard that is whole is good, even when the run was told to stop meanwhile.

        Raises:
            Interrupted: the run was told to stop.
            IngotError: whatever a worker met first, in this shard or another.
        """
        self._ended.wait()
        if not self._whole:
            raise self.failures[0] if self.failures else Interrupted("the run was interrupted")
        digest = self.written.hexdigest
        base = self.source.hexdigest if self.source else digest if self.shard.untouched else None
        return ShardResult(digest, self.written.noted, base, _joined(self.samples))


class Pump:
    """The workers of one run.

    Args:
        inputs: the base's open files by name.
        adapters: the open files of each adapter.
        jobs: threads that read, compute and digest; a few more only write, so that no core waits for the disk.
        stop: set it to end the run at the next chunk.
        progress: is told of every written number of bytes, from any worker.
    """

    def __init__(
        self,
        plan: Plan,
        inputs: Mapping[str, InputFile],
        adapters: Sequence[Mapping[str, InputFile]],
        *,
        jobs: int,
        device: str,
        stop: threading.Event,
        progress: Progress,
    ) -> None:
        kernel.give_back_freed_blocks()
        self._trust_base = plan.options.accept_nonfinite_base
        self._inputs = inputs
        self._stop = stop
        self._progress = progress
        self._patcher = LazyPatcher(plan, inputs, adapters, device)
        self._buffers: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(jobs + WRITERS):
            self._buffers.put(new_buffer())
        self._failures: list[BaseException] = []
        self._workers = ThreadPoolExecutor(jobs, thread_name_prefix="ingot")
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="ingot-write")

    def close(self) -> None:
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._writers.shutdown(wait=True)

    def ready(self, shard: ShardPlan, file: StagedFile | None, *, digest_base: bool) -> Running:
        """A shard whose bytes are to be written to `file`; `submit` begins it.

        Without a file the bytes are only checked and digested: those of an untouched shard, which is copied whole.
        """
        reader = ShardReader(shard, self._inputs, self._patcher, trust_base=self._trust_base)
        return Running(shard, file, reader, self._stop, self._failures, digest_base=digest_base)

    def submit(self, together: Sequence[Running]) -> None:
        """Give the workers the chunks of these shards, in turns: two digests do not stand in one line.

        First come the chunks at the shards' beginnings that need no torch, for as long as it is being imported.
        """
        waiting = [(running, deque(chunks_of(running.shard))) for running in together]
        for running, chunks in waiting:
            while chunks and not running.reader.computes(chunks[0]):
                self._workers.submit(self._compute, running, chunks.popleft())
        for turn in zip_longest(*(chunks for _, chunks in waiting)):
            for running, chunk in zip(together, turn, strict=True):
                if chunk is not None:
                    self._workers.submit(self._compute, running, chunk)
        self._patcher()  # import torch here, while the workers move the first bytes

    def _compute(self, running: Running, chunk: Chunk) -> None:
        buffer = self._buffers.get()
        if self._attempt(running.compute, chunk, buffer):
            self._writers.submit(self._write, running, chunk, buffer)
        else:
            self._buffers.put(buffer)
            running.one_ended(written=False)

    def _write(self, running: Running, chunk: Chunk, buffer: memoryview) -> None:
        def write_and_tell(chunk: Chunk, buffer: memoryview) -> None:
            running.write(chunk, buffer)
            self._progress(chunk.end - chunk.begin)

        written = self._attempt(write_and_tell, chunk, buffer)
        self._buffers.put(buffer)
        running.one_ended(written=written)

    def _attempt(self, work: Callable[[Chunk, memoryview], None], chunk: Chunk, buffer: memoryview) -> bool:
        """Whether it was done: the first failure stops the whole run, and no work is begun after that."""
        if self._stop.is_set():
            return False
        try:
            work(chunk, buffer)
        except BaseException as failure:
            self._failures.append(failure)
            self._stop.set()
            return False
        return True


class LazyPatcher:
    """Gives the run's one `Patcher`; the first call makes it, and with it imports torch, which takes a second."""

    def __init__(
        self, plan: Plan, inputs: Mapping[str, InputFile], adapters: Sequence[Mapping[str, InputFile]], device: str
    ) -> None:
        widest = max((op.view[1] for op in plan.ops if op.computed), default=1)
        self._arguments = (inputs, adapters, device, widest)
        self._lock = threading.Lock()
        self._made: Patcher | None = None

    def __call__(self) -> Patcher:
        with self._lock:
            if self._made is None:
                from ingot.engine.patch import Patcher

                self._made = Patcher(*self._arguments)
            return self._made


def _joined(samples: list[dict[str, Sampled]]) -> dict[str, Sampled]:
    joined: dict[str, Sampled] = {}
    for part in samples:
        for name, sampled in part.items():
            total = joined.setdefault(name, Sampled())
            total.seen += sampled.seen
            total.changed += sampled.changed
    return joined
