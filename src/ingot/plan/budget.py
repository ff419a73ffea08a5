"""What a run will cost, known before it starts: bytes, memory, floating point operations, an estimate of seconds."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ingot.adapters.terms import LowRank
from ingot.checkpoint.quantized.encoded import Encoded
from ingot.checkpoint.reading import KEPT_NBYTES as KEPT_PARTS_NBYTES
from ingot.combine.combined import Combined
from ingot.kernels.grid import TileGrid
from ingot.plan.model import Budget, Op, Plan, Rounding

#: Measured with `make bench`: a process that has imported torch and opened its files, before the first chunk.
PROCESS_NBYTES = 275 << 20
#: transformers and what it imports, where parameters' names were asked of a model class (`naming.transformers_map`).
TRANSFORMERS_NBYTES = 270 << 20
#: Kept factors and raw adapter tensors at most; see engine.factors and engine.changes.
KEPT_NBYTES = 32 << 20
#: A worker's chunk buffer, scratch tile and cut tiles.
WORKER_NBYTES = 22 << 20
#: The buffers of chunks that are being written.
WRITERS_NBYTES = 32 << 20
#: A worker's temporaries in error feedback.
PRESERVE_NBYTES = 4 << 20
#: A worker's temporaries where adapters are combined, beside one tile for each of them.
COMBINED_NBYTES = 8 << 20
#: A worker's temporaries while it decodes a tile of a quantized base.
DECODING_NBYTES = 16 << 20
#: A machine that was never measured: the order of an NVMe disk behind one or two cores.
ASSUMED_NBYTES_PER_SECOND = 1.0e9


def budget(
    plan: Plan, *, adapter_nbytes: int, base_nbytes: int, target: Path | None, jobs: int, measured: float | None
) -> Budget:
    """The plan's cost. `measured` is the rate of an earlier run on this machine, in bytes written a second."""
    side = sum(len(file.content or b"") for file in plan.side_files)
    written = sum(shard.nbytes for shard in plan.shards) + side
    terms = [placed.term for op in plan.ops for placed in op.terms]
    flops = sum(term.flops() for term in terms)
    whole = max((4 * 3 * math.prod(t.shape) for t in terms if t.needs == "whole"), default=0)
    largest = max((4 * sum(math.prod(f.shape) for f in t.factors()) for t in terms), default=0)
    decoded = [op.source for op in plan.ops if isinstance(op.source, Encoded)]
    kept = max((getattr(t, "kept_nbytes", 0) for t in terms), default=0)
    wholes = max((getattr(t, "kept_nbytes", 0) for t in terms if t.needs == "whole"), default=0)
    drawn = max((getattr(t, "drawn_nbytes", 0) for t in terms), default=0)
    preserved = max((_basis_nbytes(op) for op in plan.ops), default=0) * len(plan.adapters)
    rate = measured or ASSUMED_NBYTES_PER_SECOND
    return Budget(
        read_nbytes=base_nbytes + adapter_nbytes,
        write_nbytes=written,
        free_nbytes=free_nbytes(target) if target is not None else None,
        peak_memory_nbytes=PROCESS_NBYTES
        + (TRANSFORMERS_NBYTES if "transformers" in sys.modules else 0)
        + jobs * WORKER_NBYTES
        + WRITERS_NBYTES
        + min(KEPT_NBYTES, 2 * adapter_nbytes)
        + max(0, largest - KEPT_NBYTES)
        + whole
        + max(0, kept - KEPT_NBYTES)
        + wholes
        + drawn
        + _decoding_nbytes(decoded, jobs)
        + preserved
        + jobs * max((_combined_nbytes(op) for op in plan.ops), default=0)
        + (jobs * PRESERVE_NBYTES if preserved else 0),
        flops=flops,
        nbytes_per_second=rate,
        seconds=1.5 + written / rate,
    )


def _decoding_nbytes(sources: Sequence[Encoded], jobs: int) -> int:
    """Parts that stay in memory, and a worker's temporaries; see `checkpoint.reading`."""
    if not sources:
        return 0
    kept = max(source.kept_nbytes for source in sources)
    return jobs * DECODING_NBYTES + (KEPT_PARTS_NBYTES + 2 * kept if kept else 0)


def _combined_nbytes(op: Op) -> int:
    """The deltas of a tile, one for each adapter, and what is made of them."""
    tiles = max((len(p.term.contributions) for p in op.terms if isinstance(p.term, Combined)), default=0)
    grid = TileGrid(*op.view)
    return 4 * grid.height * grid.columns * (tiles + 1) + COMBINED_NBYTES if tiles else 0


#: Quantizing takes longer than moving: measured with the numpy quantizers, in bytes written a second.
ASSUMED_GGUF_NBYTES_PER_SECOND = 10.0e6


def for_gguf(shards: Budget, nbytes: int, memory_nbytes: int) -> Budget:
    """The cost of a run that writes `nbytes` of GGUF instead of its shards, with that much memory more."""
    rate = ASSUMED_GGUF_NBYTES_PER_SECOND
    peak = shards.peak_memory_nbytes + memory_nbytes
    return replace(
        shards, write_nbytes=nbytes, peak_memory_nbytes=peak, nbytes_per_second=rate, seconds=3.0 + nbytes / rate
    )


def _basis_nbytes(op: Op) -> int:
    """A row space that is being made, in float64: the factors, their basis, and its fixed-point form."""
    if op.rounding is not Rounding.PRESERVE:
        return 0
    rights = [placed.term.right.shape for placed in op.terms if isinstance(placed.term, LowRank)]
    return 3 * 8 * max(math.prod(shape) for shape in rights)


def free_nbytes(target: Path) -> int:
    """Free bytes for this user where `target` will stand."""
    return shutil.disk_usage(nearest(target)).free


def nearest(target: Path) -> Path:
    """`target`, or its nearest parent that exists: it stands on the same disk."""
    at = target.absolute()
    while not at.exists():
        at = at.parent
    return at
