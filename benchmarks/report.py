"""The figures of a run as docs/benchmarks.md: ratios first, the machine in general terms."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Cost


@dataclass(frozen=True)
class Result:
    """One size and rank: the median cost of each contender, warm and cold, and shares of differing elements."""

    size: str
    rank: int
    warm: Mapping[str, Cost]
    cold: Mapping[str, Cost]
    shares: Mapping[str, tuple[float, int]]


def write_report(results: Sequence[Result], path: Path) -> None:
    """Write the page."""
    lines = ["# Benchmarks", "", _INTRODUCTION, "", f"Machine: {machine()}.", ""]
    for title, kind in (("Warm page cache", "warm"), ("Cold page cache", "cold")):
        rows = [row for result in results for row in _rows(result, getattr(result, kind))]
        if rows:
            lines += [f"## {title}", "", *_TABLE_HEAD, *rows, ""]
    lines += _memory(results)
    lines += _rounding(results)
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


_INTRODUCTION = """\
Written by `make bench`. Synthetic Llama-shaped checkpoints in bf16 (the dimensions of Llama 3.2 1B and 3B and of
Llama 3.1 8B), a LoRA on all seven projections. Wall time is that of the whole process, digests and record included,
and of the `sync` after it; contenders take turns within one run, figures are medians. Absolute times belong to one
machine; the ratios are what to look at. "First sight of the base" also digests the base; later runs remember its
digest by path, inode, length and times.

`cp -r` is what varies: the kernel throttles it, and from 5 to 17 s were seen for the same 3B in different rounds and on
different machines of this kind. A merge takes processor time that a copy does not (hashing twice what was read and
written, arithmetic), and that hardly varies: compare the CPU columns. Rows of the 8B are one round each."""
_TABLE_HEAD = (
    "| model | rank | way | wall | of `cp -r` | CPU | peak memory |",
    "|---|---|---|---|---|---|---|",
)


def _rows(result: Result, costs: Mapping[str, Cost]) -> list[str]:
    if not costs:
        return []
    copy = costs["cp -r"].seconds
    return [
        f"| {result.size} | {result.rank} | {name} | {cost.seconds:.1f} s | {cost.seconds / copy:.2f} × "
        f"| {cost.cpu_seconds:.1f} s | {cost.peak_nbytes / 1e6:.0f} MB |"
        for name, cost in costs.items()
    ]


def _memory(results: Sequence[Result]) -> list[str]:
    peaks = {(r.size, r.rank): r.warm["ingot, base digest known"].peak_nbytes for r in results}
    lines = ["## Memory does not grow with the model", "", "| model | rank | peak memory of ingot |", "|---|---|---|"]
    lines += [f"| {size} | {rank} | {peak / 1e6:.0f} MB |" for (size, rank), peak in peaks.items()]
    return [*lines, ""]


def _rounding(results: Sequence[Result]) -> list[str]:
    shares = {name: share for result in results for name, share in result.shares.items()}
    if not shares:
        return []
    lines = ["## Elements that differ from the float64 result rounded once", ""]
    lines += ["| way | share | elements |", "|---|---|---|"]
    return [*lines, *(f"| {name} | {share:.2e} | {count:,} |" for name, (share, count) in shares.items()), ""]


def machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores} cores ({platform.machine()}), {memory:.0f} GiB of memory, Python {platform.python_version()}"
