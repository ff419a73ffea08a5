"""What an item reports: how many of how many held, and the first that did not."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

T = TypeVar("T")
SHOWN_FAULTS = 5


@dataclass
class Count:
    """`held` of `tried`, in words: "96 of 96 crash points resumed to identical bytes"."""

    what: str
    tried: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, fault: str | None) -> None:
        """One more try; `fault` None says that it held."""
        self.tried += 1
        if fault is not None:
            self.faults.append(fault)

    @property
    def text(self) -> str:
        return f"{self.tried - len(self.faults):,} of {self.tried:,} {self.what}"


@dataclass(frozen=True)
class Figure:
    """The counts of an item. `notes` are measured and not asserted; `skipped` names what the system refused."""

    counts: Sequence[Count]
    notes: Sequence[str] = ()
    skipped: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Nothing fell short, and nothing is claimed of no tries at all."""
        return all(count.tried and not count.faults for count in self.counts) and bool(self.counts or self.skipped)

    @property
    def lines(self) -> list[str]:
        return [count.text for count in self.counts] + list(self.notes) + [f"skipped: {why}" for why in self.skipped]

    @property
    def faults(self) -> list[str]:
        shown = []
        for count in self.counts:
            shown += count.faults[:SHOWN_FAULTS]
            more = len(count.faults) - SHOWN_FAULTS
            shown += [f"... and {more} more"] if more > 0 else []
        return shown


class Report:
    """Progress of one item: a moving line on a terminal, elsewhere one every 20 seconds; nothing when `quiet`."""

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        self._name, self._quiet = name, quiet
        self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        moving = sys.stderr.isatty()
        now = time.monotonic()
        if self._quiet or now - self._told < (0.1 if moving else 20):
            return
        self._told = now
        end = "\r" if moving else "\n"
        print(f"  {self._name}: {done:,} of {total:,}", end=end, file=sys.stderr, flush=True)


def count(what: str, tries: Sequence[T], one: Callable[[T], str | None], report: Report) -> Count:
    """Try each in this process."""
    return counted(what, len(tries), map(partial(caught, one), tries), report)


def caught(one: Callable[[T], str | None], thing: T) -> str | None:
    """What `one` says; an exception that no refusal is, is a fault of this try, and the others go on."""
    try:
        return one(thing)
    except Exception:
        return f"{thing}: {traceback.format_exc()[-2000:]}"


def counted(what: str, total: int, faults: Iterable[str | None], report: Report) -> Count:
    """Gather the faults of `total` tries as they come."""
    result = Count(what)
    for fault in faults:
        result.add(fault)
        report(result.tried, total)
    return result


def scaled(number: int, scale: float, least: int = 1) -> int:
    """`number` at scale 1, and never below `least`."""
    return max(least, round(number * scale))


def thinned(tries: Sequence[T], scale: float, least: int = 1) -> list[T]:
    """Every n-th of `tries`, so that about `scale` of them remain, spread evenly."""
    wanted = min(len(tries), scaled(len(tries), scale, least))
    return [tries[i * len(tries) // wanted] for i in range(wanted)]
