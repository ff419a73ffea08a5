"""The job in one place: open both, compare, choose forms, decompose, write. Whole or absent."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from ingot.checkpoint.checkpoint import Checkpoint
from ingot.checkpoint.locate import Location, locate
from ingot.errors import BaseError, Interrupted, MismatchError, OutputError
from ingot.extract.config import adapter_config
from ingot.extract.fit import Fit, fit
from ingot.extract.forms import Forms, choose
from ingot.extract.layers import Target
from ingot.extract.model import CONFIG_NAME, DTYPE_WORDS, Bar, Held, Parameter, Progress, Request
from ingot.extract.pairing import Pairing, pair, refuse_other_model
from ingot.extract.record import build_record
from ingot.extract.result import Extraction, Whole, warnings
from ingot.extract.side_files import changed_settings, travelling
from ingot.extract.source import Source, differs
from ingot.extract.write import AdapterFile, Entry, by_width
from ingot.formats.strict_json import dumps_pretty
from ingot.formats.tensor_ref import DTYPE_NBYTES
from ingot.naming import Names
from ingot.plan.figures import listed
from ingot.storage import RECORD_NAME, DigestMemory, PosixDisk, Staging
from ingot.storage.disk import Disk
from ingot.storage.journal import read_journal
from ingot.storage.kernel import give_back_freed_blocks
from ingot.storage.workdir import Place
from ingot.version import __version__

#: Marks the work directory of an extraction. It is never resumed: what it has is made anew.
_IDENTITY = {"extraction by ingot": __version__}


def no_bar(_what: str, _total: int, _unit: str) -> AbstractContextManager[Progress]:
    """Nobody is told."""
    return nullcontext(lambda _: None)


def extract(
    request: Request,
    bar: Bar = no_bar,
    *,
    stop: threading.Event | None = None,
    disk: Disk | None = None,
    memory: DigestMemory | None = None,
) -> Extraction:
    """Write the difference TUNED - BASE as a PEFT adapter.

    Raises:
        BaseError, MismatchError, NonFiniteError: what does not hold of the two checkpoints; nothing was written.
        UsageError: `save` names no module.
        OutputError, ResourceError: the target is in use, or has no room.
        InputChangedError, Interrupted: nothing is at the target.
    """
    started = time.monotonic()
    _check_target(request.target)
    give_back_freed_blocks()
    base, tuned = _open(request, stop or threading.Event())
    try:
        pairing = pair(base, tuned)
        differing = _compare(base, tuned, pairing, bar)
        forms = choose(pairing.parameters, differing, base.names.modules, pairing.ties, request.save)
        job = _Job(request, base, tuned, pairing, forms, len(pairing.parameters) - len(differing))
        return job.write(disk or PosixDisk(), memory or DigestMemory(), bar, started)
    finally:
        base.checkpoint.close()
        tuned.checkpoint.close()


def _check_target(target: Path) -> None:
    """Raise OutputError where it is in use, or an interrupted merge of that name could still be resumed.

    What an interrupted extraction left is dropped later.
    """
    place = Place.of(target)
    place.check_target_free()
    for work in place.found_work():
        journal = read_journal(work.journal)
        if journal is not None and _IDENTITY.keys() != journal.identity.keys():
            raise OutputError(
                "an interrupted run of another kind holds this output", where=target,
                hint="Finish it by the command that began it, or choose another output.",
            )  # fmt: skip


def _open(request: Request, stop: threading.Event) -> tuple[Source, Source]:
    where = locate(request.base, what="base", error=BaseError)
    other = locate(request.tuned, what="tuned model", error=BaseError)
    _refuse_adapter(other)
    if where.path.resolve() == other.path.resolve():
        raise _nothing("BASE and TUNED are one directory")
    base = Checkpoint.open(where)
    try:
        tuned = Checkpoint.open(other)
    except BaseException:
        base.close()
        raise
    try:
        refuse_other_model(base, tuned)
        return _source("BASE", base, stop), _source("TUNED", tuned, stop)
    except BaseException:
        base.close()
        tuned.close()
        raise


def _source(role: str, checkpoint: Checkpoint, stop: threading.Event) -> Source:
    return Source(role, checkpoint, Names.of(checkpoint.tensors, checkpoint.config), stop)


def _refuse_adapter(where: Location) -> None:
    if (where.path / CONFIG_NAME).exists() and not (where.path / "config.json").exists():
        raise BaseError(
            "TUNED is an adapter already, not a model", where=where.name,
            hint="Use it as it is; or merge it first: `ingot merge BASE ADAPTER -o TUNED`.",
        )  # fmt: skip


def _nothing(what: str) -> MismatchError:
    return MismatchError(
        f"{what}, so there is nothing to extract", hint="Give the model that was trained, or merged, as TUNED."
    )


def _compare(base: Source, tuned: Source, pairing: Pairing, bar: Bar) -> frozenset[str]:
    """Full names of the parameters that differ. Every tensor of both is read, and found finite."""
    total = sum(_nbytes(held) for one in pairing.parameters for held in (one.base, one.tuned) if held is not None)
    differing = set()
    with bar("comparing", total, "bytes") as progress:
        for one in pairing.parameters:
            if differs(base, tuned, one, progress):
                differing.add(one.full)
    if not differing:
        raise _nothing("BASE and TUNED hold the same weights")
    return frozenset(differing)


def _nbytes(held: Held) -> int:
    numel = 1
    for extent in held.shape:
        numel *= extent
    return numel * DTYPE_NBYTES[held.dtype]


@dataclass(frozen=True)
class _Job:
    request: Request
    base: Source
    tuned: Source
    pairing: Pairing
    forms: Forms
    equal: int

    def write(self, disk: Disk, memory: DigestMemory, bar: Bar, started: float) -> Extraction:
        request = self.request
        with Staging.open(disk, request.target, _IDENTITY, restart=True) as staging:
            fits = self._weights(staging, bar)
            ranks = {one.name: one.rank for one in fits}
            config = adapter_config(self.forms, ranks, self.base.checkpoint.location, self.base.names.model_class)
            staging.write(CONFIG_NAME, dumps_pretty(config))
            for name in travelling(self.base.checkpoint, self.tuned.checkpoint):
                file = self.tuned.checkpoint.inputs[name]
                staging.write(name, file.read(0, file.nbytes))
            result = self._result(fits, staging, started)
            inputs = {"base": self.base.checkpoint, "tuned": self.tuned.checkpoint}
            record = build_record(request, result, staging.finished, inputs, memory)
            for file in (file for checkpoint in inputs.values() for file in checkpoint.inputs.values()):
                file.check_unchanged()
            if self.base.stop.is_set():
                raise Interrupted("the extraction was interrupted", hint="Run the same command again.")
            staging.publish(record)
        return replace(result, identity=_identity(record), seconds=time.monotonic() - started)

    def _weights(self, staging: Staging, bar: Bar) -> tuple[Fit, ...]:
        dtype = self.request.dtype
        before, after = by_width(self.forms.whole.items(), dtype)
        file = AdapterFile(staging, [*_entries(before), *self._largest(), *_entries(after)])
        for name, parameter in before:
            file.add_whole(name, parameter, self.tuned)
        fits = []
        with bar("decomposing", sum(t.parameter.view[0] for t in self.forms.targets), "matrices") as tick:
            for target in self.forms.targets:
                one, tensors = fit(self.base, self.tuned, target, self.request.budget, dtype, tick)
                for name, tensor in tensors.items():
                    file.add(name, dtype, tensor)
                fits.append(one)
        for name, parameter in after:
            file.add_whole(name, parameter, self.tuned)
        file.finish()
        return tuple(fits)

    def _largest(self) -> list[Entry]:
        """The factors' tensors at the largest rank that they may get."""
        return [(name, self.request.dtype, shape) for target in self.forms.targets
                for name, shape in target.shapes(self._cap(target)).items()]  # fmt: skip

    def _cap(self, target: Target) -> int:
        _, rows, columns = target.parameter.view
        return self.request.budget.cap(rows, columns)

    def _result(self, fits: tuple[Fit, ...], staging: Staging, started: float) -> Extraction:
        files = {name: entry for name, entry in staging.finished.items() if name != RECORD_NAME}
        tuned = self.tuned.checkpoint
        return Extraction(
            target=self.request.target,
            base=self.base.checkpoint.location.name,
            tuned=tuned.location.name,
            model_class=self.base.names.model_class,
            budget=self.request.budget,
            dtype=self.request.dtype,
            fits=fits,
            whole=_whole(self.forms.whole, self.forms.reasons),
            parameters=len(self.pairing.parameters),
            equal=self.equal,
            adapter_nbytes=sum(file.nbytes for file in files.values()),
            model_nbytes=tuned.nbytes,
            files=(*sorted(files), RECORD_NAME),
            identity="",
            seconds=time.monotonic() - started,
            notes=self.pairing.notes + _resized(self.forms.whole.values()),
            warnings=warnings(fits, self.request.budget, _dtype(self.forms))
            + _settings(changed_settings(self.base.checkpoint.config, tuned.config)),
        )


