"""sha256 of a file whose chunks are made by several workers: each waits for its turn, in the order of the bytes.

sha256 has no parallel form, but the chunks before and after it do: while one worker hashes chunk k, another computes
chunk k + 1. A worker whose turn it is already hashes each step right after computing it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

#: Fewer bytes are not worth a call.
_LEAST_NBYTES = 1 << 18


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

    def has_turn(self, number: int) -> bool:
        """Whether all chunks before `number` were taken. Once true it stays so until `pass_on`."""
        return self._turn == number

    def wait(self, number: int) -> bool:
        """Wait for the turn of chunk `number`; False when the run stops instead."""
        with self._changed:
            while self._turn != number:
                if self._stop.is_set():
                    return False
                self._changed.wait(0.1)
        return True

    def pass_on(self) -> None:
        """The chunk whose turn it is was taken whole."""
        with self._changed:
            self._turn += 1
            self._changed.notify_all()

    def update(self, number: int, data: memoryview) -> None:
        """Take all of chunk `number` in its turn; nothing when the run stops."""
        if self.wait(number):
            self.take(data)
            self.pass_on()

    def take(self, data: memoryview) -> None:
        """The next bytes, from the chunk whose turn it is."""
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


class HotDigest:
    """One chunk's part in an `OrderedDigest`: takes bytes while they are still in the core's cache.

    That needs the chunk's turn. A worker that is ahead of it computes on, and all that waited is taken at the end.
    """

    def __init__(self, digest: OrderedDigest, number: int, data: memoryview) -> None:
        self._digest = digest
        self._number = number
        self._data = data
        self._taken = 0

    def final(self, upto: int) -> None:
        """The chunk's bytes before `upto` will not change any more."""
        if upto - self._taken >= _LEAST_NBYTES and self._digest.has_turn(self._number):
            self._digest.take(self._data[self._taken : upto])
            self._taken = upto

    def close(self) -> None:
        """Take the rest, and let the next chunk have its turn; nothing when the run stops."""
        if self._digest.wait(self._number):
            self._digest.take(self._data[self._taken :])
            self._digest.pass_on()
