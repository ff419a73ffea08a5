"""Inputs of a merge, and what becomes of them over the years: moved, renamed, scattered."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.record import Record, read_record


def merge(
    base: Path, adapters: Sequence[tuple[Path, float]], target: Path, options: Options | None = None, **more: Any
) -> Record:
    """Make an artifact; `more` is for `prepare`, `release` for the run. Returns its record."""
    release = more.pop("release", None)
    with prepare(str(base), [(str(path), w) for path, w in adapters], options, target=target, **more) as job:
        job.run(release=release)
    return record_of(target)


def record_of(artifact: Path) -> Record:
    return read_record((artifact / "ingot.json").read_bytes())


def scatter(folder: Path, into: Path) -> None:
    """Move each file of `folder` to a folder of its own below `into`, under another name; the folder goes."""
    for number, path in enumerate(sorted(folder.iterdir())):
        place = into / f"{folder.name}-{number}"
        place.mkdir(parents=True)
        shutil.move(path, place / f"renamed-{number}.dat")
    folder.rmdir()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
