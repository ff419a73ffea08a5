"""The same bytes again: a freed artifact, from its record and its inputs.

    inputs under their recorded names -> the plan under the record's names -> its digest -> run -> every file's sha256

Each arrow is a comparison; only when the last one holds does the target appear.

The record that is put back is the old one, byte for byte. It is still true: it says of these very bytes what they were
made of, how and when first, and what was found of them since (evaluations are in it). Its identity is the artifact's
id, its sha256 is what later records name as their parent, and what signatures are over. A new record of the same bytes
could differ in the times of the run only, or in a library's version that changed nothing, and would then be another
artifact with the same content. So would a card that names another version of ingot: where the caller has the old card,
it is put back too.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ingot.errors import CheckFailed
from ingot.merge import Job, prepare
from ingot.plan.model import PLAN_VERSION
from ingot.record.against_inputs import as_recorded
from ingot.record.card import CARD_NAME
from ingot.record.record import finish, versions
from ingot.record.statement import Record, read_record
from ingot.record.tensor_table import TABLE_NAME, Row
from ingot.registry.finding import assembled
from ingot.registry.sought import Found
from ingot.storage.digest_memory import DigestMemory
from ingot.storage.disk import Disk, PosixDisk
from ingot.storage.staging import discard
from ingot.version import __version__

if TYPE_CHECKING:
    from ingot.engine.outcome import Outcome


@dataclass(frozen=True)
class Rebuilt:
    """An artifact that is there again. `differences`: what is otherwise here than where it was made; without effect."""

    identity: str
    target: Path
    files: int
    nbytes: int
    seconds: float
    differences: tuple[str, ...]


def rebuild(
    data: bytes,
    found: Found,
    target: Path,
    work: Path,
    *,
    small: Mapping[str, bytes] | None = None,
    jobs: int | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] = lambda _: None,
    disk: Disk | None = None,
    memory: DigestMemory | None = None,
) -> Rebuilt:
    """Make the artifact of a record at `target`: every file as recorded, or nothing.

    Args:
        data: the bytes of the record, ingot.json.
        found: where its inputs are; see `finding.find_inputs`.
        work: an existing folder, for links to the inputs.
        small: files that are still there, such as the card; used where they have the recorded digest.

    Raises:
        CheckFailed: this ingot plans something else, or makes other bytes: the first file and tensor that differ are
            named, and what is otherwise here than there. Nothing is left.
        BaseError, AdapterError, UsageError: an input is missing.
        what `merge.prepare` and `Job.run` raise; after Interrupted the same call goes on.
    """
    record, disk = read_record(data), disk or PosixDisk()
    recipe = record.recipe
    with assembled(record, found, work, disk) as inputs:
        weights = (spec.weight for spec in recipe.adapters)
        job = prepare(
            inputs.base, list(zip(inputs.adapters, weights, strict=True)), recipe.options, target=target, jobs=jobs,
            imatrix=inputs.imatrix, llama_cpp=inputs.llama_cpp, renamed=partial(as_recorded, record=record),
        )  # fmt: skip
        with job:
            differences = tuple(differences_of(record, job))
            _check_plan(record, job, differences)
            ending = partial(_ending, record=record, data=data, small=small or {}, differences=differences)
            try:
                outcome = job.run(
                    device=_device(record), stop=stop, progress=progress, disk=disk, memory=memory,
                    release=recipe.release, ending=ending,
                )  # fmt: skip
            except CheckFailed:
                discard(disk, target)
                raise
    nbytes = sum(subject.nbytes for subject in record.subjects.values())
    return Rebuilt(record.identity, target, len(record.subjects) + 1, nbytes, outcome.seconds, differences)


def differences_of(record: Record, job: Job | None = None) -> Iterator[str]:
    """What may decide bytes and is otherwise here than where the artifact was made; quantizers, where a job knows."""
    import torch

    then, here = record.internals, versions()
    pairs: list[tuple[str, str | None, str | None]] = [("ingot", then.ingot, __version__)]
    pairs += [(name, then.libraries.get(name), here.get(name)) for name in sorted({*then.libraries, *here})]
    pairs += [("device", then.device.partition(":")[0], _device(record))]
    if _device(record) == "cpu":
        pairs += [("CPU", then.cpu_capability, torch.backends.cpu.get_cpu_capability())]
    if job is not None and job.document is not None:
        now = dict(job.document.backends)
        pairs += [(f"quantizer of {of}", then.backends.get(of), now.get(of)) for of in sorted({*then.backends, *now})]
    yield from (f"{what} {was or 'none'}, here {now or 'none'}" for what, was, now in pairs if was != now)


def _device(record: Record) -> str:
    """That of the run where this machine has one of its kind."""
    import torch

    return "cuda" if record.internals.device.startswith("cuda") and torch.cuda.is_available() else "cpu"


def _check_plan(record: Record, job: Job, differences: tuple[str, ...]) -> None:
    internals = record.internals
    if internals.plan_version != PLAN_VERSION:
        raise CheckFailed(
            "this ingot makes other bytes of the same plan", expected=f"plan version {internals.plan_version}",
            found=PLAN_VERSION, hint=f"Install the version that made it: `pip install ingot-merge=={internals.ingot}`.",
        )  # fmt: skip
    if internals.plan_digest != job.plan.digest:
        raise CheckFailed("this ingot plans something else", expected=internals.plan_digest, found=job.plan.digest,
                          hint=_hint(differences))  # fmt: skip


def _ending(
    outcome: Outcome, *, record: Record, data: bytes, small: Mapping[str, bytes], differences: tuple[str, ...]
) -> tuple[Mapping[str, bytes], Callable[[Outcome], bytes]]:
    """See `engine.outcome.Finish`: the old record, where every file is as it says."""
    made, _ = finish(outcome, record.recipe.release)
    subjects = record.subjects
    believed = {
        name: kept for name, kept in small.items()
        if name in subjects and hashlib.sha256(kept).hexdigest() == subjects[name].sha256
    }  # fmt: skip
    tables = made[TABLE_NAME], believed.get(TABLE_NAME, b"")

    def old_record(outcome: Outcome) -> bytes:
        _compare(outcome, record, tables, differences)
        return data

    return {name: believed.get(name, new) for name, new in made.items()}, old_record


def _compare(outcome: Outcome, record: Record, tables: tuple[bytes, bytes], differences: tuple[str, ...]) -> None:
    """Raises CheckFailed unless the files of the outcome are exactly those of the record.

    `tables` are the tensor tables, now and then: they tell the first tensor that differs.
    """
    made = {file.name: (file.nbytes, file.sha256) for file in outcome.files}
    then = {name: (subject.nbytes, subject.sha256) for name, subject in record.subjects.items()}
    # the card and the table follow from the others: what differs there first is a better reason
    last = {CARD_NAME: 1, TABLE_NAME: 2}
    for name in sorted(made.keys() | then.keys(), key=lambda name: (last.get(name, 0), name)):
        if made.get(name) != then.get(name):
            where = ", ".join(filter(None, (name, _first_tensor(name, *tables))))
            raise CheckFailed(
                "what was made is not what was recorded, so it was removed", where=where,
                expected=_shown(then.get(name)), found=_shown(made.get(name)), hint=_hint(differences),
            )  # fmt: skip


def _first_tensor(file: str, now: bytes, then: bytes) -> str | None:
    """The first tensor of a file whose digest differs between two tables; None where one of them does not know it."""
    rows = ([row for row in _rows(table) if row.file == file] for table in (now, then))
    return next((new.title for new, old in zip(*rows, strict=False) if new.sha256 != old.sha256), None)


def _rows(table: bytes) -> Iterator[Row]:
    for line in table.splitlines():
        value = msgspec.json.decode(line)
        if value["op"] != "dropped":
            yield msgspec.convert(value, Row)


def _shown(file: tuple[int, str] | None) -> str:
    return "no such file" if file is None else f"{file[0]:,} bytes, sha256 {file[1]}"


def _hint(differences: tuple[str, ...]) -> str:
    if not differences:
        return "Nothing that is recorded differs between this machine and the one that made it; please report this."
    return f"It was made with other versions: {'; '.join(differences)}. Install those, and run the same command again."
