"""A release that is killed, told to stop, or on a disk that dies: what is published is whole, the same command ends it.

Of real `python -m ingot release` processes each row has one registry: its runs die one after the other, each at another
step (a new name in the registry is one), until one may go on. On the crashing disk the release runs in this process.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ingot.errors import IngotError
from ingot.registry.layout import Layout
from tests.battery.figure import Count, Figure, Report, counted, scaled, thinned
from tests.battery.processes import WORKERS, ended, forked, parallel, started
from tests.battery.release_shop import (
    Expected,
    ReleaseShop,
    demo_shop,
    fault_of,
    folder_of_releases,
    small_shop,
    unfinished,
)
from tests.battery.workshop import scratch
from tests.storage.faulty_disk import FATES, KEPT, WHENS, Crash, Fate, FaultyDisk, When

KILLS, SIGNALS, TWICE = 60, 20, 60
#: Of one registry, at most: the run that goes on is ended too, and the one after it.
IN_A_ROW = 5
#: For each signal, as a run may be too quick for it.
MORE_TRIES = 4
SMALL_SAMPLE = 0.05
POLL_SECONDS = 0.002
Point = tuple[int, When, Fate]


def run(scale: float, report: Report) -> Figure:
    with folder_of_releases() as root:
        shop = small_shop(root)
        expected = shop.expected()
        counts = _crashes(shop, expected, scale, report)
        if scale < SMALL_SAMPLE:
            return _processes(shop, expected, counts, _rows(1, [signal.SIGKILL]), report)
    with folder_of_releases() as root:
        shop = demo_shop(root)
        rows = _rows(scaled(KILLS, scale), [signal.SIGKILL])
        rows += _rows(scaled(SIGNALS, scale, 2), [signal.SIGINT, signal.SIGTERM])
        return _processes(shop, shop.expected(), counts, rows, report)


# -- a disk that dies


def _crashes(shop: ReleaseShop, expected: Expected, scale: float, report: Report) -> list[Count]:
    with scratch(shop.root / "tries") as folder:
        disk = FaultyDisk(folder)
        shop.release(folder / "registry", disk)
        number = len(disk.operations)
    chance = random.Random(1)
    every = [(n, when) for n in range(number) for when in WHENS]
    turns = len(FATES)
    points: list[tuple[Point, ...]] = [((*one, FATES[(at + at // turns) % turns]),) for at, one in enumerate(every)]
    pairs: list[tuple[Point, ...]] = [
        tuple((*chance.choice(every), chance.choice(FATES)) for _ in range(2)) for _ in range(scaled(TWICE, scale, 1))
    ]
    holds = "what is published whole, the next run identical, nothing left in work/"
    once = f"crash points of a release ({number} operations × {len(WHENS)} moments, {turns} fates in turn): {holds}"
    return [
        counted(what, len(tries), parallel(partial(_crash, shop, expected), tries), report)
        for what, tries in ((once, thinned(points, scale, 3)), ("pairs of crashes, the second in the next run", pairs))
    ]


def _crash(shop: ReleaseShop, expected: Expected, points: Sequence[Point]) -> str | None:
    with scratch(shop.root / "tries") as folder:
        registry, grave = folder / "registry", folder / "grave"
        grave.mkdir()
        fault = None
        for number, when, fate in points:
            disk = FaultyDisk(grave, crash_at=number, when=when, fate=fate)
            try:
                shop.release(registry, disk)
            except Crash:
                pass
            except IngotError:  # what a run says after the crash is nobody's
                if not disk.crashed:
                    raise
            else:
                assert not disk.crashed, "a crash was swallowed"
            fault = fault or fault_of(registry, expected)
        if fault is None:
            shop.release(registry, FaultyDisk(grave, fate=KEPT))
            fault = unfinished(registry, expected)
        return f"{points}, {disk.operations[-1]}: {fault}" if fault else None


# -- processes


def _processes(
    shop: ReleaseShop, expected: Expected, counts: list[Count], rows: list[list[signal.Signals]], report: Report
) -> Figure:
    tried, total = Tried(shop, expected, _measured(shop)), sum(map(len, rows))
    with ThreadPoolExecutor(WORKERS) as pool:
        for job in [pool.submit(_row, tried, number, row) for number, row in enumerate(rows)]:
            job.result()
            report(tried.killed.tried + tried.signalled.tried, total)
    counts += [count for count in (tried.killed, tried.signalled, tried.resumed) if count.tried]
    missed = total - tried.killed.tried - tried.signalled.tried
    counts[-1].faults += [f"{missed} of {total} signals found no living process"] if missed else []
    moments = ", ".join(f"{number} {moment}" for moment, number in tried.moments.most_common())
    return Figure(counts, [f"of the signals: {moments}", f"most runs that one release took: {tried.most}"])


@dataclass(frozen=True)
class Timing:
    """Of an undisturbed run: seconds to its first step, how many steps there are, and seconds from first to last."""

    start: float
    steps: int
    work: float


@dataclass
class Tried:
    """What became of the runs so far, over all threads. `most`: runs of one release, with that which ended it."""

    shop: ReleaseShop
    expected: Expected
    timing: Timing
    moments: Counter[str] = field(default_factory=Counter)
    most: int = 0
    killed: Count = field(default_factory=lambda: Count("kill -9 of `ingot release`: what is published is whole"))
    signalled: Count = field(default_factory=lambda: Count("SIGINT and SIGTERM: the same, exit 130 or 143"))
    resumed: Count = field(
        default_factory=lambda: Count("releases that ended: the bytes of an undisturbed one, nothing left")
    )
    mutex: threading.Lock = field(default_factory=threading.Lock)


def _rows(number: int, signals: Sequence[signal.Signals]) -> list[list[signal.Signals]]:
    """So many signals, cut into rows of 1 to IN_A_ROW."""
    chance, rows = random.Random(number), []
    left = [signals[at % len(signals)] for at in range(number)]
    while left:
        length = chance.randint(1, IN_A_ROW)
        rows.append(left[:length])
        left = left[length:]
    return rows


def _measured(shop: ReleaseShop) -> Timing:
    """Of a real process."""
    registry, log = shop.root / "measured", shop.root / "measured.log"
    begun = time.monotonic()
    process = started(shop.command(registry), shop.cache, log)
    moments = [time.monotonic() for _ in _steps(process, registry)]
    assert process.wait() == 0, log.read_text()
    return Timing(moments[0] - begun, len(moments), moments[-1] - moments[0])


def _steps(process: subprocess.Popen[bytes], registry: Path) -> Iterator[None]:
    """Each change of the names in the registry, until the process ends."""
    before = _seen(registry)
    while process.poll() is None:
        now = _seen(registry)
        if now != before:
            before = now
            yield
        time.sleep(POLL_SECONDS)


def _seen(registry: Path) -> frozenset[str]:
    return frozenset(name for _, folders, files in os.walk(registry) for name in (*folders, *files))


def _row(tried: Tried, number: int, signals: Sequence[signal.Signals]) -> None:
    """End the runs of one release, each by a signal, then let one go on. One that was too quick is a release, too."""
    chance, folder = random.Random(number), tried.shop.root / f"row-{number}"
    folder.mkdir()
    registry, log, runs, left = folder / "0", folder / "log", 0, list(signals)
    for again in range(1, MORE_TRIES * len(signals) + 1):
        if not left:
            break
        landed, moment, fault = _end(tried, registry, log, left[0], chance)
        runs += 1
        if landed or fault:
            with tried.mutex:
                tried.moments[moment] += 1
                (tried.killed if left.pop(0) == signal.SIGKILL else tried.signalled).add(fault)
        else:
            _ended(tried, registry, runs, None)
            registry, runs = folder / str(again), 0
    if runs:
        code = ended(forked(tried.shop.command(registry), tried.shop.cache, log))
        _ended(tried, registry, runs + 1, f"exit {code}: {log.read_text()}" if code else None)


def _ended(tried: Tried, registry: Path, runs: int, fault: str | None) -> None:
    """Look at a release that came to its end in its `runs`-th run."""
    fault = fault or unfinished(registry, tried.expected)
    if not fault:
        shutil.rmtree(registry, ignore_errors=True)
    with tried.mutex:
        tried.most = max(tried.most, runs)
        tried.resumed.add(fault)


def _end(
    tried: Tried, registry: Path, log: Path, which: signal.Signals, chance: random.Random
) -> tuple[bool, str, str | None]:
    """One run, ended: whether it was still alive, where it was, and what is wrong now."""
    timing, process = tried.timing, started(tried.shop.command(registry), tried.shop.cache, log)
    step = int(chance.random() ** 1.5 * timing.steps)  # the later run of a release has fewer
    if step == 0:
        time.sleep(chance.uniform(0, timing.start))
    else:
        steps = _steps(process, registry)
        while step and next(steps, steps) is None:  # it ends where the process does
            step -= 1
        time.sleep(chance.uniform(0, timing.work / timing.steps))
    alive = process.poll() is None
    process.send_signal(which)
    code = process.wait(timeout=120)
    landed = alive and code != 0
    fault = None if code in (0, 128 + which, -which) else f"exit {code}: {log.read_text()[-1500:]}"
    try:
        fault = fault or fault_of(registry, tried.expected)
    except Exception as error:
        fault = repr(error)
    return landed, _moment(registry, tried.expected), f"{which.name}: {fault}" if fault else None


def _moment(registry: Path, expected: Expected) -> str:
    """How far the release had come."""
    layout = Layout(registry)
    if not layout.marker.exists():
        return "before there was a registry"
    if layout.tags.exists():
        return "when the tags were set"
    published = len(list(layout.artifacts.iterdir()))
    if published:
        return f"with {published} of {len(expected.artifacts)} published"
    made = [name for name in expected.artifacts if (layout.work / name).exists()]
    return f"with {len(made)} of {len(expected.artifacts)} made"
