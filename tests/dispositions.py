"""Signals as a terminal has them: a job in the background may be told to ignore Ctrl-C, and children inherit that."""

from __future__ import annotations

import signal


def restore() -> None:
    """Heed SIGINT, SIGTERM and SIGHUP again, in this process and in those that it starts."""
    defaults = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    for number, handler in defaults.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
