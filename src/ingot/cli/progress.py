"""Progress of a run in bytes: a bar on a terminal, else a line every ten seconds; JSON events once a second."""

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
    """Call it with every number of bytes done, from any thread. A context manager.

    Args:
        total: bytes of the whole job.
        verb: what is being done, such as "merging".
    """

    def __init__(
        self, output: Output, total: int, verb: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._mutex = threading.Lock()
        self._done = 0
        self._view: _View | None = None
        if output.mode == "json":
            self._view = _Events(output, total, clock)
        elif output.moving:
            self._view = _Bar(output, total, verb)
        elif output.mode == "human":
            self._view = _Lines(output, total, verb, clock)

    def __call__(self, nbytes: int) -> None:
        with self._mutex:
            self._done += nbytes
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


class _Events:
    """{"type": "progress", "done_nbytes", "total_nbytes", "seconds"}, at most once a second, and once at the end."""

    def __init__(self, output: Output, total: int, clock: Callable[[], float]) -> None:
        self._output, self._total, self._clock = output, total, clock
        self._started = self._last = clock()

    def show(self, done: int, *, last: bool) -> None:
        now = self._clock()
        if last or now - self._last >= _EVENT_SECONDS:
            self._last = now
            seconds = round(now - self._started, 3)
            self._output.event("progress", done_nbytes=done, total_nbytes=self._total, seconds=seconds)

    def close(self) -> None:
        pass


class _Lines:
    """`merging: 3.2 GB of 16.1 GB, 1.1 GB/s, 12 s left`, every ten seconds; a short job says nothing."""

    def __init__(self, output: Output, total: int, verb: str, clock: Callable[[], float]) -> None:
        self._output, self._total, self._verb, self._clock = output, total, verb, clock
        self._started = self._last = clock()

    def show(self, done: int, *, last: bool) -> None:
        now = self._clock()
        if not last and now - self._last >= _LINE_SECONDS:
            self._last = now
            rate = done / (now - self._started)
            left = max(0, self._total - done) / rate if rate else 0.0
            done_text = f"{nbytes_text(done)} of {nbytes_text(self._total)}"
            self._output.say(f"{self._verb}: {done_text}, {nbytes_text(rate)}/s, {seconds_text(left)} left")

    def close(self) -> None:
        pass


class _Bar:
    """rich's bar on stderr; it goes away when the job ends, the verdict stays."""

    def __init__(self, output: Output, total: int, verb: str) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        console = Console(file=output.stderr, no_color=not output.color, highlight=False)
        self._rich: RichProgress = progress.Progress(*columns, console=console, transient=True)
        self._task: TaskID = self._rich.add_task(verb, total=total)
        self._rich.start()

    def show(self, done: int, *, last: bool) -> None:
        self._rich.update(self._task, completed=done, refresh=last)

    def close(self) -> None:
        self._rich.stop()
