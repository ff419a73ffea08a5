"""Signals: the first asks the work to stop, the second ends the process. A killed run resumes, so both are safe."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_WATCHED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_SAID = "\nstopping at the next safe point ... run the same command again to resume; Ctrl-C once more ends at once\n"
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar may have hidden it


class Stopped(KeyboardInterrupt):
    """The first signal, where no run watches for it.

    subtle: a KeyboardInterrupt of that very class that passes an exec(), as in imports, makes `python -m` end by SIGINT
    although it was caught, and whatever the exit code.
    """


class Stopper:
    """Turns signals into a stop. While a run watches `event` it is set; at other times Stopped is raised."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.received: int | None = None
        self._watched = False

    @property
    def exit_code(self) -> int:
        """143 after SIGTERM, as a shell would report it; 130 otherwise."""
        return 143 if self.received == signal.SIGTERM else 130

    @contextmanager
    def watched(self) -> Iterator[threading.Event]:
        """The event, for a run that looks at it; inside, a signal sets it and says so."""
        self._watched = True
        try:
            yield self.event
        finally:
            self._watched = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside; outside the main thread nothing can be handled and nothing is."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _WATCHED}
        for number in _WATCHED:
            # nohup and background jobs of a script set these to be ignored, and that is meant
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            _say(_SHOW_CURSOR if sys.stderr.isatty() else "")
            os._exit(128 + number)
        self.received = number
        if not self._watched:
            raise Stopped
        self.event.set()
        _say(_SAID)


def _say(text: str) -> None:
    # subtle: not through Output, whose lock the interrupted thread may hold
    with suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), text.encode())
