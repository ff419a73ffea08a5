"""A job: what is open, and the plan of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.errors import IngotError
from ingot.merge.running import execute, run_of
from ingot.plan.model import Plan
from ingot.plan.resolve import Weighted
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.disk import Disk
from ingot.storage.inputs import InputFile

if TYPE_CHECKING:
    from ingot.engine.outcome import Finish, Outcome
    from ingot.plan.interference import Interference
    from ingot.quantize.gguf.document import Document
    from ingot.record.form import Release


@dataclass
class Job:
    """An open base, its open adapters, and the plan of merging them. Close it, or use it as a context manager.

    `document` are the GGUF files that the plan asks for; None where it makes safetensors shards.
    """

    base: Checkpoint
    adapters: tuple[Weighted, ...]
    plan: Plan
    target: Path | None
    jobs: int
    document: Document | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.base.close()
        for weighted in self.adapters:
            weighted.close()

    @property
    def adapter_files(self) -> tuple[Mapping[str, InputFile], ...]:
        return tuple(weighted.inputs for weighted in self.adapters)

    def run(
        self,
        *,
        device: str = "cpu",
        restart: bool = False,
        stop: threading.Event | None = None,
        progress: Callable[[int], None] = lambda _: None,
        disk: Disk | None = None,
        memory: DigestMemory | None = None,
        release: Release | None = None,
        ending: Finish | None = None,
    ) -> Outcome:
        """Execute the plan into the target.

        Args:
            release: what the record tells beside the plan.
            ending: makes the last files, and may refuse to; `record.finish` by default.

        Raises:
            ResourceError: there is too little room; nothing was written.
            OutputError: the target exists, is locked, or belongs to another plan.
            NonFiniteError, InputChangedError, Interrupted: see `engine.run.execute`.
        """
        run = run_of(self.jobs, device, restart, stop, progress, disk, memory)
        (outcome,) = execute([self], [release], run, ending)
        if isinstance(outcome, IngotError):
            raise outcome
        return outcome

    @property
    def nbytes(self) -> int:
        """Bytes that a run writes, beside small files."""
        return self.document.nbytes if self.document else sum(shard.nbytes for shard in self.plan.shards)

    def interference(self) -> Interference:
        """How the adapters get in each other's way: reads their factors, and some rows of the base."""
        from ingot.engine.interference import measure

        return measure(self.plan, self.base.inputs, self.adapter_files)
