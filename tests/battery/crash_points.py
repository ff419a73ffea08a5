"""The machine dies at every operation of a real merge; what was not synced is kept, dropped, zeroed or garbled."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ingot.errors import IngotError
from ingot.storage import sweep
from tests.battery.figure import Count, Figure, Report, counted, scaled, thinned
from tests.battery.processes import parallel
from tests.battery.workshop import Content, Workshop, chunks_of, difference, leavings, scratch, workshop
from tests.storage.faulty_disk import FATES, KEPT, WHENS, Crash, Fate, FaultyDisk, When

#: Small enough that a shard of the toy is several writes.
CHUNK_NBYTES = 16_384
TWICE = 400
Point = tuple[int, When, Fate]


def run(scale: float, report: Report) -> Figure:
    with workshop() as shop:
        expected, number = shop.reference(), operations(shop)
        points = [(n, when, fate) for n in range(number) for when in WHENS for fate in FATES]
        tries = [(point,) for point in thinned(points, scale, 6)]
        once = f"crash points ({number} operations × {len(WHENS)} moments × {len(FATES)} fates of what was not synced)"
        counts = [_count(f"{once} resumed to identical bytes, the output never half", shop, expected, tries, report)]
        chance = random.Random(1)
        pairs = [tuple(chance.choices(points, k=2)) for _ in range(scaled(TWICE, scale, 2))]
        counts.append(_count("pairs of crashes, the second in the resumed run", shop, expected, pairs, report))
    return Figure(counts)


def operations(shop: Workshop) -> int:
    """Operations of an undisturbed merge."""
    with scratch(shop.root / "tries") as folder, chunks_of(CHUNK_NBYTES):
        disk = FaultyDisk(folder)
        shop.merge(folder / "out", disk=disk)
        return len(disk.operations)


def _count(what: str, shop: Workshop, expected: Content, tries: Sequence[tuple[Point, ...]], report: Report) -> Count:
    return counted(what, len(tries), parallel(partial(_crash, shop, expected), tries), report)


def _crash(shop: Workshop, expected: Content, points: tuple[Point, ...]) -> str | None:
    """Crash at each point in turn, then finish; the first fault."""
    with scratch(shop.root / "tries") as folder, chunks_of(CHUNK_NBYTES):
        out, grave = folder / "out", folder / "grave"
        grave.mkdir()
        for number, when, fate in points:
            disk = FaultyDisk(grave, crash_at=number, when=when, fate=fate)
            if not out.exists():
                _merge_until_crash(shop, out, disk)
            fault = difference(out, expected, absent_is_well=True)
            if fault:
                return f"{points}: {fault}"
        fault = finish(shop, out, FaultyDisk(grave, fate=KEPT), expected)
        return f"{points}: {fault}" if fault else None


def _merge_until_crash(shop: Workshop, out: Path, disk: FaultyDisk) -> None:
    """What a run says after the crash is nobody's: the dead disk may have shown its threads what no disk shows."""
    try:
        shop.merge(out, disk=disk)
    except Crash:
        return
    except IngotError:
        if not disk.crashed:
            raise
        return
    assert not disk.crashed, "a crash was swallowed"


def finish(shop: Workshop, out: Path, disk: FaultyDisk, expected: Content) -> str | None:
    """The same merge again, to its end: identical bytes, and nothing left beside them."""
    if out.exists():
        sweep(disk, out)
    else:
        shop.merge(out, disk=disk)
    return difference(out, expected) or leavings(out)
