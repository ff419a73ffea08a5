"""`kill -9` of real `python -m ingot merge` processes at random moments, on the real disk."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.battery.figure import Count, Figure, Report, scaled
from tests.battery.processes import WORKERS, ended, forked, started
from tests.battery.workshop import Content, Workshop, difference, leavings, llama_model, workshop

KILLS = 200
#: Of one output in a row: the resumed run is killed too, and the one after it.
IN_A_ROW = 4
#: Shares of the moments that lie anywhere since the start, and since the run has its work directory; the others lie
#: between its first finished file and its end.
EARLY, FIRST_HALF = 0.1, 0.4
SMALL_SAMPLE = 0.05


@dataclass
class Timing:
    """Seconds of an undisturbed run: to its work directory, from there to its output, and from the first file to it."""

    start: float
    work: float
    tail: float


@dataclass
class Tried:
    """What became of the kills so far, over all threads."""

    moments: Counter[str] = field(default_factory=Counter)
    count: Count = field(default_factory=lambda: Count("kills resumed to identical bytes, the output never half"))


def run(scale: float, report: Report) -> Figure:
    with workshop(large_model, scale=scale) as shop:
        expected, timing = shop.reference(), measured(shop)
        tried, total = Tried(), scaled(KILLS, scale, 2)
        rows = [IN_A_ROW] * (total // IN_A_ROW) + ([total % IN_A_ROW] if total % IN_A_ROW else [])
        with ThreadPoolExecutor(WORKERS) as pool:
            jobs = [pool.submit(_row, shop, expected, timing, n, kills, tried) for n, kills in enumerate(rows)]
            for job in jobs:
                job.result()
                report(tried.count.tried, total)
    moments = ", ".join(f"{number} {moment}" for moment, number in sorted(tried.moments.items()))
    return Figure([tried.count], [f"of the kills: {moments}; a run works for {timing.work:.2f} s"])


def large_model(shop: Workshop, scale: float) -> None:
    """About 50 MB in a dozen shards: a run takes long enough for a kill to land in it. Less for a small sample."""
    if scale < SMALL_SAMPLE:
        llama_model(shop, hidden=128, layers=8, shard_nbytes=300_000)
    else:
        llama_model(shop, hidden=512, layers=8, shard_nbytes=5_000_000)


def measured(shop: Workshop) -> Timing:
    """Of a real process."""
    out = shop.root / "measured"
    begun, before = time.monotonic(), _Left.of(out)
    process = started(shop.command(out), shop.root / "cache", shop.root / "measured.log")
    _wait(process, lambda: _Left.of(out).work != before.work)
    working = time.monotonic()
    _wait(process, lambda: out.exists() or _Left.of(out).files > 0)
    first = time.monotonic()
    _wait(process, out.exists)
    done = time.monotonic()
    assert process.wait() == 0, (shop.root / "measured.log").read_text()
    return Timing(working - begun, done - working, done - first)


def started_and_waited(
    shop: Workshop, out: Path, log: Path, timing: Timing, chance: random.Random
) -> tuple[subprocess.Popen[bytes], bool]:
    """A run at a random moment of its life, and whether that may lie before its work directory."""
    before, share = _Left.of(out), chance.random()
    process = started(shop.command(out), shop.root / "cache", log)
    if share < EARLY:
        time.sleep(chance.uniform(0, timing.start))
    elif share < FIRST_HALF:
        _wait(process, lambda: out.exists() or _Left.of(out).work != before.work)
        time.sleep(chance.uniform(0, timing.work))
    else:
        _wait(process, lambda: out.exists() or _Left.of(out).files > before.files)
        time.sleep(chance.uniform(0, timing.tail))
    return process, share < EARLY


@dataclass(frozen=True)
class _Left:
    """What lies beside an output: the work directory, which a run renames when it takes it over, and files in it."""

    work: frozenset[str]
    files: int

    @classmethod
    def of(cls, out: Path) -> _Left:
        found = list(out.parent.glob(f".{out.name}.ingot-partial-*/files"))
        return cls(frozenset(path.parent.name for path in found), sum(len(list(path.glob("*"))) for path in found))


def _wait(process: subprocess.Popen[bytes], until: Callable[[], bool]) -> None:
    """Until then, or until the process has ended."""
    while process.poll() is None and not until():
        time.sleep(0.002)


def _row(shop: Workshop, expected: Content, timing: Timing, number: int, kills: int, tried: Tried) -> None:
    """Kill the runs of one output several times, then let it be finished."""
    chance, folder = random.Random(number), shop.root / f"row-{number}"
    folder.mkdir()
    out, log = folder / "out", folder / "log"
    fault = None
    for _ in range(kills):
        tried.moments[_kill(shop, out, timing, chance)] += 1
        fault = fault or difference(out, expected, absent_is_well=True)
    code = ended(forked(shop.command(out), shop.root / "cache", log))
    fault = fault or (f"exit {code}: {log.read_text()}" if code else None) or difference(out, expected) or leavings(out)
    for _ in range(kills):
        tried.count.add(fault)
    if not fault:
        shutil.rmtree(folder, ignore_errors=True)


def _kill(shop: Workshop, out: Path, timing: Timing, chance: random.Random) -> str:
    """Start, wait, kill; says when it came."""
    before = _Left.of(out).files
    process, _ = started_and_waited(shop, out, out.with_name("log"), timing, chance)
    was_running = process.poll() is None
    process.kill()
    process.wait()
    if out.exists():
        return "after the output had its name" if was_running else "after the run's end"
    left = _Left.of(out)
    if not left.work:
        return "before any work"
    return "after more files were finished" if left.files > before else "before one more file was finished"
