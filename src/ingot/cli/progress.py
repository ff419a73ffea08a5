"""Progress of a run: a bar on a terminal, else a line every ten seconds; with --json an event once a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from ingot.cli.output import Output
from ingot.plan.figures import nbytes_text, seconds_text

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_SECONDS = 10.0
_EVENT_SECONDS = 1.0


class _View(Protocol):
    def show(self, done: int, *, last: bool) -> None: ...

    def close(self) -> None: ...


class Progress:
    """Call it with every number of units done, from any thread. A context manager.

    Args:
        total: units of the whole job; 0 where nobody knows.
        verb: what is being done, such as "merging".
        unit: bytes, or what else is counted.
    """

    def __init__(
        self,
        output: Output,
        total: int,
        verb: str,
        *,
        unit: str = "bytes",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mutex = threading.Lock()
        self._done = 0
        self._view: _View | None = None
        if output.mode == "json":
            self._view = _Events(output, total, verb, unit, clock)
        elif output.moving:
            self._view = _Bar(output, total, verb, unit)
        elif output.mode == "human":
            self._view = _Lines(output, total, verb, unit, clock)

    def __call__(self, number: int) -> None:
        with self._mutex:
            self._done += number
            if self._view is not None:
                self._view.show(self._done, last=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            if self._view is not None:
                if error is None:
                    self._view.show(self._done, last=True)
                self._view.close()


def bars(output: Output) -> Callable[[str, int, str], Progress]:
    """Opens one bar after the other: what is done, of how many units, which unit."""
    return lambda what, total, unit: Progress(output, total, what, unit=unit)


class _Events:
    """{"type": "progress", "what", "unit", "done", "total", "seconds"}, at most once a second, and once at the end."""

    def __init__(self, output: Output, total: int, verb: str, unit: str, clock: Callable[[], float]) -> None:
        self._output, self._clock = output, clock
        self._fixed = {"what": verb, "unit": unit, "total": total}
        self._started = self._last = clock()

    def show(self, done: int, *, last: bool) -> None:
        now = self._clock()
        if last or now - self._last >= _EVENT_SECONDS:
            self._last = now
            seconds = round(now - self._started, 3)
            self._output.event("progress", **self._fixed, done=done, seconds=seconds)

    def close(self) -> None:
        pass


class _Lines:
    """`merging: 3.2 GB of 16.1 GB, 1.1 GB/s, 12 s left`, every ten seconds; a short job says nothing."""

    def __init__(self, output: Output, total: int, verb: str, unit: str, clock: Callable[[], float]) -> None:
        self._output, self._total, self._verb, self._clock = output, total, verb, clock
        self._unit = unit
        self._started = self._last = clock()

    def show(self, done: int, *, last: bool) -> None:
        now = self._clock()
        if not last and now - self._last >= _LINE_SECONDS:
            self._last = now
            rate = done / (now - self._started)
            left = max(0, self._total - done) / rate if rate else 0.0
            self._output.say(
                f"{self._verb}: {self._counted(done, rate)}" + (f", {seconds_text(left)} left" if self._total else "")
            )

    def _counted(self, done: int, rate: float) -> str:
        if self._unit == "bytes":
            return f"{nbytes_text(done)} of {nbytes_text(self._total)}, {nbytes_text(rate)}/s"
        of = f" of {self._total:,}" if self._total else ""
        return f"{done:,}{of} {self._unit}, {rate:.3g} a second"

    def close(self) -> None:
        pass


class _Bar:
    """rich's bar on stderr; it goes away when the job ends, the verdict stays."""

    def __init__(self, output: Output, total: int, verb: str, unit: str) -> None:
        from rich import progress
        from rich.console import Console

        counts = (progress.DownloadColumn(), progress.TransferSpeedColumn())
        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=None),
            *(counts if unit == "bytes" else (progress.MofNCompleteColumn(),)),
            progress.TimeRemainingColumn(),
        )
        console = Console(file=output.stderr, no_color=not output.color, highlight=False)
        self._rich: RichProgress = progress.Progress(*columns, console=console, transient=True)
        self._task: TaskID = self._rich.add_task(verb, total=total or None)
        self._rich.start()

    def show(self, done: int, *, last: bool) -> None:
        self._rich.update(self._task, completed=done, refresh=last)

    def close(self) -> None:
        self._rich.stop()
