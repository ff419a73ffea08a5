"""Runs a command as a process of its own and measures it, up to the moment when its bytes are on the disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

LAUNCHER = Path(__file__).with_name("launch.py")
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True)
class Cost:
    """One run: wall time including `sync`, CPU time of the process, and its peak resident memory."""

    seconds: float
    cpu_seconds: float
    peak_nbytes: int


@dataclass(frozen=True)
class Contender:
    """A way to make `out` of a base and an adapter. `fresh` is called before each run, outside the clock."""

    name: str
    command: Sequence[str]
    out: Path
    environment: Mapping[str, str]
    fresh: Callable[[], None] = lambda: None


def run(contender: Contender, *, cold: bool) -> Cost:
    """Run once into an absent `out`, and remove that again."""
    shutil.rmtree(contender.out, ignore_errors=True)
    contender.fresh()
    os.sync()
    if cold:
        DROP_CACHES.write_text("3\n")
    log = contender.out.with_suffix(".log")
    launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(log), *contender.command]
    answer = subprocess.run(
        launch, env={**os.environ, **contender.environment}, stdout=subprocess.PIPE, check=True, text=True
    )
    cost = json.loads(answer.stdout)
    if cost.pop("exit_code"):
        raise RuntimeError(f"{contender.name} failed: {log.read_text(errors='replace')[-2000:]}")
    return Cost(**cost)


def interleaved(contenders: Sequence[Contender], repeats: int, *, cold: bool) -> dict[str, list[Cost]]:
    """Every contender `repeats` times, in turn, so that a slow minute of the machine meets all of them."""
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
    for round_number in range(repeats):
        for contender in contenders:
            cost = run(contender, cold=cold)
            costs[contender.name].append(cost)
            print(
                f"  {'cold' if cold else 'warm'} {round_number + 1}/{repeats} {contender.name:<34}"
                f"{cost.seconds:7.2f} s  cpu {cost.cpu_seconds:6.2f} s  {cost.peak_nbytes / 1e6:7.0f} MB",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    for contender in contenders:
        shutil.rmtree(contender.out, ignore_errors=True)
    return costs


def medians(costs: Sequence[Cost]) -> Cost:
    """The median of each figure."""
    return Cost(
        median(cost.seconds for cost in costs),
        median(cost.cpu_seconds for cost in costs),
        int(median(cost.peak_nbytes for cost in costs)),
    )


def can_drop_caches() -> bool:
    """Whether this process may empty the page cache."""
    return os.access(DROP_CACHES, os.W_OK)
