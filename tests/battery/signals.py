"""SIGINT and SIGTERM to real processes at random moments, once and twice."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.battery.figure import Figure, Report, caught, counted, scaled
from tests.battery.kills import Timing, large_model, measured, started_and_waited
from tests.battery.processes import WORKERS, ended, forked
from tests.battery.workshop import Content, Workshop, difference, leavings, workshop

SIGNALS = 100
#: After a second signal within this time the process ends at once.
SECOND_WITHIN = 0.05


def run(scale: float, report: Report) -> Figure:
    seconds: list[float] = []
    with workshop(large_model, scale=scale) as shop:
        expected, timing, total = shop.reference(), measured(shop), scaled(SIGNALS, scale, 2)
        one = partial(_signal, shop, expected, timing, seconds)
        with ThreadPoolExecutor(WORKERS) as pool:
            what = "signals (SIGINT, SIGTERM; once, twice): exit 130 or 143, or 0 when done; resumed to identical bytes"
            count = counted(what, total, pool.map(partial(caught, one), range(total)), report)
    seconds.sort()
    middle, high = seconds[len(seconds) // 2], seconds[min(len(seconds) - 1, len(seconds) * 99 // 100)]
    return Figure([count], [f"from the signal to the exit: median {middle * 1000:.0f} ms, p99 {high * 1000:.0f} ms"])


def _signal(shop: Workshop, expected: Content, timing: Timing, seconds: list[float], number: int) -> str | None:
    chance, folder = random.Random(number), shop.root / f"signal-{number}"
    folder.mkdir()
    out, log = folder / "out", folder / "log"
    process, early = started_and_waited(shop, out, log, timing, chance)
    which, twice = (signal.SIGINT, signal.SIGTERM)[number % 2], number % 4 >= 2
    seconds.append(_stopped(process, which, chance.uniform(0, SECOND_WITHIN) if twice else None))
    fault = _code_fault(process.returncode, which, early or twice or out.exists()) or difference(
        out, expected, absent_is_well=True
    )
    if fault:
        return f"{which.name}{' twice' if twice else ''}: {fault}: {log.read_text()[-1500:]}"
    code = ended(forked(shop.command(out), shop.root / "cache", log))
    fault = (
        (f"resumed with exit {code}: {log.read_text()}" if code else None) or difference(out, expected) or leavings(out)
    )
    shutil.rmtree(folder, ignore_errors=True)
    return fault


def _stopped(process: subprocess.Popen[bytes], which: signal.Signals, second_after: float | None) -> float:
    """Seconds from the first signal to the end."""
    begun = time.monotonic()
    process.send_signal(which)
    if second_after is not None:
        time.sleep(second_after)
        process.send_signal(which)  # does nothing to a process that was waited for
    process.wait(timeout=60)
    return time.monotonic() - begun


def _code_fault(code: int, which: signal.Signals, unhandled: bool) -> str | None:
    """While Python starts, and when it ends after the work, it may end by the signal itself: a shell shows the same."""
    if code == 128 + which or (unhandled and code in (0, -which)):
        return None
    return f"exit {code}"
