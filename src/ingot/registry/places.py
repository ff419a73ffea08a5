"""places.json: where an artifact and its inputs were last seen on this machine.

The record holds no path, because it goes with the artifact; this file stays in the registry. What it says is a hint:
whoever follows it compares digests.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from ingot.errors import CheckFailed
from ingot.merge import Job
from ingot.registry.layout import Layout
from ingot.storage.amend import replace_file
from ingot.storage.disk import Disk

PLACES_NAME = "places.json"


class Places(Struct, frozen=True, omit_defaults=True):
    """Absolute paths.

    Attributes:
        name: the artifact's directory in the registry, or the name it had there.
        artifact: where it lies outside of the registry.
        inputs: by "base", or an adapter's number counted from 0.
    """

    name: str
    artifact: str | None = None
    inputs: dict[str, str] = {}
    imatrix: str | None = None
    llama_cpp: str | None = None

    @property
    def hints(self) -> dict[str, str]:
        """Everything that an artifact was made of, as `finding.find_inputs` takes it."""
        more = {"imatrix": self.imatrix, "llama_cpp": self.llama_cpp}
        return {**self.inputs, **{name: place for name, place in more.items() if place is not None}}


def places_of(job: Job, name: str, imatrix: Path | None, llama_cpp: Path | None) -> Places:
    """Where the inputs of a job are now."""
    locations = {"base": job.base.location, **{str(n): one.location for n, one in enumerate(job.adapters)}}
    inputs = {role: str(location.path.absolute()) for role, location in locations.items()}
    others = (None if path is None else str(path.absolute()) for path in (imatrix, llama_cpp))
    return Places(name, None, inputs, *others)


def read_places(path: Path) -> Places | None:
    """What the file says; None where there is none. Raises CheckFailed."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Places)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise CheckFailed("places.json cannot be read", where=path, found=error, hint="Remove it.") from error


def known_places(layout: Layout, identity: str, name: str) -> Places:
    """Those of an identity. They are hints: where they cannot be read, there are none, and the name is `name`."""
    try:
        return read_places(layout.records / identity / PLACES_NAME) or Places(name)
    except CheckFailed:
        return Places(name)


def write_places(disk: Disk, path: Path, places: Places) -> None:
    """Raises OutputError, ResourceError."""
    replace_file(disk, path, msgspec.json.format(msgspec.json.encode(places)) + b"\n")
