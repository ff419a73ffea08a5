"""A small registry: two releases of one base, and a merge upon one of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from ingot.registry.entry import Entry
from ingot.registry.resolve import find
from ingot.registry.store import Registry
from tests.registry.shelf import release
from tests.toy import make_adapter, make_base


@dataclass(frozen=True)
class Library:
    """`root`: base/, lora-1/, lora-2/. `registry`: support-v1 and -v2 of them, and upon-v3: lora-1 on support-v2."""

    root: Path
    registry: Registry

    def entry(self, ref: str) -> Entry:
        return find(self.registry, ref)

    def folder(self, name: str) -> Path:
        return self.registry.layout.artifacts / name

    def free(self, ref: str) -> Entry:
        with self.registry.changing():
            self.registry.free(self.entry(ref))
        return self.entry(ref)


@pytest.fixture(scope="session")
def made_library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Made once; not to be changed."""
    root = tmp_path_factory.mktemp("library")
    make_base(root / "base")
    make_adapter(root / "lora-1", seed=1)
    make_adapter(root / "lora-2", seed=2, rank=2)
    registry = Registry.open(root / "registry", create=True)
    for number in ("1", "2"):
        release(registry, root / "base", root / f"lora-{number}", number)
    release(registry, registry.layout.artifacts / "support-v2", root / "lora-1", "3", title="upon")
    return Library(root, registry)


@pytest.fixture
def library(made_library: Library, tmp_path: Path) -> Library:
    """A copy, to be changed; its inputs are shared."""
    shutil.copytree(made_library.registry.layout.root, tmp_path / "registry")
    return Library(made_library.root, Registry.open(tmp_path / "registry"))
