"""Writes GGUF files from merged rows: each row is read and merged once, and quantized for every format, of
every artifact, that wants it.

The unit of work is a few rows of one tensor (`assemble.units`). Units know nothing of each other: each is assembled,
quantized and written to its place, so threads need no queue and memory is a few units a thread.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from ingot.engine.outcome import Making
from ingot.errors import Interrupted, NonFiniteError
from ingot.quantize.gguf.architecture import GgufTensor
from ingot.quantize.gguf.assemble import Array, RowSource, units
from ingot.quantize.gguf.layout import ALIGNMENT, Entry, GgufFile
from ingot.quantize.gguf.quantizer import Quantizer
from ingot.storage.journal import Finished
from ingot.storage.staged_file import StagedFile

Progress = Callable[[int], None]
_HASHED_NBYTES = 8 << 20


@dataclass(frozen=True)
class Format:
    """One requested type: its files, and how each tensor's rows become bytes.

    Attributes:
        quantizers: by ggml type.
        importance: float32[experts, columns] of each tensor that has an importance matrix.
    """

    name: str
    files: tuple[GgufFile, ...]
    quantizers: Mapping[str, Quantizer]
    importance: Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]


@dataclass(frozen=True)
class Written:
    """A finished file. `running` is the sha256 of the file up to the end of the header, and of each tensor."""

    name: str
    nbytes: int
    sha256: str
    running: tuple[str, ...]
    resumed: bool = False


@dataclass
class Writing:
    """The files of one artifact while they are written."""

    making: Making
    formats: tuple[Format, ...]
    done: dict[str, Written] = field(default_factory=dict)
    open_files: dict[str, StagedFile] = field(default_factory=dict)

    @property
    def files(self) -> list[GgufFile]:
        return [file for of in self.formats for file in of.files]

    def begin(self, progress: Progress) -> None:
        """Take over what an earlier run of the same plan has finished; create the others, with their headers."""
        staging = self.making.staging
        for file in self.files:
            if found := staging.trust(file.name):
                self.done[file.name] = _taken_over(file.name, found)
        for file in self.files:
            if file.name not in self.done:
                staged = self.open_files[file.name] = staging.create(file.name, file.nbytes, direct=False)
                staged.write_at(file.header, 0)
                progress(len(file.header))

    def finish(self, stop: threading.Event) -> None:
        """Commit what was created."""
        for file in self.files:
            if file.name in self.open_files:
                staged = self.open_files[file.name]
                running = _digests(staged, file, stop)
                self.making.staging.commit(staged, running[-1], {"running": list(running)})
                self.done[file.name] = Written(file.name, file.nbytes, running[-1], running)


def write(
    writings: Sequence[Writing], source: RowSource, *, jobs: int, stop: threading.Event, progress: Progress
) -> None:
    """Write every file of every artifact.

    A value that a type cannot hold, or a fault of a target, ends its artifact alone (`Making.alone`).

    Raises:
        NonFiniteError: a merged value is NaN or infinite; names the tensor.
        ResourceError, Interrupted.
    """
    for writing in writings:
        with writing.making.alone():
            writing.begin(progress)
    _run_all(_places(writings), source, jobs, stop, progress)
    for writing in writings:
        if writing.making.alive:
            with writing.making.alone():
                writing.finish(stop)


def _taken_over(name: str, found: Finished) -> Written:
    running = found.extra["running"]
    assert isinstance(running, list)
    return Written(name, found.nbytes, found.sha256, tuple(map(str, running)), resumed=True)


@dataclass(frozen=True)
class _Place:
    """Where one format of an artifact has a tensor."""

    making: Making
    of: Format
    entry: Entry
    staged: StagedFile


def _places(writings: Sequence[Writing]) -> list[tuple[GgufTensor, tuple[_Place, ...]]]:
    """Every tensor that is still to be written, with all its places."""
    found: dict[str, tuple[GgufTensor, list[_Place]]] = {}
    for writing in writings:
        for of in writing.formats:
            for file in of.files:
                if file.name in writing.open_files:
                    for entry in file.entries:
                        places = found.setdefault(entry.tensor.name, (entry.tensor, []))[1]
                        places.append(_Place(writing.making, of, entry, writing.open_files[file.name]))
    return [(tensor, tuple(places)) for tensor, places in found.values()]


def _run_all(
    places: Sequence[tuple[GgufTensor, tuple[_Place, ...]]],
    source: RowSource,
    jobs: int,
    stop: threading.Event,
    progress: Progress,
) -> None:
    """Every unit of every tensor, by `jobs` threads in the order of the tensors; the run's first failure ends all."""
    tasks = ((tensor, at, *unit) for tensor, at in places for unit in units(tensor))
    taking = threading.Lock()
    failed = threading.Event()

    def work() -> None:
        try:
            while not failed.is_set():
                with taking:
                    task = next(tasks, None)
                if task is None:
                    return
                _check(stop)
                tensor, at, begin, end = task
                if any(place.making.alive for place in at):
                    rows = source.rows(tensor, begin, end)
                    progress(sum(_write_rows(place, rows, begin) for place in at))
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(jobs, thread_name_prefix="ingot") as pool:
        for future in [pool.submit(work) for _ in range(jobs)]:
            future.result()


def _write_rows(place: _Place, rows: Array, begin: int) -> int:
    """Quantize rows, the first of which is row `begin` of the tensor, and write them; returns the bytes written."""
    nbytes = 0
    if place.making.alive:
        with place.making.alone():
            entry = place.entry
            data = quantized(place.of, entry, rows, begin)
            at = entry.begin + begin * entry.row_nbytes
            last = begin + len(rows) == entry.nbytes // entry.row_nbytes
            padding = bytes(-entry.nbytes % ALIGNMENT) if last else b""
            place.staged.write_at(data if not padding else bytes(data) + padding, at)
            nbytes = data.nbytes + len(padding)
    return nbytes


def quantized(of: Format, entry: Entry, rows: Array, begin: int) -> memoryview:
    """Rows of a tensor, the first of which is row `begin`, as their bytes in a file of `of`.

    Raises:
        NonFiniteError: a value is beyond the type's range, or not finite; names tensor and place.
    """
    importance = of.importance.get(entry.tensor.name)
    own = None
    if importance is not None:
        own = importance[begin // entry.tensor.shape[-2] if len(importance) > 1 else 0]
    try:
        return memoryview(cast(Any, of.quantizers[entry.type].quantize(rows, own))).cast("B")
    except NonFiniteError as error:
        where = f"{entry.tensor.name} ({of.name}), {error.where} after row {begin}"
        raise NonFiniteError(error.what, where=where, found=error.found, hint=error.hint) from error


def _digests(staged: StagedFile, file: GgufFile, stop: threading.Event) -> tuple[str, ...]:
    """The running sha256 of a file that was just written: most of it is still in the page cache."""
    digest, running = hashlib.sha256(), []
    ends = [*(entry.begin for entry in file.entries), file.nbytes]
    with staged.path.open("rb") as opened:
        at = 0
        for end in ends:
            while at < end:
                _check(stop)
                data = opened.read(min(_HASHED_NBYTES, end - at))
                digest.update(data)
                at += len(data)
            running.append(digest.hexdigest())
    return tuple(running)


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Interrupted("the run was interrupted")
