"""From jobs to a run of the engine: one alone, or several that share their rows."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.errors import IngotError, MissingComponent, OutputError, ResourceError
from ingot.plan.budget import nearest
from ingot.storage import pace
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.disk import Disk, PosixDisk
from ingot.version import __version__

if TYPE_CHECKING:
    from ingot.engine.outcome import Finish, Outcome, Output, Run, Sink
    from ingot.merge.job import Job
    from ingot.record.form import Release

#: Beside the payload a run needs room for side files, the record and the filesystem's own blocks.
SPARE_NBYTES = 16 << 20


def run_together(
    jobs: Sequence[Job],
    *,
    device: str = "cpu",
    restart: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] = lambda _: None,
    disk: Disk | None = None,
    memory: DigestMemory | None = None,
    releases: Sequence[Release | None] | None = None,
) -> list[Outcome | IngotError]:
    """Execute jobs for GGUF of one `prepare_formats` in one pass: each row is read and merged once, for all of them.

    Laws: each target gets the files that `Job.run` alone would give it. Each is whole or absent; after a kill the jobs
    whose target is published are left out, and the others are run again, together or alone.

    Args:
        progress: is told the bytes written, over all jobs.
        releases: what the record of each tells beside its plan.

    Returns:
        Of each job its outcome, or the error that ended it alone while the others went on: NonFiniteError for a value
        that its types cannot hold, OutputError for a fault of its target after the start.

    Raises:
        ValueError: a job makes safetensors shards, is of another `prepare_formats`, or needs another converter of
            llama.cpp: that is a pass of its own.
        what `Job.run` raises, before anything is written, or because it concerns all.
    """
    if not jobs:
        return []
    first, documents = jobs[0], [job.document for job in jobs if job.document]
    if len(documents) != len(jobs):
        raise ValueError("shards of safetensors are written in a pass of their own")
    if any(job.base is not first.base or job.plan.shards is not first.plan.shards for job in jobs):
        raise ValueError("jobs that run together are those of one `prepare_formats`")
    from ingot.quantize.gguf.run import share_rows

    if not share_rows(documents):
        raise ValueError("jobs that run together have one converter of llama.cpp, or none")
    run = run_of(first.jobs, device, restart, stop, progress, disk, memory)
    return execute(jobs, releases if releases is not None else [None] * len(jobs), run)


def run_of(
    jobs: int,
    device: str,
    restart: bool,
    stop: threading.Event | None,
    progress: Callable[[int], None],
    disk: Disk | None,
    memory: DigestMemory | None,
) -> Run:
    from ingot.engine.outcome import Run

    return Run(
        disk=disk or PosixDisk(),
        jobs=jobs,
        device=checked_device(device),
        version=__version__,
        stop=stop or threading.Event(),
        progress=progress,
        restart=restart,
        memory=memory or DigestMemory(),
    )


def execute(
    jobs: Sequence[Job], releases: Sequence[Release | None], run: Run, ending: Finish | None = None
) -> list[Outcome | IngotError]:
    """One job, or several that share their rows. `ending`: see `Job.run`."""
    check_room(jobs)
    from ingot.engine.run import execute as execute_outputs

    outputs = [_output(job, release, ending) for job, release in zip(jobs, releases, strict=True)]
    done = execute_outputs(outputs, jobs[0].base.inputs, jobs[0].adapter_files, run, _sink(jobs))
    for job, outcome in zip(jobs, done, strict=True):
        if job.document is None and not isinstance(outcome, IngotError):  # a plan's seconds are those of moving bytes
            pace.remember(outcome.written_nbytes, outcome.seconds)
    return done


def _output(job: Job, release: Release | None, ending: Finish | None) -> Output:
    from ingot.engine.outcome import Output
    from ingot.record.record import finish
    from ingot.record.statement import digest_of

    if job.target is None:
        raise OutputError("no output was named", hint="Pass -o OUT.")
    identity = {"notes": digest_of(release)} if release else {}
    if job.document is not None:
        from ingot.quantize.gguf.run import identity as quantizers

        identity.update(quantizers(job.document))
    return Output(job.plan, job.target, ending or partial(finish, release=release), identity)


def _sink(jobs: Sequence[Job]) -> Sink | None:
    documents = tuple(job.document for job in jobs if job.document)
    if not documents:
        return None
    from ingot.quantize.gguf.run import GgufSink

    return GgufSink(documents)


def check_room(jobs: Sequence[Job]) -> None:
    """Raises ResourceError: the targets that stand on one disk do not fit there together."""
    needed: dict[int, int] = {}
    for job in jobs:
        cost = job.plan.budget
        if cost is None or cost.free_nbytes is None or job.target is None:
            continue
        disk = os.stat(nearest(job.target)).st_dev
        staged = sum(file.stat().st_size for file in _staged(job.target))
        needed[disk] = needed.get(disk, 0) + cost.write_nbytes + SPARE_NBYTES - staged
        if cost.free_nbytes < needed[disk]:
            raise ResourceError(
                "the disk has too little room for the output", where=job.target.absolute().parent,
                expected=f"{needed[disk]:,} bytes free", found=f"{cost.free_nbytes:,}",
                hint="Free some space or choose another place with -o; nothing was written.",
            )  # fmt: skip


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