def _entries(whole: Collection[tuple[str, Parameter]]) -> list[Entry]:
    return [(name, parameter.tuned.dtype, parameter.tuned.shape) for name, parameter in whole]


def _whole(tensors: Mapping[str, Parameter], reasons: Mapping[str, str]) -> tuple[Whole, ...]:
    """By module; a bias beside factors has no reason of its own."""
    nbytes: dict[str, int] = {}
    for one in tensors.values():
        nbytes[one.path] = nbytes.get(one.path, 0) + _nbytes(one.tuned)
    return tuple(Whole(path, reasons.get(path, "its bias"), size) for path, size in nbytes.items())


def _resized(whole: Collection[Parameter]) -> tuple[str, ...]:
    rows = sorted({one.tuned.shape[0] for one in whole if one.resized})
    return tuple(
        f"The vocabulary has {count:,} tokens in TUNED. `ingot merge` follows; before PEFT can load the adapter, the "
        f"base must be resized: model.resize_token_embeddings({count})."
        for count in rows
    )


def _settings(keys: tuple[str, ...]) -> tuple[str, ...]:
    if not keys:
        return ()
    return (
        f"config.json differs between BASE and TUNED in {listed(keys)}. An adapter cannot carry that: a model that "
        "needs TUNED's settings must be given them.",
    )


def _dtype(forms: Forms) -> str:
    return ", ".join(sorted({DTYPE_WORDS[target.parameter.tuned.dtype] for target in forms.targets}))


def _identity(record: bytes) -> str:
    from ingot.formats.strict_json import loads

    value = loads(record, where=RECORD_NAME)
    assert isinstance(value, dict)
    return str(value["predicate"]["runDetails"]["metadata"]["ingot_identity"])
