"""Small registries for tests: releases of one toy base, and copies of an artifact under other identities."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ingot.merge import prepare
from ingot.plan.model import Options
from ingot.record.form import AdapterLabel, Release
from ingot.record.statement import seal
from ingot.registry.entry import Entry
from ingot.registry.places import Places
from ingot.registry.store import Registry
from ingot.storage import DigestMemory


def release(
    registry: Registry, base: Path, adapter: Path, version: str, *, title: str = "support", name: str | None = None
) -> Entry:
    """Merge, and publish as TITLE-vVERSION; the training run is run-VERSION."""
    out = registry.layout.work / "making"
    label = AdapterLabel(version, f"run-{version}")
    with prepare(str(base), [(str(adapter), 1.0)], Options(), target=out, jobs=1) as job:
        job.run(
            release=Release(title, version, adapters=(label,)), memory=DigestMemory(registry.layout.root / ".memory")
        )
    places = Places(name or f"{title}-v{version}", None, {"base": str(base), "0": str(adapter)})
    return registry.publish(out, places)


def variant(artifact: Path, to: Path, *, made_on: str | None = None, **release: str) -> Path:
    """A copy of an artifact whose record tells of another release: another identity, with the same files."""
    shutil.copytree(artifact, to)
    value = json.loads((to / "ingot.json").read_bytes())
    value["predicate"]["buildDefinition"]["externalParameters"]["release"].update(release)
    if made_on is not None:
        value["predicate"]["runDetails"]["metadata"]["finishedOn"] = made_on
    (to / "ingot.json").write_bytes(seal(value))
    return to


def evaluated(artifact: Path, **evaluation: object) -> None:
    """Add an evaluation to the record."""
    value = json.loads((artifact / "ingot.json").read_bytes())
    value["predicate"]["runDetails"]["ingot_evaluations"].append(evaluation)
    (artifact / "ingot.json").write_bytes(seal(value))


def content_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip
