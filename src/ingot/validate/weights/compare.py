"""All tensors of a candidate against what a plan makes in float64, rounded once."""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import torch

from ingot.checkpoint.reading import DenseReader
from ingot.engine.changes import Changes
from ingot.engine.factors import FactorReader
from ingot.errors import Interrupted
from ingot.formats.tensor_ref import DTYPE_NBYTES, TensorRef
from ingot.kernels.dtypes import TORCH_DTYPE, as_tensor
from ingot.validate.model import Unsupported
from ingot.validate.result import ModuleFidelity, Weights
from ingot.validate.weights.diagnosis import diagnose
from ingot.validate.weights.fidelity import Reading, Sums, measure
from ingot.validate.weights.pairing import Pair, pair
from ingot.validate.weights.ulps import rounded_once

if TYPE_CHECKING:
    from ingot.checkpoint.checkpoint import Checkpoint
    from ingot.merge import Job

#: Elements of an untouched tensor that are compared at once.
_COPY_ELEMENTS = 1 << 20
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_PARAMETER = re.compile(r"\.(weight|bias)$")


def compare(
    job: Job,
    candidate: Checkpoint,
    *,
    jobs: int = 1,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Weights:
    """Hold every tensor of `candidate` against what the job's plan makes in float64, rounded once to its own dtype.

    Changed tensors are in the order of the plan. Dtype, shards and names of the candidate may differ from the plan's.

    Args:
        jobs: threads; each works on a tensor of its own.
        stop: set by another thread to end early.
        progress: told of bytes of the candidate, `candidate.nbytes` in all; by one thread at a time.

    Raises:
        Unsupported: the candidate is quantized.
        NonFiniteError: an adapter holds a NaN or an infinity.
        InputChangedError: a file became shorter meanwhile.
        Interrupted: `stop` was set.
    """
    _refuse_quantized(candidate)
    pairing = pair(job, candidate)
    run = _Run(job, candidate, stop or threading.Event(), progress)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers are the threads
    try:
        results = run.all(pairing.pairs, jobs)
    finally:
        torch.set_num_threads(threads)
    run.tell_rest()
    changed = [(one, sums) for one, sums in results if isinstance(sums, Sums)]
    untouched = [(one, same) for one, same in results if isinstance(same, bool)]
    return Weights(
        dtype=_common_dtype(one.ref for one, _ in results),
        modules=tuple(_module(one, sums) for one, sums in changed),
        equal=_share(sum(sums.equal for _, sums in changed), sum(sums.elements for _, sums in changed)),
        worst_ulp=max((sums.worst for _, sums in changed), default=0),
        survival=_survival([sums for _, sums in changed]),
        untouched=len(untouched),
        untouched_differ=tuple(one.name for one, same in untouched if not same),
        missing=tuple(pairing.missing),
        extra=tuple(pairing.extra),
    )


class _Run:
    """The comparison under way: what its threads share."""

    def __init__(self, job: Job, candidate: Checkpoint, stop: threading.Event, progress: Callable[[int], None]) -> None:
        cpu, exact = torch.device("cpu"), torch.float64
        base, load = DenseReader(job.base.inputs), FactorReader(job.adapter_files, cpu, exact)
        self._reading = Reading(base, DenseReader(candidate.inputs), load, Changes(load, base, cpu, exact))
        self._roundings = len(job.adapters)
        self._stop, self._halt = stop, threading.Event()
        self._progress, self._left, self._lock = progress, candidate.nbytes, threading.Lock()

    def all(self, pairs: Sequence[Pair], jobs: int) -> list[tuple[Pair, Sums | bool]]:
        """Each pair's sums, or, where no adapter changes it, whether it is the base's; in the order of `pairs`."""
        largest_first = sorted(pairs, key=lambda one: -one.ref.numel)
        with ThreadPoolExecutor(jobs) as pool:
            futures = {one.name: pool.submit(self._one, one) for one in largest_first}
            try:
                return [(one, futures[one.name].result()) for one in pairs]
            except BaseException:
                self._halt.set()
                raise

    def tell_rest(self) -> None:
        """Headers, and tensors that nothing asks for."""
        self._tell(self._left)

    def _one(self, one: Pair) -> Sums | bool:
        self._check()
        if not one.op.terms:
            return self._is_base(one)
        if one.ref.dtype not in TORCH_DTYPE:
            raise Unsupported(f"the candidate stores {one.name} as {one.ref.dtype}: quantized weights are not compared")
        return measure(one.op, one.ref, self._reading, roundings=self._roundings, tick=partial(self._tick, one.ref))

    def _is_base(self, one: Pair) -> bool:
        """Whether an untouched tensor holds the base's bytes, or, in another dtype, its values rounded once."""
        source, ref = one.op.source, one.ref
        if source is None or (source.dtype != ref.dtype and not {source.dtype, ref.dtype} <= TORCH_DTYPE.keys()):
            return False
        for begin in range(0, ref.numel, _COPY_ELEMENTS):
            end = min(begin + _COPY_ELEMENTS, ref.numel)
            ours, theirs = self._reading.base(source, begin, end), self._reading.candidate(ref, begin, end)
            if source.dtype != ref.dtype:
                cast = rounded_once(as_tensor(ours, source.dtype, (end - begin,)).double(), TORCH_DTYPE[ref.dtype])
                same = torch.equal(cast, as_tensor(theirs, ref.dtype, (end - begin,)))
            else:
                same = ours == theirs
            self._tick(ref, end - begin)
            if not same:
                return False
        return True

    def _tick(self, ref: TensorRef, elements: int) -> None:
        self._check()
        self._tell(elements * DTYPE_NBYTES[ref.dtype])

    def _tell(self, nbytes: int) -> None:
        with self._lock:
            told = min(nbytes, self._left)  # a tied tensor is read twice and counts once
            self._left -= told
            self._progress(told)

    def _check(self) -> None:
        if self._stop.is_set() or self._halt.is_set():
            raise Interrupted("the check was interrupted", hint="Run the same command again; checks write nothing.")


def _refuse_quantized(candidate: Checkpoint) -> None:
    quantization = candidate.config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
        raise Unsupported(f"the candidate is quantized ({method or 'unknown method'}): its weights are not compared")


def _module(one: Pair, sums: Sums) -> ModuleFidelity:
    layer = _LAYER.search(one.name)
    elements = max(1, sums.elements)
    finding = diagnose(one.op, sums)
    return ModuleFidelity(
        tensor=one.name,
        module=one.op.module if one.op.module and one.name == one.op.name else _PARAMETER.sub("", one.name),
        layer=int(layer[1]) if layer else None,
        elements=sums.elements,
        equal=_share(sums.equal, sums.elements),
        worst_ulp=sums.worst,
        delta_rms=math.sqrt(sums.delta / elements),
        delta_ulps=math.sqrt(sums.delta / sums.half_ulp_of_base) if sums.half_ulp_of_base else 0.0,
        survival=sums.survival,
        subspace_error=sums.subspace,
        said=finding.said,
        lost=finding.lost,
    )


def _survival(parts: Sequence[Sums]) -> float | None:
    """Over all tensors together: the large updates count most, as they do in the model."""
    delta = math.fsum(sums.delta for sums in parts)
    return 1 + math.fsum(sums.error_along for sums in parts) / delta if delta else None


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _common_dtype(refs: Iterable[TensorRef]) -> str:
    """The dtype that holds most elements."""
    counted: Counter[str] = Counter()
    for ref in refs:
        counted[ref.dtype] += ref.numel
    return counted.most_common(1)[0][0] if counted else ""
