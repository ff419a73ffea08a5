"""What an interrupted run left, altered: every bit and every length of the journal, and bits of the staged files."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest import mock

from ingot.errors import IngotError, Interrupted
from tests.battery.figure import Count, Figure, Report, counted, scaled, thinned
from tests.battery.processes import parallel
from tests.battery.workshop import (
    Content,
    Workshop,
    difference,
    flip,
    leavings,
    scratch,
    small_model,
    workshop,
)
from tests.storage.faulty_disk import FaultyDisk

STAGED_BITS = 500


def run(scale: float, report: Report) -> Figure:
    with workshop(small_model) as shop:
        expected, work = shop.reference(), _interrupted(shop)
        journal = (work / "journal.jsonl").stat().st_size
        chance = random.Random(4)
        files = chance.choices(sorted((work / "files").iterdir()), k=scaled(STAGED_BITS, scale, 5))
        staged = [(path.name, chance.randrange(8 * path.stat().st_size)) for path in files]

        def tried(what: str, one: Callable[..., str | None], tries: Sequence[object]) -> Count:
            return counted(what, len(tries), parallel(partial(one, shop, work, expected), tries), report)

        bits, lengths = thinned(range(8 * journal), scale, 10), thinned(range(journal), scale, 10)
        return Figure(
            [
                tried("flipped bits of the journal: redone or refused, never wrong bytes", _journal_bit, bits),
                tried("lengths of a cut journal: redone, identical", _journal_cut, lengths),
                tried("flipped bits of staged files: noticed and redone, identical", _staged_bit, staged),
            ]
        )


def _interrupted(shop: Workshop) -> Path:
    """The work directory of a run that ended when every file but the record was finished."""
    out = shop.root / "interrupted" / "out"
    with mock.patch("ingot.storage.Staging.publish", side_effect=Interrupted("ended")), suppress(Interrupted):
        shop.merge(out)
    (work,) = out.parent.glob(".out.ingot-partial-*")
    return work


def _copied(work: Path, folder: Path) -> Path:
    copy = folder / work.name
    shutil.copytree(work, copy)
    return copy


def _resumed(shop: Workshop, folder: Path, expected: Content, *, may_refuse: bool) -> str | None:
    out = folder / "out"
    (folder / "grave").mkdir()
    try:
        shop.merge(out, disk=FaultyDisk(folder / "grave"))
    except IngotError as refusal:
        return None if may_refuse and refusal.exit_code == 15 and not out.exists() else f"refused: {refusal!r}"
    return difference(out, expected) or leavings(out)


def _journal_bit(shop: Workshop, work: Path, expected: Content, bit: int) -> str | None:
    with scratch(shop.root / "tries") as folder:
        flip(_copied(work, folder) / "journal.jsonl", bit)
        fault = _resumed(shop, folder, expected, may_refuse=True)
        return f"bit {bit} of the journal: {fault}" if fault else None


def _journal_cut(shop: Workshop, work: Path, expected: Content, length: int) -> str | None:
    with scratch(shop.root / "tries") as folder:
        with (_copied(work, folder) / "journal.jsonl").open("r+b") as file:
            file.truncate(length)
        fault = _resumed(shop, folder, expected, may_refuse=False)
        return f"journal cut to {length} bytes: {fault}" if fault else None


def _staged_bit(shop: Workshop, work: Path, expected: Content, place: tuple[str, int]) -> str | None:
    name, bit = place
    with scratch(shop.root / "tries") as folder:
        flip(_copied(work, folder) / "files" / name, bit)
        fault = _resumed(shop, folder, expected, may_refuse=False)
        return f"bit {bit} of the staged {name}: {fault}" if fault else None
