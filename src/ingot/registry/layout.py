"""Where a registry is, and what lies where in it.

registry.json                  what this directory is
artifacts/NAME/                published artifacts, whole, each with its ingot.json
adapters/SHA256/               kept adapters, by content, read-only; nothing in ingot removes one
records/IDENTITY/              what is left of an artifact when its weights go
    ingot.json                 the record
    ingot.tensors.jsonl        the tensor table, as far as the artifact has one
    README.md                  the model card
    report.html                of its latest evaluation, as far as a release made it
    pushes.jsonl               where it was pushed to
    places.json                where things were last seen on this machine: hints, believed by digest only
tags.jsonl                     every tag that was ever set, in order
work/                          releases and rebuilds under way, and what is being removed
index.sqlite                   a cache of the above; made again whenever it is missing or damaged
lock                           one changer at a time
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MARKER = b'{"format": "ingot registry 1"}\n'
ENVIRONMENT = "INGOT_REGISTRY"
REPORT_NAME = "report.html"


@dataclass(frozen=True)
class Layout:
    """The paths of the registry at `root`."""

    root: Path

    @property
    def marker(self) -> Path:
        return self.root / "registry.json"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def adapters(self) -> Path:
        return self.root / "adapters"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def tags(self) -> Path:
        return self.root / "tags.jsonl"

    @property
    def index(self) -> Path:
        return self.root / "index.sqlite"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.artifacts, self.adapters, self.records, self.work)


def default_place() -> Path | None:
    """$INGOT_REGISTRY, else ingot/registry in $XDG_DATA_HOME or ~/.local/share; None where there is no home."""
    own = os.environ.get(ENVIRONMENT)
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_DATA_HOME", "")
    try:
        # The XDG specification has relative paths ignored.
        return (Path(shared) if os.path.isabs(shared) else Path.home() / ".local/share") / "ingot" / "registry"
    except RuntimeError:
        return None
