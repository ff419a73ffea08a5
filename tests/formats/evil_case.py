"""What an evil case is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import AdapterError
from ingot.formats import read_header, read_torch_zip

CANARY = "canary"


@dataclass(frozen=True)
class Case:
    """`prepare(directory)` lays out files and returns what must raise an IngotError, and do nothing else."""

    name: str
    prepare: Callable[[Path], Callable[[], object]]

    def __repr__(self) -> str:
        return self.name


#: A file, or what makes it when told the directory in which the canary lives.
Content = bytes | Callable[[Path], bytes]


def header_case(name: str, content: Content) -> Case:
    """A file whose safetensors header is read."""
    return _file_case(name, content, read_header)


def torch_case(name: str, content: Content) -> Case:
    """A torch.save file whose tensors are listed."""
    return _file_case(name, content, read_torch_zip)


def _file_case(name: str, content: Content, read: Callable[..., object]) -> Case:
    def prepare(directory: Path) -> Callable[[], object]:
        path = directory / "evil"
        path.write_bytes(content if isinstance(content, bytes) else content(directory))
        fd = os.open(path, os.O_RDONLY)

        def attempt() -> object:
            try:
                return read(fd, file="evil", incomplete=AdapterError)
            finally:
                os.close(fd)

        return attempt

    return Case(name, prepare)
