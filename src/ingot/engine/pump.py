"""A few workers take the chunks of a shard in file order: read, patch, check, digest, write.

Chunks are independent, so there are no queues; memory is one chunk and one tile a worker, whatever the model's size.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ingot.engine.chunk import Chunk, Sampled, ShardReader, chunks_of, new_buffer
from ingot.engine.digests import OrderedDigest
from ingot.errors import Interrupted
from ingot.plan.model import Plan, ShardPlan
from ingot.storage.inputs import InputFile
from ingot.storage.staged_file import StagedFile

if TYPE_CHECKING:
    from ingot.engine.patch import Patcher

Progress = Callable[[int], None]
#: From glibc's malloc.h: blocks from this size on are mapped by themselves.
_M_MMAP_THRESHOLD = -3


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
        *,
        digest_base: bool,
    ) -> None:
        """`file` is None where the bytes only need to be checked and digested."""
        self.shard = shard
        self.file = file
        self.reader = reader
        self.stop = stop
        self.written = OrderedDigest(stop, [ref.end for ref in shard.header.tensors])
        # an untouched shard has the base's digest, and one with another header is not read in the base's order
        apart = digest_base and shard.source is not None and not shard.untouched
        self.source = OrderedDigest(stop) if apart else None
        self.samples: list[dict[str, Sampled]] = []
        self.futures: list[Future[None]] = []

    def work(self, chunk: Chunk, buffer: memoryview) -> None:
        """Read, patch, check, digest and write one chunk."""
        sampled: dict[str, Sampled] = {}
        data = self.reader.load(chunk, buffer)
        if self.source is not None:
            self.source.update(chunk.number, data)
        self.reader.patch(chunk, data, sampled)
        self.written.update(chunk.number, data)
        if self.file is not None and not self.stop.is_set():
            padded = buffer[: chunk.padded]
            padded[len(data) :] = bytes(chunk.padded - len(data))
            self.file.write_at(padded, chunk.begin)
        self.samples.append(sampled)

    def result(self) -> ShardResult:
        """Wait for the last chunk.

        Raises:
            Interrupted: the run was told to stop.
            IngotError: whatever a worker met first.
        """
        done, _ = wait(self.futures, return_when=FIRST_EXCEPTION)
        failed = [future for future in done if not future.cancelled() and future.exception() is not None]
        if failed:
            self.stop.set()  # the others may wait for a turn that never comes
            wait(self.futures)
            failed[0].result()
        if self.stop.is_set():
            raise Interrupted("the run was interrupted")
        digest = self.written.hexdigest
        base = self.source.hexdigest if self.source else digest if self.shard.untouched else None
        return ShardResult(digest, self.written.noted, base, _joined(self.samples))


class Pump:
    """The workers of one run.

    Args:
        inputs: the base's open files by name.
        adapters: the open files of each adapter.
        jobs: number of worker threads.
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
        _give_back_freed_blocks()
        self._trust_base = plan.options.accept_nonfinite_base
        self._inputs = inputs
        self._stop = stop
        self._progress = progress
        self._patcher = LazyPatcher(plan, inputs, adapters, device)
        self._buffers: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(max(1, jobs)):
            self._buffers.put(new_buffer())
        self._pool = ThreadPoolExecutor(max(1, jobs), thread_name_prefix="ingot")

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def ready(self, shard: ShardPlan, file: StagedFile | None, *, digest_base: bool) -> Running:
        """A shard whose bytes are to be written to `file`; `submit` begins it.

        Without a file the bytes are only checked and digested: those of an untouched shard, which is copied whole.
        """
        reader = ShardReader(shard, self._inputs, self._patcher, trust_base=self._trust_base)
        return Running(shard, file, reader, self._stop, digest_base=digest_base)

    def submit(self, together: Sequence[Running]) -> None:
        """Give the workers the chunks of these shards, in turns: two digests do not stand in one line."""
        waiting = [(running, iter(chunks_of(running.shard))) for running in together]
        while waiting:
            for running, chunks in list(waiting):
                chunk = next(chunks, None)
                if chunk is None:
                    waiting.remove((running, chunks))
                else:
                    running.futures.append(self._pool.submit(self._do, running, chunk))
        self._patcher()  # import torch here, while the workers move the first bytes

    def _do(self, running: Running, chunk: Chunk) -> None:
        if self._stop.is_set():
            return
        buffer = self._buffers.get()
        try:
            running.work(chunk, buffer)
        finally:
            self._buffers.put(buffer)
        self._progress(chunk.end - chunk.begin)


def _give_back_freed_blocks() -> None:
    """Have glibc return large blocks to the system when they are freed.

    It would keep them for later, in an arena a thread, and the peak would grow with the number of workers (measured: by
    50 MB at rank 64). Elsewhere than on glibc this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 18)


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
