"""The main job: base and adapters in, one artifact out. `ingot plan` and `ingot merge` call it; a program may too.

with prepare("base/", [("adapter/", 1.0)], Options(), target=Path("out")) as job:
    print(job.plan.digest)
    job.run()
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ingot.adapters.factor import Factor
from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.locate import locate
from ingot.errors import AdapterError, BaseError, MissingComponent, OutputError, ResourceError
from ingot.plan.budget import budget, for_gguf
from ingot.plan.build import build
from ingot.plan.model import Options, Plan
from ingot.plan.resolve import Weighted
from ingot.storage import pace
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.disk import Disk, PosixDisk
from ingot.storage.inputs import InputFile
from ingot.version import __version__

if TYPE_CHECKING:
    from ingot.engine.outcome import Outcome, Sink
    from ingot.plan.interference import Interference
    from ingot.quantize.gguf.document import Document
    from ingot.record.form import Release

#: Beside the payload a run needs room for side files, the record and the filesystem's own blocks.
SPARE_NBYTES = 16 << 20


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
    ) -> Outcome:
        """Execute the plan into the target. `release` is what the record tells beside the plan.

        Raises:
            ResourceError: there is too little room; nothing was written.
            OutputError: the target exists, is locked, or belongs to another plan.
            NonFiniteError, InputChangedError, Interrupted: see `engine.run.execute`.
        """
        if self.target is None:
            raise OutputError("no output was named", hint="Pass -o OUT.")
        self._check_room()
        from ingot.engine.outcome import Run
        from ingot.engine.run import execute
        from ingot.record.record import finish
        from ingot.record.statement import digest_of

        run = Run(
            disk=disk or PosixDisk(),
            jobs=self.jobs,
            device=checked_device(device),
            version=__version__,
            stop=stop or threading.Event(),
            progress=progress,
            restart=restart,
            notes=digest_of(release) if release else "",
            memory=memory or DigestMemory(),
        )
        outcome = execute(
            self.plan,
            self.base.inputs,
            self.adapter_files,
            self.target,
            run,
            partial(finish, release=release),
            self._sink(),
        )
        pace.remember(outcome.written_nbytes, outcome.seconds)
        return outcome

    @property
    def nbytes(self) -> int:
        """Bytes that a run writes, beside small files."""
        return self.document.nbytes if self.document else sum(shard.nbytes for shard in self.plan.shards)

    def interference(self) -> Interference:
        """How the adapters get in each other's way: reads their factors, and some rows of the base."""
        from ingot.engine.interference import measure

        return measure(self.plan, self.base.inputs, self.adapter_files)

    def _sink(self) -> Sink | None:
        if self.document is None:
            return None
        from ingot.quantize.gguf.run import GgufSink

        return GgufSink(self.document)

    def _check_room(self) -> None:
        cost = self.plan.budget
        if cost is None or cost.free_nbytes is None or self.target is None:
            return
        staged = sum(file.stat().st_size for file in _staged(self.target))
        needed = cost.write_nbytes + SPARE_NBYTES - staged
        if cost.free_nbytes < needed:
            raise ResourceError(
                "the disk has too little room for the output", where=self.target.absolute().parent,
                expected=f"{needed:,} bytes free", found=f"{cost.free_nbytes:,}",
                hint="Free some space or choose another place with -o; nothing was written.",
            )  # fmt: skip


def prepare(
    base: str,
    adapters: Sequence[tuple[str, float]],
    options: Options | None = None,
    *,
    target: Path | None = None,
    jobs: int | None = None,
    imatrix: Path | None = None,
    llama_cpp: Path | None = None,
) -> Job:
    """Open base and adapters and plan their merge; reads headers, configs and a few rows, writes nothing.

    Args:
        base: a directory or a Hub id.
        adapters: each adapter's directory or Hub id, and its weight.
        options: what changes the output's bytes.
        target: the directory to be made; its disk's free space goes into the plan.
        jobs: threads that compute; default as many as the cores it may use.
        imatrix: the importance matrix of `options.gguf`.
        llama_cpp: its checkout of llama.cpp.

    Raises:
        BaseError, AdapterError, MismatchError, UnsafeInputError: what does not hold, before a weight is read.
    """
    options = options or Options()
    if not adapters and options.gguf is None:
        raise AdapterError("no adapter was named", hint="Type `ingot merge BASE ADAPTER -o OUT`.")
    opened: list[Weighted] = []
    checkpoint = Checkpoint.open(locate(base, what="base", error=BaseError))
    try:
        for number, (spec, weight) in enumerate(adapters):
            location = locate(spec, what="adapter", error=AdapterError)
            opened.append(Weighted.open(location, number, weight, options.assume_peft_version, options.expert_layout))
        plan = build(checkpoint, opened, options, lambda a, b: _same_values(opened, a, b))
        workers = jobs or cores()
        cost = budget(
            plan,
            adapter_nbytes=sum(file.nbytes for w in opened for file in w.inputs.values()),
            base_nbytes=checkpoint.nbytes,
            target=target,
            jobs=workers,
            measured=pace.recall(),
        )
        document = _document(plan, checkpoint, opened, imatrix, llama_cpp)
        if document is not None:
            cost = for_gguf(cost, document.nbytes)
        return Job(checkpoint, tuple(opened), replace(plan, budget=cost), target, workers, document)
    except BaseException:
        checkpoint.close()
        for weighted in opened:
            weighted.close()
        raise


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


def checked_device(name: str) -> str:
    """`name` where torch can compute on it. The CPU is not asked for: that would wait for torch's import."""
    if name == "cpu":
        return name
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as failure:
        raise MissingComponent(f"no such device: {name}", hint="Use --device cpu or --device cuda.") from failure
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MissingComponent(
            "this machine has no CUDA device that torch can use", where=name,
            hint="Leave --device out, or install a CUDA build of torch (see pytorch.org).",
        )  # fmt: skip
    return name


def _staged(target: Path) -> list[Path]:
    """Files of an interrupted run of the same target: they already have their room."""
    place = target.absolute()
    return [path for path in place.parent.glob(f".{place.name}.ingot-partial-*/files/*") if path.is_file()]
