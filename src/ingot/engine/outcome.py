"""What a run is, what it did, and what writes its large files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ingot.engine.chunk import Sampled
from ingot.engine.pump import Progress
from ingot.errors import IngotError, NonFiniteError, OutputError
from ingot.plan.model import Plan
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.disk import Disk
from ingot.storage.inputs import InputFile
from ingot.storage.staging import Staging

Files = Mapping[str, InputFile]


@dataclass(frozen=True)
class FileDigest:
    """A file of the output or of an input."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Stretch:
    """Bytes [begin, end) of a file that is no shard: a tensor, with its padding, or the header, which has no name.

    `sha256` is that of the file from its first byte to `end`.
    """

    op: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    sha256: str


@dataclass
class Outcome:
    """What a run did, for the record.

    Attributes:
        running: of each shard, the sha256 of the file up to the end of each tensor.
        stretches: of each large file that is no shard.
        resumed: files that an earlier run had finished.
        backends: who computed what, where that may matter for the bytes.
    """

    plan: Plan
    files: list[FileDigest] = field(default_factory=list)
    base_files: list[FileDigest] = field(default_factory=list)
    adapter_files: list[list[FileDigest]] = field(default_factory=list)
    running: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sampled: dict[str, Sampled] = field(default_factory=dict)
    stretches: dict[str, tuple[Stretch, ...]] = field(default_factory=dict)
    resumed: list[str] = field(default_factory=list)
    backends: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    written_nbytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Run:
    """How plans are executed: nothing here changes a byte of the weights, except `device`, which is recorded."""

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


@dataclass(frozen=True)
class Output:
    """One artifact that a run is to make.

    `identity` is what a resume must agree in beyond the plan and its inputs.
    """

    plan: Plan
    target: Path
    finish: Finish
    identity: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Making:
    """One artifact under way. `failure` is an error of its own, which ends it while the run's others go on."""

    output: Output
    staging: Staging
    outcome: Outcome
    failure: IngotError | None = None

    @property
    def alive(self) -> bool:
        return self.failure is None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """What is done for this artifact and no other.

        A value that its format cannot hold, or a fault of its target, ends it alone. Any other error is the run's.
        """
        try:
            yield
        except (NonFiniteError, OutputError) as error:
            self.failure = self.failure or error


class Sink(Protocol):
    """Writes the large files of artifacts: safetensors shards, or GGUFs."""

    def write(self, makings: Sequence[Making], base: Files, adapters: Sequence[Files], run: Run) -> Mapping[str, str]:
        """Write what is not finished yet, and note it in the outcomes; returns digests of base files learnt on the way.

        Raises what `run.execute` raises.
        """
