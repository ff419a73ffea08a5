"""A file of an output while it is being written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ingot.storage.disk import OutputFile


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file in progress: `write_at` from any thread, any order; then `Staging.commit`."""

    name: str
    path: Path
    nbytes: int
    file: OutputFile
    _written: list[tuple[int, int]] = field(default_factory=list, repr=False)

    @property
    def direct(self) -> bool:
        """Whether writes must be aligned (see `OutputFile.direct`); the last one may then pass the end of the file."""
        return self.file.direct

    def write_at(self, data: memoryview | bytes | bytearray, offset: int) -> None:
        """Write all of `data` at byte `offset`. Raises ResourceError."""
        self.file.write_at(data, offset)
        self._written.append((offset, offset + memoryview(data).nbytes))

    def first_gap(self) -> int | None:
        """The first byte of [0, nbytes) that nobody wrote; None when there is none."""
        end = 0
        for begin, stop in sorted(self._written):
            if begin > end:
                break
            end = max(end, stop)
        return end if end < self.nbytes else None
