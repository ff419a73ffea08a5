"""sha256 of a file whose chunks are made by several workers: each waits for its turn, in the order of the bytes.

sha256 has no parallel form, but the chunks before and after it do: while one worker hashes chunk k, another computes
chunk k + 1.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence


class OrderedDigest:
    """A digest that takes its chunks in order, from any thread.

    Args:
        marks: file offsets, ascending, at which the running digest is noted: a mark at the end of each tensor lets
            `verify` name the first tensor that is damaged, at no cost while writing.
    """

    def __init__(self, stop: threading.Event, marks: Sequence[int] = ()) -> None:
        self._hash = hashlib.sha256()
        self._stop = stop
        self._turn = 0
        self._offset = 0
        self._marks = list(marks)
        self._noted: list[str] = []
        self._changed = threading.Condition()

    def update(self, number: int, data: memoryview) -> None:
        """Take chunk `number`; waits until all before it were taken, or returns at once when the run stops."""
        with self._changed:
            while self._turn != number:
                if self._stop.is_set():
                    return
                self._changed.wait(0.1)
        self._take(data)
        with self._changed:
            self._turn += 1
            self._changed.notify_all()

    def _take(self, data: memoryview) -> None:
        taken = 0
        while len(self._noted) < len(self._marks) and self._marks[len(self._noted)] <= self._offset + len(data):
            upto = self._marks[len(self._noted)] - self._offset
            self._hash.update(data[taken:upto])
            taken = upto
            self._noted.append(self._hash.copy().hexdigest())
        self._hash.update(data[taken:])
        self._offset += len(data)

    @property
    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    @property
    def noted(self) -> tuple[str, ...]:
        """The running digest at each mark."""
        return tuple(self._noted)
