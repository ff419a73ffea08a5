"""Buffered writing that never piles up dirty pages: each piece is on its way at once, and done a few pieces later.

Without it the kernel lets pages pile up to its limit, then makes the writer sleep; that, more than the disk, is what a
large buffered copy waits for.
"""

from __future__ import annotations

from collections import deque

from ingot.storage import kernel

#: Pieces below this stay in the page cache: they are configuration files, not weights.
_FROM_NBYTES = 1 << 20
_PIECES_UNDER_WAY = 4


class WriteBehind:
    """The pieces of one descriptor that are being written out. Threads may share it; they give pieces in any order."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._under_way: deque[tuple[int, int]] = deque()

    def add(self, offset: int, nbytes: int) -> None:
        """The piece was written to the page cache. Raises OSError when it, or one before it, cannot reach the disk."""
        if nbytes < _FROM_NBYTES:
            return
        kernel.start_writeout(self._fd, offset, nbytes)
        self._under_way.append((offset, nbytes))
        if len(self._under_way) > _PIECES_UNDER_WAY:
            try:
                oldest = self._under_way.popleft()
            except IndexError:
                return  # another thread took it
            kernel.finish_writeout(self._fd, *oldest)
            kernel.drop_pages(self._fd, *oldest)
